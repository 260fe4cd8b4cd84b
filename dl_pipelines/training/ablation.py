"""The trainings behind an ablation of augmentations: one for each plan and seed, side by side, each by one thread.

Which plans there are, their rows, and running them; what their models are worth is measured in evaluation/ablation.py.
Every training takes as many steps: where a plan has lost its stored variants, the records are repeated as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dl_pipelines.brief.references import AugmentationRef
from dl_pipelines.brief.sections import AugmentationPlan, Data
from dl_pipelines.data.augmentation import grow
from dl_pipelines.data.batches import splits_of, window_table
from dl_pipelines.store import durable
from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.store.digest import SHORT, digest_json
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.tasks.base import Rows, Task
from dl_pipelines.training.job import FINAL, RESULT, Job, write_rows
from dl_pipelines.training.pool import Pool

if TYPE_CHECKING:
    import numpy as np

Where = Literal["online", "offline"]
WHERE: tuple[Where, Where] = ("offline", "online")


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
    folders = {trial.key: job.folder / trial.key for trial in trials}
    left = [trial for trial in trials if not _finished(folders[trial.key])]
    for trial in trials:
        if trial not in left:
            done(trial, _metrics(folders[trial.key]))
    by_folder = {folders[trial.key]: trial for trial in left}
    waiting, going = list(left), []
    with Pool() as pool:
        while waiting or going:
            # Rows are written when it is their turn: all plans' rows at once would fill the disk.
            while waiting and pool.waiting < pool.side:
                going.append(trial := waiting.pop(0))
                rows = _shared_rows(job.folder, trial, train, validation)
                pool.submit(_job(job, trial, rows))
            for ended in pool.wait():
                trial = by_folder[ended.job.folder]
                going.remove(trial)
                if ended.error is not None:
                    raise AblationFailed(f"the training of the ablation with {_names(trial)} failed: {ended.error}")
                _tidy(job.folder, trial, [*waiting, *going])
                done(trial, ended.curves[-1]["validation"])
    return {key: folder / FINAL for key, folder in folders.items()}


def _job(job: Job, trial: Trial, rows: Path) -> Job:
    training = job.training.model_copy(update={"seed": job.training.seed + trial.seed})
    return replace(job, folder=job.folder / trial.key, rows=rows, training=training, augmentation=trial.seeded)


def _shared_rows(folder: Path, trial: Trial, train: Callable[[AugmentationPlan], Rows], validation: Rows) -> Path:
    """Where the rows of a trial are, written once for all that have the same."""
    shared = folder / f"rows-{trial.rows_key}"
    if not (shared / "whole").exists():
        shared.mkdir(parents=True, exist_ok=True)
        write_rows(shared, "train", train(trial.seeded))
        write_rows(shared, "validation", validation)
        durable.write_text(shared / "whole", "")
    return shared


def _tidy(folder: Path, trial: Trial, others: Sequence[Trial]) -> None:
    """Remove what only a running trial needs: its checkpoints, and rows that no other trial is waiting for."""
    durable.remove_tree(folder / trial.key / "checkpoints")
    if all(other.rows_key != trial.rows_key for other in others):
        durable.remove_tree(folder / f"rows-{trial.rows_key}")


def _finished(folder: Path) -> bool:
    return (folder / RESULT).exists() and (folder / FINAL).exists()


def _metrics(folder: Path) -> dict[str, float]:
    return durable.read_json(folder / RESULT)["curves"][-1]["validation"]


def _names(trial: Trial) -> str:
    names = ", ".join(ref.name for ref in (*trial.plan.offline, *trial.plan.online)) or "no augmentation"
    return f"{names}, seed {trial.seed},"
