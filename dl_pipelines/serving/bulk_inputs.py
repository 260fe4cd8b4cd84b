"""What a bulk prediction reads: files, folders, lists of files (a column `path`), arrays; in order, one by one."""

from __future__ import annotations

import bisect
import csv
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dl_pipelines.serving.client import PredictError, check_inputs
from dl_pipelines.store.digest import digest_json
from dl_pipelines.tasks.base import Task

if TYPE_CHECKING:
    import numpy as np

PATH = "path"


class Source(Protocol):
    """A run of inputs."""

    def __len__(self) -> int: ...

    def name(self, number: int) -> str:
        """As a person knows it."""
        ...

    def read(self, number: int) -> np.ndarray:
        """One input, without batch dimension. Raises ValueError or OSError."""
        ...

    def identity(self) -> Any:
        """Plain data that differs when the inputs do: names, sizes and times of change."""
        ...


class Files:
    """A file each, which the task reads."""

    def __init__(self, task: Task, paths: Sequence[Path]):
        self._task, self._paths = task, paths

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, number: int) -> str:
        """See Source."""
        return str(self._paths[number])

    def read(self, number: int) -> np.ndarray:
        """See Source."""
        return self._task.read_input(str(self._paths[number]))

    def identity(self) -> Any:
        """See Source."""
        return [_identity(path) for path in self._paths]


class Rows:
    """The rows of an array in a file, which stays there until they are asked for."""

    def __init__(self, task: Task, path: Path):
        """Raises PredictError when it holds none of the task's inputs."""
        import numpy as np

        self._path = path
        try:
            self._rows = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise PredictError(f"found {path}: {error}; expected an array of numbers as numpy saves it") from error
        try:
            check_inputs(task, self._rows)
        except PredictError as error:
            raise PredictError(f"{path}: {error}") from error

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, number: int) -> str:
        """See Source."""
        return f"{self._path}[{number}]"

    def read(self, number: int) -> np.ndarray:
        """See Source."""
        return self._rows[number]

    def identity(self) -> Any:
        """See Source."""
        return _identity(self._path)


class Inputs:
    """All sources in a row: `len`, `name(n)`, `read(n)`, and the `digest` of the list."""

    def __init__(self, sources: Sequence[Source]):
        self._sources = [source for source in sources if len(source)]
        self._starts = [0, *itertools.accumulate(map(len, self._sources))]
        self.digest = digest_json([source.identity() for source in self._sources])

    def __len__(self) -> int:
        return self._starts[-1]

    def _at(self, number: int) -> tuple[Source, int]:
        place = bisect.bisect_right(self._starts, number) - 1
        return self._sources[place], number - self._starts[place]

    def name(self, number: int) -> str:
        """Of one input."""
        source, place = self._at(number)
        return source.name(place)

    def read(self, number: int) -> np.ndarray:
        """One input. Raises ValueError or OSError."""
        source, place = self._at(number)
        return source.read(place)


def find_inputs(task: Task, given: Sequence[str]) -> Inputs:
    """What the arguments name: a folder is every file below it, sorted, but no hidden one; else a file.

    A list (Parquet, CSV, JSON lines) names files in its column `path`, relative to its own folder; a `.npy` holds rows.
    Whatever else is read by the task, when its turn comes: a file that is missing or unreadable is found out then.
    Raises PredictError when there is nothing, and for a list or an array that can't be used.
    """
    found = Inputs(list(_sources(task, [Path(item) for item in given])))
    if not len(found):
        raise PredictError(f"found nothing to predict in {', '.join(given)}; expected files, folders, lists or arrays")
    return found


def _sources(task: Task, given: Sequence[Path]) -> Iterator[Source]:
    for path in given:
        if path.is_dir():
            yield Files(task, sorted(item for item in path.rglob("*") if item.is_file() and not _hidden(item, path)))
        elif path.suffix.lower() == ".npy":
            yield Rows(task, path)
        elif (names := _listed(path)) is not None:
            yield Files(task, [path.parent / name for name in names])
        else:
            yield Files(task, [path])


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _listed(path: Path) -> list[str] | None:
    """The column `path` of a list, None when the file is no list."""
    if not path.is_file():
        return None
    readers = {".parquet": _of_parquet, ".csv": _of_csv, ".jsonl": _of_lines, ".ndjson": _of_lines}
    try:
        reader = readers.get(path.suffix.lower())
        return reader(path) if reader else None
    except (OSError, ValueError, csv.Error) as error:
        raise PredictError(f"found {path}: {error}; expected a list of files with the column {PATH}") from error


def _of_parquet(path: Path) -> list[str]:
    import pyarrow.parquet as pq

    if PATH not in pq.read_schema(path).names:
        raise ValueError(f"no column {PATH}")
    names = pq.read_table(path, columns=[PATH])[PATH].to_pylist()
    return [_text(name, f"row {number}") for number, name in enumerate(names, 1)]


def _of_lines(path: Path) -> list[str]:
    """One JSON object a line; blank lines are passed over."""
    names = list[str]()
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"no JSON in line {number} ({error})") from error
            if not isinstance(row, dict) or PATH not in row:
                raise ValueError(f"no {PATH} in line {number}")
            names.append(_text(row[PATH], f"line {number}"))
    return names


def _text(name: Any, place: str) -> str:
    """What names a file: a number is no row of anything, and which file it would be called after can't be known."""
    if isinstance(name, str) and name:
        return name
    if isinstance(name, int | float) and not isinstance(name, bool):
        raise ValueError(
            f"the number {name} in {place} of the column {PATH}, where a text names a file (is it the number of a row? "
            f'To choose rows of an array, save those as a .npy; a file that is called {name} is the text "{name}")'
        )
    raise ValueError(f"{name!r} in {place} of the column {PATH}, where a text names a file")


def _of_csv(path: Path) -> list[str] | None:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if PATH not in (reader.fieldnames or []):
            return None  # a table that a task may read
        return [_text(row[PATH], f"row {number}") for number, row in enumerate(reader, 1)]


def _identity(path: Path) -> list[Any]:
    try:
        facts = path.stat()
    except OSError:
        return [str(path.absolute()), None, None]
    return [str(path.absolute()), facts.st_size, facts.st_mtime_ns]
