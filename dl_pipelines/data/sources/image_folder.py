"""A local folder with one folder a class, PNG or JPEG; the day of a file is its file time's, or a manifest's.

A file that can't be read is kept out with its reason, never a crash. Reading the manifest is in `manifest.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from pydantic import Field

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.data.sources.base import Quarantined, Source, SourceError, TimeZone, legible
from dl_pipelines.data.sources.manifest import Listed, inside, read_manifest
from dl_pipelines.tasks.base import Task

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

SUFFIXES = (".png", ".jpg", ".jpeg")
MAX_BYTES = 100_000_000
"""A larger file is kept out unread."""

Decode = Callable[[str], "tuple[np.ndarray, dict[str, Any]]"]


@dataclass(frozen=True)
class _Arrived:
    """A file, its class, the day it arrived, and when it was taken."""

    name: str
    label: str
    day: date
    event_time: datetime
    group: str
    problem: str | None = None


class ImageFolder(Source):
    """`path/CLASS/...`: a file's id is its path below `path`, which is also its group unless a manifest says other.

    The folder is looked at once: one object sees one state of it, also when files arrive meanwhile.
    """

    name = "image_folder"

    class Params(BaseParams):
        """Where the images are, and which day each is of."""

        path: Path = Field(description="a folder with one folder a class; relative to where the command is run")
        manifest: Path | None = Field(
            default=None,
            description="CSV below `path` with the columns file, date and, if wanted, class, event_time, group; "
            "without it a file's day is that of its file time",
        )
        timezone: TimeZone = Field(default="UTC", description="where a file time's day begins; as data.timezone")

    def __init__(self, params: Params):
        self.params = params
        self.root = params.path.expanduser()

    def days(self, start: date | None = None) -> list[date]:
        """See Source.days. Raises SourceError when the folder is missing or has no image."""
        return sorted({item.day for item in self._arrived if start is None or item.day >= start})

    def default_day(self) -> date:
        """The last day with files."""
        return self.days()[-1]

    def read_day(self, day: date, task: Task) -> tuple[pa.Table, list[Quarantined]]:
        """See Source.read_day; files in the order of their paths."""
        decode, labels = self._decoder(task), {name: place for place, name in enumerate(task.signature().labels)}
        if not any(item.label in labels for item in self._arrived):
            found = ", ".join(sorted({legible(item.label) for item in self._arrived})[:10])
            raise SourceError(
                f"found the classes {found} in {self.root}; expected some of {', '.join(labels)}; "
                "rename the folders, or list the classes in problem.task.params.classes"
            )
        records: list[dict[str, Any]] = []
        quarantined: list[Quarantined] = []
        for item in self._arrived:
            if item.day != day:
                continue
            try:
                records.append(self._record(item, labels, decode))
            except (ValueError, OSError) as error:
                quarantined.append(Quarantined(legible(item.name), _reason(error, self.root)))
        return _table(records, task), quarantined

    def overlooked(self) -> list[Quarantined]:
        """See Source.overlooked: files beside the class folders or not in the manifest, and its unusable lines."""
        return self._seen[1]

    def describe(self) -> dict[str, Any]:
        """See Source.describe."""
        when = "the manifest's date" if self.params.manifest else "the file time"
        return {
            "update_frequency": f"as files arrive; the day is {when}",
            "access": "local folder with one folder a class",
            "types": "PNG and JPEG images, one class each",
            "format": "Lance",
        }

    def _record(self, item: _Arrived, labels: dict[str, int], decode: Decode) -> dict[str, Any]:
        """One record as a row. Raises ValueError or OSError with the reason when it can't be used."""
        path = self.root / item.name
        if item.problem:
            raise ValueError(item.problem)
        if item.label not in labels:
            known = ", ".join(list(labels)[:10]) + (" ..." if len(labels) > 10 else "")
            raise ValueError(f"the class {item.label!r} is none of {known}")
        if not item.name.lower().endswith(SUFFIXES):
            raise ValueError(f"not named as a PNG or JPEG ({', '.join(SUFFIXES)})")
        if not path.is_file():
            raise ValueError("no such file in the folder")
        if not inside(self.root, path):
            raise ValueError("a link that leaves the folder")
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path.stat().st_size:,} bytes; at most {MAX_BYTES:,} are read")
        pixels, about = decode(str(path))
        return {"id": item.name, "date": item.day, "event_time": item.event_time, "group": item.group,
                "image": pixels.reshape(-1), "label": labels[item.label], "uri": item.name, **about}  # fmt: skip

    @property
    def _arrived(self) -> list[_Arrived]:
        return self._seen[0]

    @cached_property
    def _seen(self) -> tuple[list[_Arrived], list[Quarantined]]:
        """Every file that has a day, sorted by path, and what has none. Raises SourceError."""
        root, given = self.root, self.params.manifest
        if not root.is_dir():
            what = "a file" if root.exists() else "nothing"
            raise SourceError(
                f"found {what} at {root}; expected a folder with one folder a class; "
                "mend data.source.params.path, or run from the folder that it is relative to"
            )
        manifest = root / given if given else None
        names, overlooked = _look(root, manifest)
        if manifest:
            listed, wrong = read_manifest(manifest, root)
            known = {item.file for item in listed} | {item.uri for item in wrong}
            overlooked += [*wrong, *(Quarantined(legible(name), "not in the manifest") for name in names - known)]
            arrived = [self._of_manifest(item) for item in listed]
        else:
            arrived = []
            for name in names:
                if isinstance(found := self._of_file_time(name), _Arrived):
                    arrived.append(found)
                else:
                    overlooked.append(found)
        if not any(item.name.lower().endswith(SUFFIXES) for item in arrived):
            first = min(overlooked, key=lambda item: item.uri, default=None)
            also = f"; {len(overlooked)} others, the first: {first.uri}: {first.reason}" if first else ""
            raise SourceError(
                f"found no PNG or JPEG {'listed in ' + str(manifest) if manifest else 'below ' + str(root)}{also}; "
                f"expected {root}/CLASS/FILE.png; put images there, or mend data.source.params.path"
            )
        return sorted(arrived, key=lambda item: item.name), sorted(overlooked, key=lambda item: item.uri)

    def _of_file_time(self, name: str) -> _Arrived | Quarantined:
        if "/" not in name:
            return Quarantined(legible(name), "not in a class folder")
        try:
            changed = datetime.fromtimestamp((self.root / name).stat().st_mtime, UTC)
            day = changed.astimezone(ZoneInfo(self.params.timezone)).date()
        except (OSError, ValueError, OverflowError) as error:
            return Quarantined(legible(name), f"no usable file time: {_reason(error, self.root)}")
        problem = None if legible(name) == name else "a file name that is not UTF-8"
        return _Arrived(name, name.split("/")[0], day, changed, name, problem)

    def _of_manifest(self, item: Listed) -> _Arrived:
        label = item.label or item.file.split("/")[0]
        return _Arrived(item.file, label, item.day, item.event_time, item.group or item.file, item.problem)

    def _decoder(self, task: Task) -> Decode:
        decode = getattr(task, "decode", None)
        if decode is None:
            raise SourceError(
                f"found the task {task.name}, which reads no image files; expected image_classification for "
                "image_folder; change problem.task or data.source"
            )
        return decode


