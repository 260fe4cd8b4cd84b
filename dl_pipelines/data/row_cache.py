"""Rows of a window, decoded once and mapped into memory by whatever trains on them; never the only copy of anything.

`cache/PROJECT/rows/KEY/` in the home: `train_inputs.npy`, `train_targets.npy`, `train_ids.npy`, the same of validation,
and `rows.json`, written last. Which records there are is decided elsewhere (data/window.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from dl_pipelines.brief.sections import Data
from dl_pipelines.data.batches import splits_of, window_datasets, window_table
from dl_pipelines.store import durable, garbage
from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.store.digest import SHORT, digest_json
from dl_pipelines.store.records import read_pieces, read_records
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.tasks.base import Rows, SplitName, Task

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Piece = tuple[pa.Table, np.ndarray]

ABOUT = "rows.json"
PIECE_BYTES = 16_000_000
"""Of the records that are decoded at once, where each makes a row by itself."""
SPLITS: tuple[SplitName, SplitName] = ("train", "validation")
VERSION = 1
"""Raised when the same settings make other rows or statistics."""


def cached_rows(
    workspace: Workspace, window: Artifact, data: Data, task: Task, max_rows: int | None = None, seed: int = 0
) -> Path:
    """The folder with the train rows of a window (stored copies among them) and its validation rows.

    With `max_rows` no more train rows than that, drawn by the seed, in their order. Written when there is none yet, for
    all that ask for the same. Raises ArtifactError (see batches.window_table), or OSError (no space).
    """
    from filelock import FileLock

    settings = {
        "window": window.digest, "task": task.name, "params": task.params.model_dump(mode="json"),  # type: ignore[attr-defined]
        "split": data.split.model_dump(mode="json"), "max_rows": max_rows, "seed": 0 if max_rows is None else seed,
        "version": VERSION,
    }  # fmt: skip
    key = digest_json(settings)[:SHORT]
    folder = _home(workspace) / key
    workspace.home.locks.mkdir(parents=True, exist_ok=True)
    with FileLock(workspace.lock("rows", key)):
        if not _whole(folder):
            durable.remove_tree(folder)
            _write(folder, settings, workspace, window, data, task)
        os.utime(folder / ABOUT)  # when it was last used
    return folder


def statistics_of(folder: Path) -> dict[str, Any]:
    """What the task fitted to the train records behind these rows (all of the window, copies apart). See Task.fit."""
    return durable.read_json(folder / ABOUT)["statistics"]


def count_of(folder: Path, split: SplitName) -> int:
    """How many rows of a split there are."""
    return durable.read_json(folder / ABOUT)["counts"][split]


def unused_rows(workspace: Workspace, windows: Set[str]) -> list[Path]:
    """Folders that can go, the one unused for the longest first; none while anything of the project is being made.

    Rows of none of these windows (digests), rows that nobody asked for in a week, and what a crash left.
    """
    if garbage.busy(workspace):
        return []
    found, now = [], time.time()
    for folder in _home(workspace).glob("*"):
        whole = _whole(folder)
        used = ((folder / ABOUT) if whole else folder).stat().st_mtime
        needed = not whole or durable.read_json(folder / ABOUT)["settings"]["window"] in windows
        if not needed or now - used > (garbage.WORK_AGE if whole else garbage.DRAFT_AGE):
            found.append((used, folder))
    return [folder for _, folder in sorted(found)]


def _home(workspace: Workspace) -> Path:
    return workspace.home.cache / workspace.project / "rows"


def _whole(folder: Path) -> bool:
    """Whether every file is there as it was written, by its size."""
    try:
        sizes = durable.read_json(folder / ABOUT)["bytes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write(
    folder: Path, settings: dict[str, Any], workspace: Workspace, window: Artifact, data: Data, task: Task
) -> None:  # fmt: skip
    draft = folder.with_name(f".draft-{folder.name}")
    durable.remove_tree(draft)  # of a run that was ended; nobody else writes it, by the lock
    draft.mkdir(parents=True)
    try:
        files: dict[SplitName, _Files] = {split: _Files(draft, split) for split in SPLITS}
        drawn = _Drawn(settings["max_rows"], settings["seed"])
        pieces = _pieces(workspace, window, data, task, drawn)
        statistics = task.fit_pieces(_written(pieces, files, drawn, task))
        counts = {split: item.close() for split, item in files.items()}
        sizes = {path.name: path.stat().st_size for path in sorted(draft.glob("*.npy"))}
        about = {"settings": settings, "counts": counts, "statistics": statistics, "bytes": sizes}
        durable.put_json(draft / ABOUT, about)
        durable.flush_tree(draft)
        durable.rename(draft, folder)
    except BaseException:
        durable.remove_tree(draft)
        raise


def _written(pieces: Iterator[Piece], files: dict[SplitName, _Files], drawn: _Drawn, task: Task) -> Iterator[Piece]:
    """Write the rows of each piece as it passes; what passes are its original records, and which of them train."""
    import pyarrow as pa

    for table, splits in pieces:
        files["train"].add(drawn.take(task.rows(table, splits == "train", training=True)))
        if "copy" in table.column_names:
            original = table["copy"].to_numpy() == 0
            table, splits = table.filter(pa.array(original)), splits[original]
        files["validation"].add(task.rows(table, splits == "validation"))
        yield table, splits == "train"


def _pieces(workspace: Workspace, window: Artifact, data: Data, task: Task, drawn: _Drawn) -> Iterator[Piece]:
    """The records of a window in order with the split of each: in one piece unless each makes a row by itself."""
    import numpy as np
    import pyarrow as pa

    if not task.row_by_row:
        table = window_table(workspace, window, task, copies=True)
        yield table, splits_of(window, table, data, task)
        return
    datasets = window_datasets(workspace, window, task)
    judged = pa.concat_tables([read_records(dataset, columns=list(task.judged)) for dataset in datasets])
    splits = splits_of(window, judged.combine_chunks(), data, task)
    drawn.total, start = int(np.count_nonzero(splits == "train")), 0
    for dataset in datasets:
        for table in read_pieces(dataset, PIECE_BYTES):
            yield table, splits[start : start + table.num_rows]
            start += table.num_rows


class _Drawn:
    """Which of the train rows are used; `total` is their number over all pieces, where there is more than one."""

    def __init__(self, most: int | None, seed: int):
        self.most, self.seed = most, seed
        self.total: int | None = None
        self._kept: np.ndarray | None = None
        self._seen = 0

    def take(self, rows: Rows) -> Rows:
        """Those of the next piece."""
        import numpy as np

        total = len(rows) if self.total is None else self.total
        if self.most is None or self.most >= total:
            return rows
        if self._kept is None:
            self._kept = np.zeros(total, bool)
            self._kept[np.random.default_rng(self.seed).choice(total, self.most, replace=False)] = True
        self._seen += len(rows)
        return rows.take(self._kept[self._seen - len(rows) : self._seen])


class _Files:
    """The three files of a split, written piece by piece: the same bytes as np.save of the whole."""

    def __init__(self, folder: Path, split: SplitName):
        self._folder, self._split = folder, split
        self._columns = {name: _Column(folder / f"{split}_{name}.npy") for name in ("inputs", "targets")}
        self._ids: list[np.ndarray] = []

    def add(self, rows: Rows) -> None:
        self._columns["inputs"].add(rows.inputs)
        self._columns["targets"].add(rows.targets)
        self._ids.append(rows.ids.astype(str))

    def close(self) -> int:
        """The number of rows."""
        import numpy as np

        ids = np.concatenate(self._ids)
        np.save(self._folder / f"{self._split}_ids.npy", ids, allow_pickle=False)
        for column in self._columns.values():
            column.close()
        return len(ids)


class _Column:
    """An array of numbers that grows in its `.npy` file; numpy leaves room in the header for any number of rows."""

    def __init__(self, path: Path):
        self._path, self._count = path, 0
        self._of: tuple[np.dtype[Any], tuple[int, ...]] | None = None

    def add(self, part: np.ndarray) -> None:
        import numpy as np

        with self._path.open("ab") as file:
            if self._of is None:
                self._of = part.dtype, part.shape[1:]
                self._header(file)
            assert self._of == (part.dtype, part.shape[1:]), "pieces of one array have one kind of rows"
            # Not part.tofile: it does not tell a full disk from other trouble.
            file.write(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
        self._count += len(part)

    def close(self) -> None:
        with self._path.open("r+b") as file:
            self._header(file)

    def _header(self, file: BinaryIO) -> None:
        from numpy.lib import format as npy

        assert self._of is not None, "a window has at least one day"
        dtype, shape = self._of
        described = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": (self._count, *shape)}
        npy.write_array_header_1_0(file, described)
