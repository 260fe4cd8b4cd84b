"""Rows of a split of a training window, and the statistics that a model normalises its inputs by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dl_pipelines.brief.sections import Data
from dl_pipelines.store.artifacts import Artifact, ArtifactError
from dl_pipelines.store.records import read_records
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.tasks.base import Rows, SplitName, Task

if TYPE_CHECKING:
    import pyarrow as pa


def window_table(
    workspace: Workspace, window: Artifact, split: SplitName, data: Data, task: Task, copies: bool = False
) -> pa.Table:
    """Records of a split, in the order of days and of arrival; `copies` adds the stored variants of train records.

    Raises ArtifactError when a dataset of the window is gone, damaged or not what the window was made from.
    """
    import pyarrow as pa

    content = window.read_json("window.json")
    parts = []
    for entry in content["days"]:
        artifact = workspace.by_digest("augmented_dataset", entry["digest"])
        if artifact.digest != entry["digest"]:
            raise ArtifactError(
                f"found another dataset than the window {window.short} was made from; run training_window again"
            )
        table = read_records(artifact)
        wanted = task.split(table, _as_of(content), data.split) == split
        if not copies:
            wanted &= table["copy"].to_numpy() == 0
        parts.append(table.filter(pa.array(wanted)))
    if not parts:
        raise ArtifactError(f"found no days in the window {window.short}; expected at least one; run the data stages")
    return pa.concat_tables(parts).combine_chunks()


def window_rows(
    workspace: Workspace, window: Artifact, split: SplitName, data: Data, task: Task, copies: bool = False
) -> Rows:
    """The same as arrays; see window_table."""
    return task.rows(window_table(workspace, window, split, data, task, copies))


def normalisation(rows: Rows) -> dict[str, list[float]]:
    """Mean and standard deviation a channel of the inputs uint8 [N, H, W, C] scaled to 0..1; train originals only."""
    import numpy as np

    scaled = rows.inputs.reshape(-1, rows.inputs.shape[-1]).astype(np.float64) / 255
    std = np.maximum(scaled.std(axis=0), 1e-3)
    return {
        "mean": [round(float(value), 8) for value in scaled.mean(axis=0)],
        "std": [round(float(value), 8) for value in std],
    }


def _as_of(content: dict[str, str]):
    from datetime import date

    return date.fromisoformat(content["as_of"])