def _look(root: Path, manifest: Path | None) -> tuple[set[str], list[Quarantined]]:
    """Names of the files below `root` but hidden ones and the manifest; links that lead to no file, with the reason."""
    names, overlooked = set(), []
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if any(part[0] == "." for part in name.split("/")) or path == manifest:
            continue
        if path.is_file():
            names.add(name)
        elif path.is_symlink():
            what = "a link to a folder, which is not followed" if path.is_dir() else "a link to nothing"
            overlooked.append(Quarantined(legible(name), what))
    return names, overlooked


def _reason(error: Exception, root: Path) -> str:
    """What the error says, the same on every machine: without the folder of this one."""
    return str(error).replace(f"{root}/", "")


def _table(records: list[dict[str, Any]], task: Task) -> pa.Table:
    """Rows as a table of the task's schema."""
    import numpy as np
    import pyarrow as pa

    schema = task.arrow_schema()
    columns = []
    for field in schema:
        values = [record[field.name] for record in records]
        if pa.types.is_fixed_size_list(field.type):
            flat = np.concatenate(values) if values else np.zeros(0, np.uint8)
            columns.append(pa.FixedSizeListArray.from_arrays(pa.array(flat), field.type.list_size))
        else:
            columns.append(pa.array(values, field.type))
    return pa.table(columns, schema=schema)
