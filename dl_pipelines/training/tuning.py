"""`hyperparameter_study`: configurations of the brief's search space, trained in the pool, most of them given up early.

A brief asks for it by `training.search.trials`; without, the stage only says so. The space is study_space.py's, the
database study_store.py's, the trainings study_run.py's, what it says study_results.py's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dl_pipelines.brief.sections import Architecture, Data, Distributed, Evaluation, Search, Training
from dl_pipelines.models.finetune import architecture_settings
from dl_pipelines.store.artifacts import Artifact, Draft, Gate
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Task
from dl_pipelines.training.asha import ladder
from dl_pipelines.training.job import Job
from dl_pipelines.training.pool import Pool
from dl_pipelines.training.selected import CHOICE, kept, selected
from dl_pipelines.training.study_run import Run
from dl_pipelines.training.study_space import StudyError, configured, dimensions, fitting

if TYPE_CHECKING:
    from dl_pipelines.training.study_store import Trials

STAGE = "hyperparameter_study"
RESULT = "study.json"
METHODS = {"tpe": "TPE", "random": "random", "grid": "grid", "asha": "ASHA", "hyperband": "Hyperband"}
NOT_ASKED = "training.search.trials is 0: `dlp run` with `--set training.search.trials=16` searches"


def make_hyperparameter_study(
    workspace: Workspace, partition: Partition, architecture: Architecture, training: Training,
    distributed: Distributed, data: Data, evaluation: Evaluation, task: Task,
) -> Artifact:  # fmt: skip
    """`study.json`, `choice.json`, and Optuna's plots as SVG. An interrupted one goes on.

    When it was not asked for, `study.json` holds the `reason` and no rows. A study of an earlier day is taken as long
    as `training.search.keep_days` say. Raises StudyError when the space is wrong or no configuration could be trained,
    DatabaseError, or ArtifactError when the window has no passing report.
    """
    window = workspace.get("training_window", partition.daily).require_gates()
    architecture, training, choosing = selected(
        workspace, partition, architecture, training, stages=("architecture_comparison",)
    )
    search, metric = training.search, metric_of(training.search, task)
    about = {"sampler": search.sampler, "pruner": search.pruner, "metric": metric.name, "better": metric.better,
             "confidence": evaluation.confidence}  # fmt: skip

    def tell(draft: Draft) -> None:
        empty = {"trials": 0, "rows": [], "history": [], "best": None, "base": None, "counts": None, "why": NOT_ASKED}
        draft.write_json(RESULT, {**about, **empty, "train_rows": 0, "validation_rows": 0, "reason": NOT_ASKED})
        draft.write_json(CHOICE, {"overrides": {}, "why": NOT_ASKED})
        draft.show(reason=NOT_ASKED)

    if not search.trials:
        return workspace.make(STAGE, partition, tell, settings={**about, "reason": NOT_ASKED}, parents={})
    space = fitting(architecture, training, search.space) if choosing else search.space
    fields = dimensions(architecture, training, space)
    base = Base(architecture, training, distributed, data, task, metric.name)

    def build(draft: Draft) -> None:
        _build(draft, workspace, window, base, fields, about)

    settings = {
        **about,
        "search": search.model_dump(mode="json", exclude={"keep_days"}),
        "architecture": architecture_settings(architecture),
        "training": training.model_dump(mode="json", exclude={"warm_epochs", "search"}),
        "workers": distributed.workers,
        "augmentation": data.augmentation.model_dump(mode="json"),
        "split": data.split.model_dump(mode="json"),
        "task": task.params.model_dump(mode="json"),  # type: ignore[attr-defined]
    }
    parents = {"training_window": window, **choosing}
    earlier = kept(
        workspace, STAGE, partition, settings=settings, parents=parents, days=search.keep_days
    )  # fmt: skip
    return earlier or workspace.make(STAGE, partition, build, settings=settings, parents=parents)


def metric_of(search: Search, task: Task) -> Any:
    """What is searched for: the brief's metric, else the loss where the task has it, else the primary one."""
    name = search.metric or ("loss" if "loss" in task.metrics else task.primary)
    if name not in task.metrics:
        raise StudyError(
            f"found training.search.metric {name!r}; expected one of {', '.join(task.metrics)}, which the task measures"
        )
    return task.metrics[name]


