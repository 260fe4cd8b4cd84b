"""`evaluation`: metrics with intervals on train, validation and test rows, slices, calibration, against baselines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dl_pipelines.brief.sections import Data, Evaluation
from dl_pipelines.data.batches import window_rows
from dl_pipelines.data.registry import SOURCES
from dl_pipelines.evaluation.against import compare, gates
from dl_pipelines.evaluation.baselines import load_outputs
from dl_pipelines.evaluation.metrics import Estimate, with_intervals
from dl_pipelines.evaluation.pictures import shown
from dl_pipelines.evaluation.slices import slice_table
from dl_pipelines.evaluation.test_reads import count_test_reads, record_test_read
from dl_pipelines.models.restore import load_served
from dl_pipelines.store.artifacts import Artifact, Draft, Gate
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import SPLITS, Rows, Task

if TYPE_CHECKING:
    import numpy as np
    import torch

STAGE = "evaluation"
BATCH = 256


def make_evaluation(
    workspace: Workspace, partition: Partition, evaluation: Evaluation, data: Data, task: Task
) -> Artifact:
    """`metrics.json`, `rows.json`, `calibration.json`, `details.json`, `slices.json`, `outputs_validation.npy`.

    Beside them `confusion.json` of a task with labels, `against.json` of one with baselines (see against.compare). The
    look at the test rows is recorded. Raises ArtifactError when the model, the window or the baselines have no
    passing report.
    """
    window = workspace.get("training_window", partition.daily).require_gates()
    trained = workspace.get("trained_model", partition).require_gates()
    parents = {"training_window": window, "trained_model": trained}
    if task.baselines:
        parents["baselines"] = workspace.get("baselines", partition).require_gates()

    def build(draft: Draft) -> None:
        import numpy as np

        network, outputs, rows = load_served(trained, task), {}, {}
        for done, split in enumerate(SPLITS):
            workspace.progress(STAGE, f"scoring the {split} rows", done, len(SPLITS))
            rows[split] = window_rows(workspace, window, split, data, task)
            outputs[split] = answer(network, rows[split].inputs)
        record_test_read(workspace, STAGE, partition, len(rows["test"]))
        given = evaluation.resamples, evaluation.confidence, evaluation.seed
        metrics = {split: with_intervals(task, outputs[split], rows[split].targets, *given) for split in SPLITS}
        draft.write_json("metrics.json", metrics)
        draft.write_json("rows.json", {split: len(rows[split]) for split in SPLITS})
        if task.signature().labels:
            draft.write_json("confusion.json", confusion(task, outputs["test"], rows["test"]))
        draft.write_json("calibration.json", task.reliability(outputs["test"], rows["test"].targets))
        details = task.details(outputs["test"], rows["test"], *given)
        draft.write_json("details.json", details)
        draft.write_json("slices.json", slice_table(task, outputs["test"], rows["test"], *given))
        np.save(draft.file("outputs_validation.npy"), outputs["validation"], allow_pickle=False)
        draft.measure(test_reads=count_test_reads(workspace), resamples=evaluation.resamples)
        finite = all(bool(np.isfinite(found).all()) for found in outputs.values())
        total = sum(map(len, rows.values()))
        draft.gate(Gate("finite_outputs", finite, f"answers to {total} rows", blocking=True))
        _gate_thresholds(draft, evaluation, metrics["test"], task)
        against = {}
        if task.baselines:
            others = load_outputs(parents["baselines"], "test")
            against = compare(task, outputs["test"], others, rows["test"].targets, *given)
            draft.write_json("against.json", against)
            for gate in gates(task, against):
                draft.gate(gate)
        _show(draft, metrics, task)
        if details or against:
            simulated = bool(SOURCES.make(data.source).describe().get("simulated"))
            draft.show(**shown(details, against, task.metrics, simulated))

    settings = {**evaluation.model_dump(mode="json"), "split": data.split.model_dump(mode="json")}
    return workspace.make(STAGE, partition, build, settings=settings, parents=parents)


def answer(network: torch.nn.Module, inputs: np.ndarray) -> np.ndarray:
    """The network's outputs on raw inputs [N, ...], float32 [N, K]."""
    import numpy as np
    import torch

    with torch.no_grad():
        parts = [network(torch.from_numpy(inputs[at : at + BATCH])).numpy() for at in range(0, len(inputs), BATCH)]
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def confusion(task: Task, outputs: np.ndarray, rows: Rows) -> dict[str, Any]:
    """Counts of test rows by true class (rows) and decision (columns)."""
    import numpy as np

    labels = list(task.signature().labels)
    decided = task.decisions(outputs)
    counts = np.zeros((len(labels), len(labels)), int)
    np.add.at(counts, (rows.targets, decided), 1)
    return {"labels": labels, "counts": counts.tolist(), "split": "test"}


def _gate_thresholds(draft: Draft, evaluation: Evaluation, found: dict[str, Estimate], task: Task) -> None:
    for metric, bound in evaluation.thresholds.items():
        name = f"threshold_{metric}"
        if metric not in found:
            draft.gate(Gate(name, None, f"{metric} could not be measured on these test rows"))
            continue
        estimate, better = found[metric], task.metrics[metric].better
        met = estimate["value"] >= bound if better == "higher" else estimate["value"] <= bound
        text = f"{metric} {estimate['value']:.4f} [{estimate['low']:.4f}, {estimate['high']:.4f}] on the test rows"
        draft.gate(Gate(name, met, f"{text}, threshold {bound:g}", facts={**estimate, "threshold": bound}))


def _show(draft: Draft, metrics: dict[str, dict[str, Estimate]], task: Task) -> None:
    lines = ["| metric | " + " | ".join(SPLITS) + " |", "|---|" + "---|" * len(SPLITS)]
    for name, metric in task.metrics.items():
        cells = [
            f"{found['value']:.4f} [{found['low']:.4f}, {found['high']:.4f}]"
            if (found := metrics[split].get(name))
            else "-"
            for split in SPLITS
        ]
        lines.append(f"| {metric.label} | " + " | ".join(cells) + " |")
    values = {f"test_{name}": found["value"] for name, found in metrics["test"].items()}
    draft.show(**values, metrics={"md": "\n".join(lines)})
