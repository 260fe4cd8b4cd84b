"""`augmentation_ablation`: what each augmentation of the brief is worth, on validation rows, with an interval.

A brief asks for it by `evaluation.ablation.seeds`, for the base or as an experiment; without, the stage only says so.
The trainings are training/ablation.py's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dl_pipelines.brief.references import FamilyRef
from dl_pipelines.brief.sections import AugmentationPlan, Distributed, Evaluation, Training
from dl_pipelines.evaluation.metrics import ONE_SEED, SEVERAL_SEEDS, over_seeds
from dl_pipelines.store.artifacts import Artifact, Draft
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Metric, Rows, Task

if TYPE_CHECKING:
    import numpy as np

    from dl_pipelines.brief.sections import Architecture, Data
    from dl_pipelines.training.ablation import Trial
    from dl_pipelines.training.job import Job

STAGE = "augmentation_ablation"


@dataclass(frozen=True)
class Arm:
    """How well the models of one plan, a seed each, answered the validation rows: the metric, its resamples [draws]."""

    values: Sequence[float]
    drawn: Sequence[np.ndarray]

    @property
    def mean(self) -> float:
        """The metric, mean over the seeds."""
        return round(sum(self.values) / len(self.values), 6)


def make_augmentation_ablation(
    workspace: Workspace, partition: Partition, architecture: Architecture, training: Training,
    distributed: Distributed, evaluation: Evaluation, data: Data, task: Task,
) -> Artifact:  # fmt: skip
    """`ablation.json`: metric, unit, seeds, epochs, `rows` (one an augmentation) and `none` (all against none at all).

    When it was not asked for, or there is nothing to leave out, it holds the `reason` and no rows. An interrupted one
    goes on. Raises AblationFailed, or ArtifactError when the window has no passing report.
    """
    window = workspace.get("training_window", partition.daily).require_gates()
    metric, asked, plan = task.metrics[task.primary], evaluation.ablation, data.augmentation
    about = {"metric": metric.name, "unit": metric.unit, "better": metric.better, "seeds": asked.seeds,
             "epochs": asked.epochs or training.epochs}  # fmt: skip
    reason = None
    if not asked.seeds:
        reason = "evaluation.ablation.seeds is 0: `dlp run` with `--set evaluation.ablation.seeds=3` measures it"
    elif not plan.offline and not plan.online:
        reason = "the brief names no augmentation"

    def tell(draft: Draft) -> None:
        draft.write_json("ablation.json", {**about, "rows": [], "none": None, "reason": reason})
        draft.show(reason=str(reason))

    def build(draft: Draft) -> None:
        job = _job(draft.work, workspace, window, architecture.family, training, distributed, evaluation, data, task)
        found, facts = _measured(workspace, window, job, evaluation, data, task)
        result = {**about, **_compared(found, plan, metric, evaluation), **facts, "reason": None}
        draft.write_json("ablation.json", result)
        draft.show(seeds=asked.seeds, trainings=len(found) * asked.seeds, ablation={"md": table(result)})

    if reason:
        return workspace.make(STAGE, partition, tell, settings={**about, "reason": reason}, parents={}, version=2)
    settings = {
        **about,
        "architecture": architecture.model_dump(mode="json", exclude={"comparison"}),
        "training": training.model_dump(mode="json", exclude={"warm_epochs", "search"}),
        "batch": training.batch_size * distributed.workers,
        "augmentation": plan.model_dump(mode="json"),
        "evaluation": evaluation.model_dump(mode="json", exclude={"thresholds"}),
        "split": data.split.model_dump(mode="json"),
        "task": task.params.model_dump(mode="json"),  # type: ignore[attr-defined]
    }
    return workspace.make(STAGE, partition, build, settings=settings, parents={"training_window": window}, version=2)


def _job(
    work: Path, workspace: Workspace, window: Artifact, family: FamilyRef, training: Training,
    distributed: Distributed, evaluation: Evaluation, data: Data, task: Task,
) -> Job:  # fmt: skip
    """What all trainings have in common: the brief's steps (all workers' batches in one process), one thread."""
    from dl_pipelines.data.batches import splits_of, window_table
    from dl_pipelines.training.job import Job
    from dl_pipelines.training.train import task_ref

    table = window_table(workspace, window, task)
    changed = {
        "batch_size": training.batch_size * distributed.workers,
        "epochs": evaluation.ablation.epochs or training.epochs,
    }
    return Job(
        folder=work,
        rows=work,
        task=task_ref(task),
        family=family,
        training=training.model_copy(update=changed),
        distributed=Distributed(communicator="single", workers=1, threads=1),
        augmentation=data.augmentation,
        statistics=task.fit(table, splits_of(window, table, data, task) == "train"),
    )


def _measured(
    workspace: Workspace, window: Artifact, job: Job, evaluation: Evaluation, data: Data, task: Task
) -> tuple[dict[str, Arm], dict[str, Any]]:
    """Each plan's arm, and how many rows it was trained and measured on."""
    from dl_pipelines.data.batches import window_rows
    from dl_pipelines.training.ablation import TrainRows, Trial, all_of, each_left_out, none_of, plan_key, run_trials

    asked, plan = evaluation.ablation, data.augmentation
    validation = window_rows(workspace, window, "validation", data, task)
    train = TrainRows(workspace, window, data, task, asked.max_rows, evaluation.seed)
    plans = {plan_key(one): one for one in (all_of(plan), *(left.plan for left in each_left_out(plan)), none_of(plan))}
    trials = [Trial(one, seed) for seed in range(asked.seeds) for one in plans.values()]
    told: list[Trial] = []

    def done(trial: Trial, metrics: Mapping[str, float]) -> None:
        told.append(trial)
        value = metrics.get(task.primary)
        said = "" if value is None else f": {task.primary} {value:.4g}"
        workspace.progress(STAGE, f"training {len(told)} of {len(trials)} is done{said}", len(told), len(trials))

    workspace.progress(STAGE, f"{len(trials)} trainings of {len(plans)} plans", 0, len(trials))
    weights = run_trials(trials, job, train.of, validation, done)
    workspace.progress(STAGE, "comparing them on the validation rows", len(trials), len(trials))
    scored = {key: _score(path, job, validation, evaluation, task) for key, path in weights.items()}
    arms = {}
    for key, one in plans.items():
        values, drawn = zip(*(scored[Trial(one, seed).key] for seed in range(asked.seeds)), strict=True)
        arms[key] = Arm(values, drawn)
    return arms, {"train_rows": train.count, "validation_rows": len(validation)}