@dataclass(frozen=True)
class Base:
    """What all trainings of a study have in common: the brief's own sections."""

    architecture: Architecture
    training: Training
    distributed: Distributed
    data: Data
    task: Task
    metric: str

    def job(self, folder: Path, rows: Path, statistics: dict[str, Any], params: Mapping[str, Any]) -> Job:
        """The training of a configuration: in one process with one thread, its steps those of all the brief's workers.

        Raises ValueError when the family or the brief refuses its values.
        """
        from dl_pipelines.training.train import task_ref

        architecture, training = configured(self.architecture, self.training, params)
        changed: dict[str, Any] = {"batch_size": training.batch_size * self.distributed.workers}
        if training.compile == "auto":
            changed["compile"] = "off"  # each is too short for that to pay, and they train side by side
        return Job(
            folder=folder, rows=rows, task=task_ref(self.task), family=architecture.family,
            training=training.model_copy(update=changed),
            distributed=Distributed(communicator="single", workers=1, threads=1),
            augmentation=self.data.augmentation, statistics=statistics, pretrained=architecture.pretrained,
        )  # fmt: skip


def _build(
    draft: Draft, workspace: Workspace, window: Artifact, base: Base, fields: list[Any], about: dict[str, Any]
) -> None:
    import optuna

    from dl_pipelines.data.row_cache import cached_rows, count_of, statistics_of
    from dl_pipelines.training.study_store import Trials, open_storage, storage_url

    search, task = base.training.search, base.task
    workspace.progress(STAGE, "reading the window", 0, search.trials)
    rows = cached_rows(workspace, window, base.data, task, search.max_rows, search.seed)
    statistics = statistics_of(rows)
    counts = {f"{split}_rows": count_of(rows, split) for split in ("train", "validation")}
    sign = -1.0 if about["better"] == "higher" else 1.0
    with open_storage(storage_url(workspace.home)) as storage:
        name = f"{workspace.project}/{STAGE}/{draft.work.name}"
        study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
        trials = Trials(storage, study, fields, search, ladder(search.pruner, base.training.epochs), sign)
        run = Run(
            trials, lambda folder, params: base.job(folder, rows, statistics, params), base.metric, task.primary,
            task.metrics[task.primary].better == "higher", draft.work / "trials",
            lambda text, done: workspace.progress(STAGE, text, done, trials.count),
        )  # fmt: skip
        with Pool() as pool:
            run.run(pool)
        workspace.progress(STAGE, "weighing the settings", trials.count, trials.count)
        _tell(draft, trials, about, counts)


def _tell(draft: Draft, trials: Trials, about: dict[str, Any], rows: dict[str, int]) -> None:
    from dl_pipelines.training import study_results as results
    from dl_pipelines.training.study_plots import study_plots

    history, best = results.history(trials), results.best_of(trials)
    if best is None:
        raise StudyError(f"no configuration of the study could be trained: {history[0]['error']}")
    counts = {state: sum(line["state"] == state for line in history) for state in ("complete", "pruned", "failed")}
    method = ", ".join(METHODS[about[key]] for key in ("sampler", "pruner") if about[key] in METHODS)
    importance = results.importances(trials, about["confidence"])
    overrides, why = results.overrides_of(best, trials.fields), results.reason(trials, about["metric"])
    value = history[best.number]["value"]
    table = results.table(trials, importance, method)
    draft.write_json(RESULT, {
        **about, **rows, "trials": len(history), "reason": None, "counts": counts, "rows": table,
        "best": {"trial": best.number, "value": value, "params": results.values_of(best, trials.fields)},
        "base": {"value": history[0]["value"]}, "history": history, "why": why,
        "rungs": [round(share, 4) for share in trials.ladder.shares],
    })  # fmt: skip
    draft.write_json(CHOICE, {"overrides": overrides, "why": why})
    for name, text in study_plots(trials, importance, about["metric"]).items():
        draft.write_text(name, text)
    failed = [f"{line['trial']}: {line['error'].splitlines()[0]}" for line in history if line["error"]]
    draft.gate(Gate(
        "trained", not failed, f"{counts['failed']} of {len(history)} configurations failed"
        + "".join(f"; {text}" for text in failed[:3]), facts=counts,
    ))  # fmt: skip
    draft.show(trials=len(history), **counts, best=value, why=why, study={"md": results.markdown(table)})
