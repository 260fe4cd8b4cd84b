"""Files of labels: CSV, JSON lines or Parquet with `request_id` and `label`. Each label is held to the task."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dl_pipelines.serving.labels import LabelError, fitting_label, require_plain
from dl_pipelines.tasks.base import Task

ID, LABEL = "request_id", "label"


def read_labels_file(path: Path, task: Task) -> list[tuple[str, Any]]:
    """Pairs of a request id and a label, in the file's order.

    In a CSV a label is the name of a class, else what JSON reads of its cell (7, [1.5, null]). Where classes have other
    classes' positions for names (1, 2, 3), a cell is a name and nothing else. Raises LabelError naming the file and the
    line of the first one that can't be used.
    """
    classes = task.signature().labels
    readers = {".csv": _csv, ".jsonl": _lines, ".ndjson": _lines, ".json": _lines, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise LabelError(f"found {path}; expected a file whose name ends in {', '.join(readers)}")
    found: list[tuple[str, Any]] = []
    try:
        for place, name, label in reader(path):
            try:
                fits = fitting_label(task, _cell(label, classes) if reader is _csv else label)
                require_plain(name, fits)
            except LabelError as error:
                raise LabelError(f"{path}, {place}: {error}") from error
            found.append((name, fits))
    except LabelError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise LabelError(f"found {path}: {error}; expected columns {ID} and {LABEL}") from error
    return found


def _csv(path: Path) -> Iterator[tuple[str, Any, Any]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        _require(path, reader.fieldnames or [])
        for row in reader:
            yield f"line {reader.line_num}", row[ID], row[LABEL]


def _cell(text: str | None, classes: Sequence[str]) -> Any:
    """A label of a CSV, which can't tell a number from a text."""
    if text in classes:
        return text
    try:
        label = json.loads(text or "null")
    except (ValueError, RecursionError):
        return text
    places = [str(place) for place in range(len(classes))]
    if isinstance(label, int) and any(place in classes and classes.index(place) != int(place) for place in places):
        raise LabelError(
            f"found the label {label}; expected a class's name, one of {', '.join(classes[:9])}: numbers are names "
            "here, and a position can't be told from them; give positions in JSON lines (there 1 is a "
            'position, "1" a name)'
        )
    return label


def _lines(path: Path) -> Iterator[tuple[str, Any, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise LabelError(f"{path}, line {number}: found no JSON ({error}); expected one object") from error
                _require(f"{path}, line {number}", row if isinstance(row, dict) else [])
                yield f"line {number}", row[ID], row[LABEL]


def _parquet(path: Path) -> Iterator[tuple[str, Any, Any]]:
    import pyarrow.parquet as pq

    _require(path, pq.read_schema(path).names)
    for number, row in enumerate(pq.read_table(path, columns=[ID, LABEL]).to_pylist(), 1):
        yield f"row {number}", row[ID], row[LABEL]


def _require(where: Path | str, names: Any) -> None:
    if missing := [name for name in (ID, LABEL) if name not in names]:
        raise LabelError(f"{where}: found no {' and no '.join(missing)}; expected {ID} and {LABEL}")
