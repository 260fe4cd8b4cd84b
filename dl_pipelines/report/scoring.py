"""What the report has to work out itself: answers of the compressed model to the test rows, metrics of live windows.

Both are written into the report's own artifact, so that cells can cite them.
"""

from __future__ import annotations

from typing import Any

from dl_pipelines.brief import Brief
from dl_pipelines.report.collect import Collected
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Task


def signature(task: Task) -> dict[str, Any]:
    """Ends of the served model, its labels, and the range of an input value, as plain data."""
    given = task.signature()
    values = next(field for field in task.fields() if field.role in ("input", "target"))

    def plain(tensor: Any) -> dict[str, Any]:
        return {"name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)}

    return {
        "input": plain(given.inputs[0]), "inputs": [plain(item) for item in given.inputs],
        "output": plain(given.outputs[0]), "outputs": [plain(item) for item in given.outputs],
        "labels": list(given.labels), "range": [values.low, values.high],
    }  # fmt: skip


def described(task: Task, collected: Collected) -> dict[str, Any]:
    """The task in its own words: `told` of itself, `fitted` of what the model knows of its train records."""
    trained = collected.artifacts.get("trained_model")
    fitted = task.described(trained.read_json("model.json")["statistics"]) if trained else {}
    return {"told": task.told(), "fitted": fitted}


def compressed_on_test(
    workspace: Workspace, partition: Partition, brief: Brief, task: Task, collected: Collected
) -> dict[str, Any] | None:
    """Metrics and slices of the compressed model on the test rows; None when no target asks for them.

    The look at the test rows is recorded.
    """
    asked = any(target.where == "compressed" and target.metric in task.metrics for target in brief.problem.targets)
    compressed, window = collected.artifacts.get("compressed_model"), collected.artifacts.get("training_window")
    if not asked or compressed is None or window is None:
        return None
    from dl_pipelines.data.batches import window_rows
    from dl_pipelines.evaluation.metrics import with_intervals
    from dl_pipelines.evaluation.slices import slice_table
    from dl_pipelines.evaluation.test_reads import record_test_read
    from dl_pipelines.inference.answers import compressed_answers

    rows = window_rows(workspace, window, "test", brief.data, task)
    record_test_read(workspace, "verdict", partition, len(rows))
    outputs = compressed_answers(compressed, rows.inputs, brief.serving.threads)
    given = brief.evaluation.resamples, brief.evaluation.confidence, brief.evaluation.seed
    return {
        "rows": len(rows),
        "metrics": with_intervals(task, outputs, rows.targets, *given),
        "slices": slice_table(task, outputs, rows, *given),
    }


def production(brief: Brief, task: Task, collected: Collected) -> dict[str, Any]:
    """Metrics of the live windows whose labels have come: `windows` (name, records, labelled, metrics), `reason`."""
    log = collected.artifacts.get("prediction_log")
    if log is None:
        reason = collected.missing.get("prediction_log", "not measured: no prediction log").split(": ", 1)[-1]
        return {"windows": [], "reason": reason}
    from dl_pipelines.store.records import read_records

    table = read_records(log, columns=["outputs", "label", "window"])
    windows = [_window(brief, task, table, name) for name in dict.fromkeys(table["window"].to_pylist())]
    if not windows:
        return {"windows": [], "reason": log.measured.get("reason", "nobody has asked the model yet")}
    labelled = sum(window["labelled"] for window in windows)
    return {"windows": windows, "reason": None if labelled else "no label of a live row has come yet"}


def _window(brief: Brief, task: Task, table: Any, name: str) -> dict[str, Any]:
    import numpy as np
    import pyarrow.compute as pc

    from dl_pipelines.evaluation.metrics import with_intervals

    rows = table.filter(pc.field("window") == name)
    known = rows.filter(pc.field("label").is_valid() & pc.field("outputs").is_valid())  # kept by the log's sample
    found: dict[str, Any] = {"name": name, "records": rows.num_rows, "labelled": known.num_rows, "metrics": {}}
    if known.num_rows:
        outputs = np.array(known["outputs"].to_pylist(), np.float64).reshape(-1, *task.signature().outputs[0].shape)
        targets = task.targets_of(known["label"].to_pylist())
        given = brief.evaluation.resamples, brief.evaluation.confidence, brief.evaluation.seed
        found["metrics"] = with_intervals(task, outputs, targets, *given)
    return found