def _score(path: Path, job: Job, validation: Rows, evaluation: Evaluation, task: Task) -> tuple[float, np.ndarray]:
    """The primary metric of a model on the validation rows, and on their resamples: paired, they depend on the rows."""
    from safetensors.torch import load_file

    from dl_pipelines.evaluation.evaluate import answer
    from dl_pipelines.models.registry import FAMILIES

    network = FAMILIES.make(job.family).network(task, job.statistics)
    network.load_state_dict(load_file(path))
    outputs = answer(network.eval(), validation.inputs)
    value = task.measure(outputs, validation.targets)[task.primary]
    return value, task.resampled(outputs, validation.targets, evaluation.resamples, evaluation.seed)[task.primary]


def _compared(
    arms: Mapping[str, Arm], plan: AugmentationPlan, metric: Metric, evaluation: Evaluation
) -> dict[str, Any]:
    from dl_pipelines.training.ablation import all_of, each_left_out, none_of, plan_key

    whole, nothing = arms[plan_key(all_of(plan))], arms[plan_key(none_of(plan))]

    def against(other: Arm) -> dict[str, Any]:
        found = effect(whole, other, metric.better, evaluation.confidence, evaluation.seed)
        return {"with": whole.mean, "without": other.mean, "effect": found, "verdict": verdict(found)}

    rows = [
        {"augmentation": left.augmentation.name, "params": left.augmentation.model_dump(mode="json")["params"],
         "where": left.where, **against(arms[plan_key(left.plan)])}
        for left in each_left_out(plan)
    ]  # fmt: skip
    told = f"paired {SEVERAL_SEEDS if len(whole.values) > 1 else ONE_SEED}"
    return {"rows": rows, "none": {"value": nothing.mean, **against(nothing)}, "confidence": evaluation.confidence,
            "interval": told}  # fmt: skip


def effect(whole: Arm, other: Arm, better: str, confidence: float, seed: int) -> dict[str, float]:
    """How much better the metric is with an augmentation than without it (above 0: better), in the metric's unit.

    Trainings of one seed are paired: they share the order of rows and the first weights. See over_seeds.
    """
    sign = 1.0 if better == "higher" else -1.0
    apart = [sign * (a - b) for a, b in zip(whole.values, other.values, strict=True)]
    drawn = [sign * (a - b) for a, b in zip(whole.drawn, other.drawn, strict=True)]
    return over_seeds(apart, drawn, confidence, seed)


def verdict(found: Mapping[str, float]) -> str:
    """What an effect's interval says."""
    if found["low"] > 0:
        return "helps"
    return "hurts" if found["high"] < 0 else "not distinguishable"


def table(result: Mapping[str, Any]) -> str:
    """The result as a person reads it, in Markdown."""
    head = (
        f"| augmentation | {result['metric']} with | without | effect (above 0: better) | verdict |\n"
        + "|---" * 5
        + "|"
    )
    rows = [(f"{row['augmentation']} ({row['where']})", row) for row in result["rows"]]
    lines = [
        f"| {name} | {row['with']:.4g} | {row['without']:.4g} | {row['effect']['value']:+.4g} "
        f"[{row['effect']['low']:+.4g}, {row['effect']['high']:+.4g}] | {row['verdict']} |"
        for name, row in [*rows, ("all of them", result["none"])]
    ]
    under = (
        f"{result['seeds']} seed(s) of {result['epochs']} epochs, {result['train_rows']} train rows, "
        f"{result['validation_rows']} validation rows; {result['confidence']:.0%} intervals, {result['interval']}."
    )
    return "\n".join([head, *lines]) + f"\n\n{under}"
