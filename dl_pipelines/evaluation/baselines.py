"""`baselines`: what a model has to beat, made once for the data; and what an oracle would answer where there is one.

A baseline is a function of evaluation that the task names. It is no model of ours: nothing serves it.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dl_pipelines.brief.sections import Data, Evaluation
from dl_pipelines.data.batches import splits_of, window_table
from dl_pipelines.data.registry import SOURCES
from dl_pipelines.evaluation.metrics import Estimate, with_intervals
from dl_pipelines.evaluation.test_reads import record_test_read
from dl_pipelines.store.artifacts import Artifact, Draft, Gate
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Rows, SplitName, Task

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

STAGE = "baselines"
ORACLE = "oracle"
"""What one answers who knows how the records are made: reported beside the others, not to be beaten."""
MEASURED: tuple[SplitName, ...] = ("validation", "test")

Outputs = dict[SplitName, "np.ndarray"]
Baseline = Callable[[Task, "pa.Table", "np.ndarray", Mapping[SplitName, Rows]], Outputs]
"""(task, table, split of each record, rows of each split) -> outputs of each split, as a model of the task gives them.

It may fit on train records, and for a row look at what was known then, at nothing later.
"""


def make_baselines(
    workspace: Workspace, partition: Partition, evaluation: Evaluation, data: Data, task: Task
) -> Artifact:
    """`metrics.json` {baseline: {split: metrics}}, `NAME/outputs_SPLIT.npy`; measured: `seconds` {baseline: s}.

    Its parent is the window alone: another experiment of the same day finds it made. The look at the test rows is
    recorded. Raises ArtifactError when the window has no passing report.
    """
    window = workspace.get("training_window", partition.daily).require_gates()

    def build(draft: Draft) -> None:
        table = window_table(workspace, window, task)
        splits = splits_of(window, table, data, task)
        rows: dict[SplitName, Rows] = {split: task.rows(table, splits == split) for split in MEASURED}
        record_test_read(workspace, STAGE, partition, len(rows["test"]))
        found: dict[str, Outputs] = {}
        seconds: dict[str, float] = {}
        for done, (name, baseline) in enumerate(_baselines(task, data).items()):
            workspace.progress(STAGE, f"{name.replace('_', ' ')}", done, len(task.baselines))
            start = time.perf_counter()
            found |= {name: outputs} if (outputs := baseline(task, table, splits, rows)) else {}
            seconds[name] = round(time.perf_counter() - start, 3)
        metrics = {name: _measured(task, outputs, rows, evaluation) for name, outputs in found.items()}
        draft.write_json("metrics.json", metrics)
        _save(draft, found)
        draft.measure(seconds={name: seconds[name] for name in found})
        _show(draft, metrics, seconds, task)

    settings = {
        "task": {"name": task.name, "params": task.params.model_dump(mode="json")},  # type: ignore[attr-defined]
        "baselines": dict(task.baselines),
        "split": data.split.model_dump(mode="json"),
        **evaluation.model_dump(mode="json", include={"resamples", "confidence", "seed"}),
    }
    return workspace.make(STAGE, partition, build, settings=settings, parents={"training_window": window})


def load_outputs(baselines: Artifact, split: SplitName) -> dict[str, np.ndarray]:
    """The outputs of each baseline on the rows of a split, in their order. Raises ArtifactError."""
    import numpy as np

    return {
        name: np.load(baselines.file(f"{name}/outputs_{split}.npy"), allow_pickle=False)
        for name in baselines.read_json("metrics.json")
    }


def _baselines(task: Task, data: Data) -> dict[str, Baseline]:
    """Those that the task names, and the source's oracle."""
    named: dict[str, Baseline] = {}
    for name, place in task.baselines.items():
        module, _, function = place.partition(":")
        named[name] = getattr(importlib.import_module(module), function)
    source = SOURCES.make(data.source)

    def oracle(task: Task, table: pa.Table, splits: np.ndarray, rows: Mapping[SplitName, Rows]) -> Outputs:
        answers: Outputs = {}
        for split, found in rows.items():
            if (known := source.oracle(found, task)) is not None:
                answers[split] = known
        return answers

    return {**named, ORACLE: oracle}


def _measured(
    task: Task, outputs: Outputs, rows: Mapping[SplitName, Rows], evaluation: Evaluation
) -> dict[str, dict[str, Estimate]]:
    given = evaluation.resamples, evaluation.confidence, evaluation.seed
    return {split: with_intervals(task, found, rows[split].targets, *given) for split, found in outputs.items()}


def _save(draft: Draft, found: Mapping[str, Outputs]) -> None:
    import numpy as np

    finite = True
    for name, outputs in found.items():
        for split, answers in outputs.items():
            np.save(draft.file(f"{name}/outputs_{split}.npy"), answers, allow_pickle=False)
            finite = finite and bool(np.isfinite(answers).all())
    draft.gate(Gate("finite_outputs", finite, f"answers of {', '.join(found)}", blocking=True))


def _show(
    draft: Draft, metrics: Mapping[str, Mapping[str, Mapping[str, Estimate]]], seconds: Mapping[str, float], task: Task
) -> None:
    names = [name for name in task.metrics if any(name in found["test"] for found in metrics.values())]
    lines = ["| baseline | " + " | ".join(task.metrics[name].label for name in names) + " | seconds |"]
    lines += ["|---|" + "---|" * (len(names) + 1)]
    for name, found in metrics.items():
        cells = [
            f"{one['value']:.4f} [{one['low']:.4f}, {one['high']:.4f}]" if (one := found["test"].get(metric)) else "-"
            for metric in names
        ]
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} | {seconds[name]:.1f} |")
    values: dict[str, Any] = {
        f"{name}_{task.primary}": found["test"][task.primary]["value"]
        for name, found in metrics.items()
        if task.primary in found["test"]
    }
    draft.show(**values, test_metrics={"md": "\n".join(lines)})
