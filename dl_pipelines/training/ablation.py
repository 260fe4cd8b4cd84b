"""The trainings behind an ablation of augmentations: one for each plan and seed, side by side, each by one thread.

Which plans there are, their rows, and running them; what their models are worth is measured in evaluation/ablation.py.
Every training takes as many steps: where a plan has lost its stored variants, the records are repeated as they are.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dl_pipelines.brief.sections import AugmentationPlan, AugmentationRef, Data
from dl_pipelines.data.augmentation import grow
from dl_pipelines.data.batches import splits_of, window_table
from dl_pipelines.store import durable
from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.store.digest import SHORT, digest_json
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.tasks.base import Rows, Task
from dl_pipelines.training.job import FINAL, RESULT, Job, write_rows
from dl_pipelines.training.launch import die_with_parent, worker_environment
from dl_pipelines.training.supervise import POLL_SECONDS, end_tree

if TYPE_CHECKING:
    import numpy as np

Where = Literal["online", "offline"]
WHERE: tuple[Where, Where] = ("offline", "online")
SIDE_BY_SIDE = 8
"""No more at once, however many cores there are: each holds a network and torch itself."""


class AblationFailed(ValueError):
    """A training of an ablation ended without a model; says which and why."""


@dataclass(frozen=True)
class LeftOut:
    """One augmentation of a brief, and the plan without it."""

    augmentation: AugmentationRef
    where: Where
    plan: AugmentationPlan


def plan_key(plan: AugmentationPlan) -> str:
    """A plan by its content: what two left-out plans have in common is trained once."""
    return digest_json(plan.model_dump(mode="json"))[:SHORT]


@dataclass(frozen=True)
class Trial:
    """A training of the ablation."""

    plan: AugmentationPlan
    seed: int

    @property
    def key(self) -> str:
        """Its folder's name."""
        return f"{plan_key(self.plan)}-{self.seed}"

    @property
    def seeded(self) -> AugmentationPlan:
        """Its plan with draws of its own."""
        return self.plan.model_copy(update={"seed": self.plan.seed + self.seed})

    @property
    def rows_key(self) -> str:
        """Names its train rows: online variants are drawn from the same ones."""
        seed = self.seeded.seed if self.plan.offline else 0
        return digest_json([self.seeded.model_dump(mode="json", include={"offline", "factor"}), seed])[:SHORT]


def all_of(plan: AugmentationPlan) -> AugmentationPlan:
    """The plan as it counts: without stored variants there is no factor."""
    return plan if plan.offline else plan.model_copy(update={"factor": 1})


def none_of(plan: AugmentationPlan) -> AugmentationPlan:
    """No augmentation; stored variants become plain copies."""
    return all_of(plan).model_copy(update={"offline": (), "online": ()})


def each_left_out(plan: AugmentationPlan) -> list[LeftOut]:
    """The plan without each of its augmentations, stored ones first."""
    found = []
    for where in WHERE:
        refs: tuple[AugmentationRef, ...] = getattr(plan, where)
        for place, ref in enumerate(refs):
            others = (*refs[:place], *refs[place + 1 :])
            found.append(LeftOut(ref, where, all_of(plan).model_copy(update={where: others})))
    return found


class TrainRows:
    """The train rows of a window under any plan; at most `max_rows` of them (before copies), drawn by the seed."""

    def __init__(
        self, workspace: Workspace, window: Artifact, data: Data, task: Task, max_rows: int | None, seed: int
    ):  # fmt: skip
        import pyarrow as pa

        table = window_table(workspace, window, task)
        chosen = splits_of(window, table, data, task) == "train"
        self.task, self.rows, self.records = task, None, None
        if "augmented_dataset" in task.not_applicable:
            rows = task.rows(table, chosen, training=True)
            self.rows = rows.take(_drawn(len(rows), max_rows, seed))
            self.count = len(self.rows)
        else:
            records = table.filter(pa.array(chosen)).drop_columns(["parent", "copy"])
            self.records = records.take(pa.array(_drawn(records.num_rows, max_rows, seed)))
            self.count = self.records.num_rows

    def of(self, plan: AugmentationPlan) -> Rows:
        """With the stored variants of the plan, made in memory."""
        import numpy as np

        if self.records is None:
            assert self.rows is not None
            return self.rows
        everything = np.ones(self.records.num_rows, bool)
        rows = self.task.rows(grow(self.records, everything, plan, self.task), training=True)
        return rows if plan.offline else _repeated(rows, plan.factor)


