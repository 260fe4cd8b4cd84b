"""`trained_model`: weights, curves and cost, trained by the communicator and number of workers that the brief says."""

from __future__ import annotations

import os
import platform
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dl_pipelines.brief.references import TaskRef
from dl_pipelines.brief.sections import Architecture, Data, Distributed, Training
from dl_pipelines.models.finetune import architecture_settings, located, settings_of
from dl_pipelines.store import durable
from dl_pipelines.store.artifacts import Artifact, Draft, Gate
from dl_pipelines.store.digest import SHORT
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Task
from dl_pipelines.training.fit import TrainingFailed, fit
from dl_pipelines.training.job import FINAL, RESULT, Job
from dl_pipelines.training.launch import Launcher, run_locally
from dl_pipelines.training.selected import selected
from dl_pipelines.training.warm import START, earlier_model

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

STAGE, WARM_START = "trained_model", "warm_start"
VERSION = 2


def make_trained_model(
    workspace: Workspace,
    partition: Partition,
    architecture: Architecture,
    training: Training,
    distributed: Distributed,
    data: Data,
    task: Task,
    launcher: Launcher = run_locally,
) -> Artifact:
    """`weights.safetensors`, `model.json`, `curves.json`, `layers.json` and `layers_detail.json` (see models/profile).

    An interrupted training goes on.

    What the architecture comparison and the hyperparameter study chose is taken; those that chose are parents.
    With `training.warm_epochs` it begins from the experiment's last model of an earlier day, where there is one of the
    same family and task; that model is then the parent `warm_start`, and comes before `architecture.pretrained`.
    Raises TrainingFailed, PretrainedError without such a file, or ArtifactError when the window has no passing report.
    """
    window = workspace.get("training_window", partition.daily).require_gates()
    architecture, training, choosing = selected(workspace, partition, architecture, training)
    start = earlier_model(workspace, partition, architecture.family, task_ref(task)) if training.warm_epochs else None
    pretrained = located(architecture.pretrained) if start is None else None
    architecture = architecture.model_copy(update={"pretrained": pretrained})

    def build(draft: Draft) -> None:
        given = training if start is None else training.model_copy(update={"epochs": training.warm_epochs})
        job = _prepare(draft, workspace, window, architecture, given, distributed, data, task)
        fit(job, launcher, partial(workspace.progress, STAGE))
        _finish(draft, job, task)

    settings = {
        "task": task_ref(task).model_dump(mode="json"),
        "architecture": architecture_settings(architecture),
        "training": training.model_dump(mode="json", exclude={"search"}),
        # Threads and restarts change the cost, not the weights; the order of sums changes with the workers.
        "distributed": distributed.model_dump(
            mode="json", include={"communicator", "workers", "compression", "threads", "reduction", "bucket_mb"}
        ),
        "online": [ref.model_dump(mode="json") for ref in data.augmentation.online],
        "seed": data.augmentation.seed,
    }
    parents = {"training_window": window, **choosing, **({} if start is None else {WARM_START: start})}
    return workspace.make(STAGE, partition, build, settings=settings, parents=parents, version=VERSION)


def task_ref(task: Task) -> TaskRef:
    """A task as a job names it, with every param."""
    return TaskRef(name=task.name, params=task.params.model_dump(mode="json"))  # type: ignore[attr-defined]


def _prepare(
    draft: Draft, workspace: Workspace, window: Artifact, architecture: Architecture, training: Training,
    distributed: Distributed, data: Data, task: Task,
) -> Job:  # fmt: skip
    from dl_pipelines.data.row_cache import cached_rows, count_of, statistics_of

    workspace.progress(STAGE, "reading the window")
    rows = cached_rows(workspace, window, data, task)
    _check(count_of(rows, "train"), distributed)
    if WARM_START in draft.parents:
        shutil.copyfile(draft.parents[WARM_START].verify().file("weights.safetensors"), draft.work / START)
    job = Job(
        draft.work, task_ref(task), architecture.family, training, distributed, data.augmentation,
        statistics_of(rows), rows, architecture.pretrained,
    )  # fmt: skip
    job.write()
    return job


def _check(train_rows: int, distributed: Distributed) -> None:
    least = 2 * distributed.workers
    if train_rows < least:
        raise TrainingFailed(
            f"found {train_rows} train records; expected at least {least} for {distributed.workers} worker(s); "
            "bring more records, or set distributed.workers lower"
        )


