"""Rows of a split of a training window, as a task makes them from the window's records."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from dl_pipelines.brief.sections import Data
from dl_pipelines.data.stages import stored_stage
from dl_pipelines.store.artifacts import Artifact, ArtifactError
from dl_pipelines.store.records import read_records
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.tasks.base import Rows, SplitName, Task

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

KEPT_BYTES = 100_000_000
"""The records of the last window stay in memory when they are no more: stages of one run read the same ones."""

_last: dict[tuple[str, bool], pa.Table] = {}


def window_table(workspace: Workspace, window: Artifact, task: Task, copies: bool = False) -> pa.Table:
    """Every record of a window, in the order of days and arrival; `copies` adds stored variants of train records.

    Raises ArtifactError when a dataset of the window is gone, damaged or not what the window was made from.
    """
    import pyarrow as pa

    copies = copies and "augmented_dataset" not in task.not_applicable
    if (window.digest, copies) in _last:
        return _last[window.digest, copies]
    parts = []
    for artifact in window_datasets(workspace, window, task):
        table = read_records(artifact)
        if not copies and "copy" in table.column_names:
            table = table.filter(pa.array(table["copy"].to_numpy() == 0))
        parts.append(table)
    found = pa.concat_tables(parts).combine_chunks()
    _last.clear()
    if found.nbytes <= KEPT_BYTES:
        _last[window.digest, copies] = found
    return found


def window_datasets(workspace: Workspace, window: Artifact, task: Task) -> list[Artifact]:
    """The datasets of a window by its days, at least one. Raises ArtifactError, see window_table."""
    found = []
    for entry in window.read_json("window.json")["days"]:
        artifact = workspace.by_digest(stored_stage(task), entry["digest"])
        if artifact.digest != entry["digest"]:
            raise ArtifactError(
                f"found another dataset than the window {window.short} was made from; run training_window again"
            )
        found.append(artifact)
    if not found:
        raise ArtifactError(f"found no days in the window {window.short}; expected at least one; run the data stages")
    return found


def splits_of(window: Artifact, table: pa.Table, data: Data, task: Task) -> np.ndarray:
    """The split of each record [N] of a window's table, as of the window's day."""
    return task.split(table, date.fromisoformat(window.read_json("window.json")["as_of"]), data.split)


def window_rows(
    workspace: Workspace, window: Artifact, split: SplitName, data: Data, task: Task, copies: bool = False
) -> Rows:
    """Rows about the records of a split; `copies` is for training. See window_table, Task.rows."""
    table = window_table(workspace, window, task, copies)
    return task.rows(table, splits_of(window, table, data, task) == split, training=copies)