def _drawn(count: int, most: int | None, seed: int) -> np.ndarray:
    """Positions of the rows that are used, in their order."""
    import numpy as np

    if most is None or most >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def _repeated(rows: Rows, factor: int) -> Rows:
    """Each row `factor` times; the copies' own ids give them online variants of their own."""
    import numpy as np

    if factor == 1:
        return rows
    ids = [rows.ids.astype(str), *(np.char.add(rows.ids.astype(str), f"~{copy}") for copy in range(1, factor))]
    return replace(rows.take(np.tile(np.arange(len(rows)), factor)), ids=np.concatenate(ids))


def run_trials(
    trials: Sequence[Trial], job: Job, train: Callable[[AugmentationPlan], Rows], validation: Rows,
    done: Callable[[Trial, Mapping[str, float]], None],
) -> dict[str, Path]:  # fmt: skip
    """Train every one as `job` says (but its plan and seed), in folders below the job's; what is done is found again.

    `done` hears of each with its last validation metrics. Returns the weights of each (safetensors) by its key. Raises
    AblationFailed; whatever still runs is ended then, and when this is interrupted.
    """
    left = [trial for trial in trials if not _finished(job.folder / trial.key)]
    for trial in trials:
        if trial not in left:
            done(trial, _metrics(job.folder / trial.key))
    side = min(len(os.sched_getaffinity(0)), SIDE_BY_SIDE)
    running: list[tuple[Trial, subprocess.Popen[bytes]]] = []
    try:
        while left or running:
            while left and len(running) < side:
                trial = left.pop(0)
                _share_rows(job.folder, trial, train, validation)
                running.append((trial, _start(job, trial)))
            for trial, process in [item for item in running if item[1].poll() is not None]:
                running.remove((trial, process))
                _require(job.folder / trial.key, process, trial)
                _tidy(job.folder, trial, [*left, *(other for other, _ in running)])
                done(trial, _metrics(job.folder / trial.key))
            time.sleep(POLL_SECONDS)
    finally:
        for _, process in running:
            end_tree(process)
    return {trial.key: job.folder / trial.key / FINAL for trial in trials}


def _start(job: Job, trial: Trial) -> subprocess.Popen[bytes]:
    folder = job.folder / trial.key
    training = job.training.model_copy(update={"seed": job.training.seed + trial.seed})
    path = replace(job, folder=folder, rows=folder, training=training, augmentation=trial.seeded).write()
    # Killed with this process, however it ends: nobody else knows of it.
    command = [*die_with_parent("KILL"), sys.executable, "-m", "dl_pipelines.training.worker", "--job", str(path)]
    with (folder / "stderr").open("wb") as told:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=told, start_new_session=True,
            env=worker_environment(job.distributed.threads),
        )  # fmt: skip


def _share_rows(folder: Path, trial: Trial, train: Callable[[AugmentationPlan], Rows], validation: Rows) -> None:
    """The rows of a trial, written once for all that have the same, and linked into its folder."""
    own = folder / trial.key
    own.mkdir(parents=True, exist_ok=True)
    for split, name in (("train", trial.rows_key), ("validation", "validation")):
        shared = folder / f"rows-{name}"
        if not (shared / "whole").exists():
            shared.mkdir(exist_ok=True)
            write_rows(shared, split, train(trial.seeded) if split == "train" else validation)
            durable.write_text(shared / "whole", "")
        for path in shared.glob("*.npy"):
            (own / path.name).unlink(missing_ok=True)
            (own / path.name).symlink_to(Path("..") / shared.name / path.name)


def _tidy(folder: Path, trial: Trial, others: Sequence[Trial]) -> None:
    """Remove what only a running trial needs: its checkpoints, and rows that no other trial is waiting for."""
    durable.remove_tree(folder / trial.key / "checkpoints")
    if all(other.rows_key != trial.rows_key for other in others):
        durable.remove_tree(folder / f"rows-{trial.rows_key}")


def _finished(folder: Path) -> bool:
    return (folder / RESULT).exists() and (folder / FINAL).exists()


def _metrics(folder: Path) -> dict[str, float]:
    return durable.read_json(folder / RESULT)["curves"][-1]["validation"]


def _require(folder: Path, process: subprocess.Popen[bytes], trial: Trial) -> None:
    if process.returncode == 0 and _finished(folder):
        return
    failure = folder / "failure-0.json"
    if failure.exists():
        why = durable.read_json(failure)["message"]
    else:
        lines = (folder / "stderr").read_text(errors="replace").strip().splitlines()
        why = "\n".join([f"it ended with code {process.returncode}", *lines[-15:]])
    names = ", ".join(ref.name for ref in (*trial.plan.offline, *trial.plan.online)) or "no augmentation"
    raise AblationFailed(f"the training of the ablation with {names}, seed {trial.seed}, failed: {why}")