def _finish(draft: Draft, job: Job, task: Task) -> None:
    from safetensors.torch import load_file

    from dl_pipelines.models.layers import by_kind, count_parameters
    from dl_pipelines.models.profile import profile
    from dl_pipelines.models.registry import FAMILIES
    from dl_pipelines.training.supervise import OUTCOME

    result, supervised = durable.read_json(job.folder / RESULT), durable.read_json(job.folder / OUTCOME)
    shutil.copyfile(job.folder / FINAL, draft.file("weights.safetensors"))
    weights = load_file(draft.file("weights.safetensors"))
    recipe = FAMILIES.make(job.family).recipe(task, job.statistics, job.training)
    network = recipe.network
    network.load_state_dict(weights)
    parameters, curves = count_parameters(network), [_without_seconds(line) for line in result["curves"]]
    draft.write_json("curves.json", curves)
    cost_of_layers = profile(network, _some_inputs(job))
    draft.write_json("layers.json", by_kind(cost_of_layers.rows))
    draft.write_json("layers_detail.json", cost_of_layers.rows)
    started = _started(draft, job, network)
    draft.write_json("model.json", {
        "family": job.family.model_dump(mode="json"), "task": job.task.model_dump(mode="json"),
        "parameters": parameters, "statistics": job.statistics,
        "objectives": [objective.name for phase in recipe.phases for objective in phase.objectives],
        "communicator": result["communicator"], "workers": result["workers"], **started,
    })  # fmt: skip
    finite = all(bool(value.isfinite().all()) for value in weights.values())
    draft.gate(Gate("finite", finite, f"{len(weights)} tensors, {parameters:,} parameters", blocking=True))
    window = draft.parents["training_window"]
    stopped = result.get("stopped")
    every = [line["epoch"] for line in curves] == list(range(1, len(curves) + 1))
    early = f" ({stopped})" if stopped else ""
    draft.gate(Gate("reproducible", every and (len(curves) == job.training.epochs or stopped is not None),
                    f"seed {job.training.seed}, window {window.short}, {len(curves)} of {job.training.epochs} epochs"
                    f"{early}{_told(draft, started)}",
                    blocking=True))  # fmt: skip
    cost = {name: value for name, value in result.items() if name != "curves"}
    draft.measure(**cost, epoch_seconds=[line["seconds"] for line in result["curves"]], attempts=supervised["attempts"],
                  sandboxed=supervised["sandboxed"], hardware=hardware(),
                  network="gloo over loopback" if result["workers"] > 1 else "none",
                  layers=cost_of_layers.times)  # fmt: skip
    last = curves[-1]["validation"]
    draft.show(parameters=parameters, epochs=len(curves), communicator=result["communicator"],
               workers=result["workers"], samples_per_second=result["samples_per_second"],
               train_loss=round(curves[-1]["train_loss"], 4),
               **{f"validation_{name}": value for name, value in last.items()},
               restarts=len(supervised["attempts"]) - 1,
               curves={"md": _curves(curves, task.primary, supervised["attempts"])})  # fmt: skip


def _some_inputs(job: Job) -> Any:
    """Of validation rows, or of train rows where there are none; [N, ...] on the disk."""
    import numpy as np

    rows = [np.load(job.rows / f"{split}_inputs.npy", mmap_mode="r") for split in ("validation", "train")]
    return rows[0] if len(rows[0]) else rows[1]


def _started(draft: Draft, job: Job, network: torch.nn.Module) -> dict[str, Any]:
    """From which weights the training began, how many tensors were taken, which were fresh; nothing if it began anew.

    `warm_start` names an earlier model, `pretrained` a file.
    """
    from safetensors.torch import load_file

    from dl_pipelines.models.finetune import prepared
    from dl_pipelines.models.weights import copy_weights

    if WARM_START in draft.parents:
        taken, fresh = copy_weights(network, load_file(job.folder / START), copy=False)
        return {WARM_START: {"from": draft.parents[WARM_START].digest, "tensors": len(taken), "fresh": fresh}}
    if job.pretrained is None:
        return {}
    settings = settings_of(job.pretrained)
    assert settings is not None
    return {"pretrained": {"sha256": settings["sha256"], **prepared(network, job.pretrained, copy=False).plain()}}


def _told(draft: Draft, started: Mapping[str, Any]) -> str:
    if WARM_START in draft.parents:
        return f", from the weights of {draft.parents[WARM_START].short}"
    return f", from weights of sha256 {started['pretrained']['sha256'][:SHORT]}" if started else ""


def _without_seconds(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name != "seconds"}


def _curves(curves: list[dict[str, Any]], primary: str, attempts: list[str]) -> str:
    """A table of the epochs, and why the training was started again; `attempts` ends with the one that was done."""
    head = f"| epoch | train loss | validation loss | validation {primary} |\n|---|---|---|---|\n"
    lines = [
        f"| {line['epoch']} | {line['train_loss']:.4f} | {line['validation'].get('loss', float('nan')):.4f} "
        f"| {line['validation'].get(primary, float('nan')):.4f} |"
        for line in curves
    ]
    lost = [f"Started again from its last checkpoint: {reason.splitlines()[0].rstrip(':')}" for reason in attempts[:-1]]
    return "\n\n".join([head + "\n".join(lines), *lost])


def hardware() -> dict[str, Any]:
    """What this machine is: CPU, cores, memory and storage in GB; GPUs are counted by the driver's files."""
    import psutil

    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    devices = len(list(Path("/dev").glob("nvidia[0-9]*")))
    return {
        "cpu": model, "cores": len(os.sched_getaffinity(0)), "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "storage_gb": round(shutil.disk_usage("/").total / 1e9, 1), "gpus": devices,
    }  # fmt: skip
