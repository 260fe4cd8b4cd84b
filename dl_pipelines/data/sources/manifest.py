"""The manifest of an image folder: a CSV that says for each file which day it arrived, its class, when it was taken.

Wrong lines are returned with their reason; only a file that is no such CSV at all raises.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path

from dl_pipelines.data.sources.base import Quarantined, SourceError

REQUIRED = ("file", "date")
OPTIONAL = ("class", "event_time", "group")


@dataclass(frozen=True)
class Listed:
    """One line: a file, the day it arrived; `problem` says why it is to be kept out of that day."""

    file: str
    day: date
    event_time: datetime
    label: str | None = None
    group: str | None = None
    problem: str | None = None


def read_manifest(path: Path, root: Path) -> tuple[list[Listed], list[Quarantined]]:
    """Lines with a day, and those without one with the reason. Raises SourceError when it is no such CSV."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = [name.strip() for name in reader.fieldnames or []]
            lines = [(reader.line_num, dict(zip(header, row.values(), strict=False))) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SourceError(
            f"found no readable manifest at {path} ({reason}); expected a UTF-8 CSV with the columns "
            f"{', '.join(REQUIRED)}; mend data.source.params.manifest"
        ) from error
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        raise SourceError(
            f"found the columns {', '.join(header) or 'none'} in {path}; expected {', '.join(REQUIRED)} and, if "
            f"wanted, {', '.join(OPTIONAL)}; add {', '.join(missing)}"
        )
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise SourceError(f"found the column {twice[0]} twice in {path}; expected each once; remove or rename one")
    listed, without_day, seen = [], [], set()
    for number, line in lines:
        item = _line(line, root, number, seen)
        if isinstance(item, Listed):
            seen.add(item.file)
            listed.append(item)
        else:
            without_day.append(item)
    return listed, without_day


def inside(root: Path, path: Path) -> bool:
    """Whether a path, its links followed, is below `root`."""
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError):  # a name that is too long, a link to itself, a NUL in it
        return False


def _line(line: Mapping[str, str | None], root: Path, number: int, seen: set[str]) -> Listed | Quarantined:
    value = {name: (line.get(name) or "").strip() for name in (*REQUIRED, *OPTIONAL)}
    file = Path(value["file"]).as_posix() if value["file"] else ""
    here = f"line {number} of the manifest: "
    if not file:
        return Quarantined(f"line {number}", here + "no file")
    if file in seen:
        return Quarantined(file, here + "the file a second time")
    try:
        day = date.fromisoformat(value["date"])
    except ValueError:
        return Quarantined(file, here + f"found the date {value['date']!r}; expected YYYY-MM-DD")
    problem, taken = None, datetime.combine(day, time(12), tzinfo=UTC)
    if value["event_time"]:
        try:
            taken = datetime.fromisoformat(value["event_time"])
            taken = taken.replace(tzinfo=UTC) if taken.tzinfo is None else taken.astimezone(UTC)
        except (ValueError, OverflowError):
            problem = here + f"found the event_time {value['event_time']!r}; expected ISO 8601"
    if Path(file).is_absolute() or not inside(root, root / file):
        problem = here + "a file outside the folder"
    return Listed(file, day, taken, value["class"] or None, value["group"] or None, problem)
