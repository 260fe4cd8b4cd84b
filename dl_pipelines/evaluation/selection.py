"""`architecture_comparison`: families trained alike and measured on validation rows, and which of them is trained.

A brief asks for it by `architecture.comparison.candidates`; without, the stage only says so. What is measured is
candidates.py's, what is decided choosing.py's, what it means is told in docs/comparison.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dl_pipelines.brief.sections import Distributed
from dl_pipelines.evaluation.choosing import MEASURES, judged, why
from dl_pipelines.evaluation.metrics import ONE_SEED, SEVERAL_SEEDS
from dl_pipelines.store.artifacts import Artifact, Draft
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Task
from dl_pipelines.training.selected import CHOICE, kept

if TYPE_CHECKING:
    from dl_pipelines.brief.live import Serving
    from dl_pipelines.brief.sections import Architecture, Compression, Data, Evaluation, Problem, Training
    from dl_pipelines.evaluation.candidates import Bench, Candidate

STAGE = "architecture_comparison"
OF_A_CLOCK = ("train_seconds", "latency_ms", "throughput", "energy_j", "cost", "fit", "fit_parts", "pareto")
"""Fields of a row that differ from run to run: they are measured values, outside the digest."""


def make_architecture_comparison(
    workspace: Workspace, partition: Partition, problem: Problem, architecture: Architecture, training: Training,
    distributed: Distributed, evaluation: Evaluation, compression: Compression, serving: Serving, data: Data,
    task: Task,
) -> Artifact:  # fmt: skip
    """`comparison.json` (what repeats itself), `choice.json`; the whole rows are `measured["comparison"]`.

    When it was not asked for it holds the `reason` and no rows. An interrupted one goes on; what was measured is
    decided on once. Test rows are not read. Raises ComparisonFailed when no candidate at all could be trained, or
    ArtifactError when the window has no passing report.
    """
    from dl_pipelines.data.row_cache import count_of
    from dl_pipelines.evaluation.candidates import candidates_of

    window = workspace.get("training_window", partition.daily).require_gates()
    asked, metric = architecture.comparison, task.metrics[task.primary]
    about = {"metric": metric.name, "unit": metric.unit, "better": metric.better, "priority": problem.priority,
             "seeds": asked.seeds, "epochs": asked.epochs or training.epochs,
             "confidence": evaluation.confidence}  # fmt: skip
    if not asked.candidates:
        reason = "architecture.comparison.candidates names none: the brief's own family is trained"
        return workspace.make(
            STAGE, partition, lambda draft: _tell_none(draft, about, reason), settings={"reason": reason}, parents={}
        )
    candidates = candidates_of(architecture)

    def build(draft: Draft) -> None:
        def measure() -> dict[str, Any]:
            bench = _bench(draft, workspace, window, architecture, training, distributed, evaluation, compression,
                           serving, data, task)  # fmt: skip
            counts = {"train_rows": count_of(bench.job.rows, "train"), "validation_rows": len(bench.validation)}
            return {**counts, "energy_reason": _energy_reason(), "rows": bench.run(candidates)}

        found = draft.decide_once("measured", measure)
        rows = [{**row, "cost": _cost(row, distributed)} for row in found["rows"]]
        rows = judged(rows, metric.better, problem.priority, problem.targets)
        sentence = why(rows, metric.label.lower(), metric.better, problem.priority)
        _write(draft, {**about, **found}, rows, sentence)
        draft.write_json(CHOICE, choice(rows, candidates, asked.choose, training.loss, sentence))

    settings = {
        **about,
        "candidates": [candidate.family.model_dump(mode="json") for candidate in candidates],
        "max_rows": asked.max_rows,
        "choose": asked.choose,
        "targets": [target.model_dump(mode="json") for target in problem.targets],
        "training": training.model_dump(mode="json", exclude={"warm_epochs", "search", "epochs"}),
        "batch": training.batch_size * distributed.workers,
        "price_per_hour": distributed.price_per_hour,
        "augmentation": data.augmentation.model_dump(mode="json"),
        "evaluation": evaluation.model_dump(mode="json", exclude={"thresholds", "ablation"}),
        "timing": {"threads": serving.threads, "timing_rounds": compression.timing_rounds},
        "split": data.split.model_dump(mode="json"),
        "task": task.params.model_dump(mode="json"),  # type: ignore[attr-defined]
    }
    given: dict[str, Any] = {"settings": settings, "parents": {"training_window": window}}
    found = kept(workspace, STAGE, partition, days=asked.keep_days, **given)
    return found or workspace.make(STAGE, partition, build, **given)


def _bench(
    draft: Draft, workspace: Workspace, window: Artifact, architecture: Architecture, training: Training,
    distributed: Distributed, evaluation: Evaluation, compression: Compression, serving: Serving, data: Data,
    task: Task,
) -> Bench:  # fmt: skip
    """What all trainings have in common: the brief's steps (all workers' batches in one process), one thread."""
    from dl_pipelines.data.row_cache import cached_rows, statistics_of
    from dl_pipelines.evaluation.candidates import Bench, validation_rows
    from dl_pipelines.training.job import Job
    from dl_pipelines.training.train import task_ref

    asked = architecture.comparison
    workspace.progress(STAGE, "reading the window")
    rows = cached_rows(workspace, window, data, task, asked.max_rows, evaluation.seed)
    changed = {
        "batch_size": training.batch_size * distributed.workers,
        "epochs": asked.epochs or training.epochs,
        # Measuring whether it pays takes longer than such a training; where the brief says "on", it is.
        "compile": "off" if training.compile == "auto" else training.compile,
    }
    job = Job(
        folder=draft.work,
        rows=rows,
        task=task_ref(task),
        family=architecture.family,
        training=training.model_copy(update=changed),
        distributed=Distributed(communicator="single", workers=1, threads=1),
        augmentation=data.augmentation,
        statistics=statistics_of(rows),
    )
    validation = validation_rows(rows)
    if not len(validation):
        raise ValueError("found no validation rows in the window; expected some; raise data.split.validation")

    def say(message: str, done: int, total: int) -> None:
        workspace.progress(STAGE, message, done, total)

    return Bench(task, job, asked.seeds, validation, evaluation, compression, serving.threads, say)


def _energy_reason() -> str:
    from dl_pipelines.training.energy import find_counter

    return find_counter()[1]


def _cost(row: Mapping[str, Any], distributed: Distributed) -> float | None:
    """USD of one training at the brief's price of an hour."""
    price = distributed.price_per_hour
    return None if price is None or row["reason"] else round(price * row["train_seconds"]["value"] / 3600, 9)


