"""What can drift: numbers of the inputs and of the answers, of live rows and of the reference they are compared with.

Inputs are compared by what the router logs of them, with the original rows of the train split. Answers are compared
with those on validation rows: a model is surer of the rows that it was trained on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dl_pipelines.brief.sections import Data
from dl_pipelines.monitoring.thresholds import JENSEN_SHANNON, WASSERSTEIN, Sample
from dl_pipelines.serving.prediction_log import SUMMARY
from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.tasks.base import Task

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


def reference(
    workspace: Workspace, window: Artifact, compressed: Artifact, data: Data, task: Task
) -> tuple[Sample, Sample]:
    """Summaries of the original train rows of a window, and answers of the compressed model on its validation rows.

    Raises ArtifactError when a dataset or the model's outputs are gone or damaged.
    """
    import numpy as np

    from dl_pipelines.data.batches import window_rows
    from dl_pipelines.wire.summaries import BATCHES

    rows = window_rows(workspace, window, "train", data, task)
    outputs = np.load(compressed.verify().file("outputs_validation.npy"), allow_pickle=False)
    return _sample(BATCHES[task.signature().summary](rows.inputs)), _sample(task.answer_features(outputs))


def live(rows: pa.Table, task: Task) -> dict[str, np.ndarray]:
    """The same of rows of a prediction log, each [N] by name; NaN where the router logged none."""
    import numpy as np

    found = {
        name.removeprefix(SUMMARY): rows[name].to_numpy(zero_copy_only=False).astype(np.float64)
        for name in rows.column_names
        if name.startswith(SUMMARY)
    }
    outputs = np.array(rows["outputs"].to_pylist(), np.float64).reshape(-1, *task.signature().outputs[0].shape)
    return {**found, **task.answer_features(outputs)}


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


def _sample(values: dict[str, np.ndarray]) -> Sample:
    import numpy as np

    numeric = {name: np.issubdtype(column.dtype, np.number) for name, column in values.items()}
    return Sample(values, {name: WASSERSTEIN if numeric[name] else JENSEN_SHANNON for name in values})
