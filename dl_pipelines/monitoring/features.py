"""What can drift: numbers of the inputs, the answers and the residuals, of live rows and of their reference.

Inputs are compared by what the router logs of them, with the original rows of the train split. Answers and residuals
(where a task has any, once labels have come) are compared with those on validation rows: a model is surer of the rows
that it was trained on. A series' train rows span every season there was: a week is compared with all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dl_pipelines.brief.sections import Data
from dl_pipelines.monitoring.clusters import LEAST, count_like
from dl_pipelines.monitoring.thresholds import JENSEN_SHANNON, WASSERSTEIN, Sample, Size
from dl_pipelines.serving.prediction_log import SUMMARY
from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.tasks.base import Task
from dl_pipelines.wire.summaries import BATCHES, CLUSTER

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

INPUTS, ANSWERS, RESIDUALS = "inputs", "answers", "residuals"
Samples = Mapping[str, Sample]
"""By INPUTS, ANSWERS and, for a task that has them, RESIDUALS; no two have a feature of the same name."""


def reference(workspace: Workspace, window: Artifact, compressed: Artifact, data: Data, task: Task) -> Samples:
    """Summaries of the original train rows of a window; answers and residuals on its validation rows, as it serves.

    Raises ArtifactError when a dataset or the model's outputs are gone or damaged.
    """
    import numpy as np

    from dl_pipelines.data.batches import window_rows

    inputs = window_rows(workspace, window, "train", data, task).inputs
    targets = window_rows(workspace, window, "validation", data, task).targets
    outputs = np.load(compressed.verify().file("outputs_validation.npy"), allow_pickle=False)
    summaries = dict(BATCHES[task.signature().summary](inputs))
    origins, groups = summaries.pop(CLUSTER, None), task.clusters(targets)
    found = {
        INPUTS: _sample(summaries, origins),
        ANSWERS: _sample(task.answer_features(outputs), groups),
    }
    if residuals := task.residuals(outputs, targets):
        found[RESIDUALS] = _finite(residuals, groups)
    return found


def live(rows: pa.Table, task: Task) -> Samples:
    """The same of rows of a prediction log; NaN where the router logged none. Residuals are of rows with a label."""
    import numpy as np

    found = {
        name.removeprefix(SUMMARY): rows[name].to_numpy(zero_copy_only=False).astype(np.float64)
        for name in rows.column_names
        if name.startswith(SUMMARY)
    }
    # What does not tell where it belongs belongs together: a wider threshold, not a narrower one.
    groups = np.nan_to_num(found.pop(CLUSTER)) if CLUSTER in found else None
    outputs = np.array(rows["outputs"].to_pylist(), np.float64).reshape(-1, *task.signature().outputs[0].shape)
    samples = {INPUTS: _sample(found, groups), ANSWERS: _sample(task.answer_features(outputs), groups)}
    labels = rows["label"].to_pylist() if "label" in rows.column_names else [None] * len(outputs)
    known = np.array([label is not None for label in labels], bool)
    targets = task.targets_of([label for label in labels if label is not None])
    if residuals := task.residuals(outputs[known], targets):
        samples[RESIDUALS] = _finite(residuals, None if groups is None else groups[known])
    return samples


def size_of(reference: Sample, live: Sample) -> Size:
    """Of a live window as thresholds ask for it."""
    if reference.clusters is None:
        return Size(live.rows)
    return Size(live.rows, 1 if live.clusters is None else count_like(reference.clusters, live.clusters))


def too_few(reference: Sample, live: Sample, least: int) -> str | None:
    """Why no feature of a sample can be compared, or None."""
    import numpy as np

    if not reference.rows:
        return "the reference has no values"
    if live.values and live.rows < least:
        return f"{live.rows} live values; at least {least} are needed"
    groups = None if reference.clusters is None else len(np.unique(reference.clusters))
    if groups is not None and groups < LEAST:
        return f"{groups} clusters of rows in the reference; at least {LEAST} are needed"
    return None


def why_not(reference: np.ndarray, live: np.ndarray | None) -> str | None:
    """Why a feature can't be compared, or None."""
    import numpy as np

    if live is None:
        return "the log does not have it"
    if (reference == reference[0]).all():
        other = int((live != reference[0]).sum())
        return f"always {reference[0]} in the reference; {other} of {len(live)} live values differ"
    if np.issubdtype(live.dtype, np.number) and (bad := int((~np.isfinite(live)).sum())):
        return f"{bad} of {len(live)} live values are missing or not finite"
    return None


def _sample(values: Mapping[str, np.ndarray], clusters: np.ndarray | None = None) -> Sample:
    import numpy as np

    numeric = {name: np.issubdtype(column.dtype, np.number) for name, column in values.items()}
    statistics = {name: WASSERSTEIN if numeric[name] else JENSEN_SHANNON for name in values}
    return Sample(values, statistics, clusters)


def _finite(values: Mapping[str, np.ndarray], clusters: np.ndarray | None) -> Sample:
    """Of the rows where every number is there: what came to pass may be missing."""
    import numpy as np

    there = np.logical_and.reduce([np.isfinite(column) for column in values.values()])
    kept = {name: column[there] for name, column in values.items()}
    return _sample(kept, None if clusters is None else clusters[there])