def choice(
    rows: Sequence[Mapping[str, Any]], candidates: Sequence[Candidate], choose: bool, loss: str | None, why: str
) -> dict[str, Any]:
    """What later stages train: `overrides`, none where the brief's own family (the first candidate) stays."""
    from dl_pipelines.evaluation.candidates import loss_of

    place = next((place for place, row in enumerate(rows) if row["chosen"]), None)
    if not choose:
        return {"overrides": {}, "why": f"{why}; the brief keeps its own (architecture.comparison.choose)"}
    if not place:  # the first, or none
        return {"overrides": {}, "why": why}
    family = candidates[place].family
    overrides: dict[str, Any] = {"architecture.family": family.model_dump(mode="json")}
    if loss != loss_of(family, loss):
        overrides["training.loss"] = None
    return {"overrides": overrides, "why": why}


def _write(draft: Draft, about: Mapping[str, Any], rows: list[dict[str, Any]], why: str) -> None:
    winner = next((row["candidate"] for row in rows if row["chosen"]), None)
    whole = {**about, "reason": None, "rows": rows, "chosen": winner, "why": why,
             "interval": SEVERAL_SEEDS if about["seeds"] > 1 else ONE_SEED}  # fmt: skip
    stable = [{name: value for name, value in row.items() if name not in OF_A_CLOCK} for row in rows]
    outside = {"energy_reason", "rows"}
    kept_ = {name: value for name, value in whole.items() if name not in outside}
    draft.write_json("comparison.json", {**kept_, "rows": stable})
    draft.measure(comparison=whole)
    draft.show(chosen=str(winner), why=why, candidates=len(rows), comparison={"md": table(whole)})


def _tell_none(draft: Draft, about: Mapping[str, Any], reason: str) -> None:
    draft.write_json("comparison.json", {**about, "rows": [], "chosen": None, "why": reason, "reason": reason})
    draft.write_json(CHOICE, {"overrides": {}, "why": reason})
    draft.show(reason=reason)


def table(found: Mapping[str, Any]) -> str:
    """The comparison as a person reads it, in Markdown."""
    head = f"| candidate | {found['metric']} | behind the best | latency (ms) | rows/s | training (s) | fit |"
    lines = [head, "|---" * 7 + "|", *(_line(row) for row in found["rows"])]
    under = (
        f"{found['why'][0].upper()}{found['why'][1:]}. {found['seeds']} seed(s) of {found['epochs']} epochs, "
        f"{found['train_rows']} train rows, {found['validation_rows']} validation rows; "
        f"{found['confidence']:.0%} intervals, {found['interval']}. Priority: {found['priority']}"
        f"{' (' + MEASURES[found['priority']][0] + ')' if found['priority'] in MEASURES else ''}."
    )
    return "\n".join(lines) + f"\n\n{under}"


def _line(row: Mapping[str, Any]) -> str:
    if row["reason"]:
        return f"| {row['candidate']} | {row['reason'].replace('|', '/')} |" + " - |" * 5
    name = f"**{row['candidate']}**" if row["chosen"] else row["candidate"]
    cells = [_told(row["metric"]), _told(row["behind"]), _told(row["latency_ms"]), _told(row["throughput"]),
             _told(row["train_seconds"]), f"{row['fit']:.1f}"]  # fmt: skip
    return f"| {name} | " + " | ".join(cells) + " |"


def _told(found: Mapping[str, float]) -> str:
    return f"{found['value']:.4g} [{found['low']:.4g}, {found['high']:.4g}]"
