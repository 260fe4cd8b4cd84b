"""Candidates of an architecture comparison: trained alike in the pool, scored on validation rows, timed one by one.

It measures and decides nothing; what the figures say is choosing.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dl_pipelines.brief.references import FamilyRef
from dl_pipelines.brief.sections import Architecture, Compression, Evaluation
from dl_pipelines.evaluation.candidate_model import Model, Unable, first_line
from dl_pipelines.models.registry import FAMILIES
from dl_pipelines.store import durable
from dl_pipelines.store.digest import SHORT, digest_json
from dl_pipelines.tasks.base import Rows, Task
from dl_pipelines.training.job import FINAL, RESULT, Job

if TYPE_CHECKING:
    import numpy as np

    from dl_pipelines.inference.runtimes import Session
    from dl_pipelines.training.energy import Counter
    from dl_pipelines.training.pool import Ended

BATCH = 64
"""Rows at once, where throughput is measured."""
ENERGY_SECONDS = 0.5
"""Each candidate answers alone for so long, where a counter tells the energy."""
Say = Callable[[str, int, int], None]


class ComparisonFailed(ValueError):
    """No candidate at all could be trained: what is wrong is not an architecture's."""


@dataclass(frozen=True)
class Candidate:
    """A family of the brief with its params, and what it is called among the others."""

    name: str
    family: FamilyRef

    @property
    def key(self) -> str:
        """By its content: names its folders."""
        return _key(self.family)


def _key(family: FamilyRef) -> str:
    params = FAMILIES.make(family).params.model_dump(mode="json")
    return digest_json({"name": family.name, "params": params})[:SHORT]


def candidates_of(architecture: Architecture) -> list[Candidate]:
    """The brief's own family, then those of the comparison; what is the same but for defaults counts once."""
    refs: dict[str, FamilyRef] = {}
    for ref in (architecture.family, *architecture.comparison.candidates):
        refs.setdefault(_key(ref), ref)
    names = [ref.name for ref in refs.values()]
    return [Candidate(ref.name if names.count(ref.name) == 1 else _full_name(ref), ref) for ref in refs.values()]


def _full_name(family: FamilyRef) -> str:
    params = ", ".join(f"{name} {value}" for name, value in family.params.items())
    return f"{family.name} ({params})" if params else family.name


@dataclass(frozen=True)
class Bench:
    """What all candidates have in common: the job, the validation rows, how they are scored and timed."""

    task: Task
    job: Job
    seeds: int
    validation: Rows
    evaluation: Evaluation
    compression: Compression
    threads: int
    say: Say

    def run(self, candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
        """A row each, in their order: figures, or the `reason` why there are none. An interrupted run goes on.

        Raises ComparisonFailed.
        """
        failed = self._train(candidates)
        _require_one(candidates, failed)
        models, rows = {}, {}
        for done, candidate in enumerate(candidates):
            self.say(f"scoring {candidate.name} on the validation rows", done, len(candidates))
            rows[candidate.key] = self._about(candidate)
            try:
                if candidate.key in failed:
                    raise Unable(failed[candidate.key])
                models[candidate.key] = Model(self, candidate)
            except Unable as error:
                rows[candidate.key]["reason"] = str(error)
        self.say("timing them, interleaved", len(candidates), len(candidates))
        timed = self._timed({key: model.session for key, model in models.items()})
        best = self._best(models)
        for key, model in models.items():
            rows[key] |= {**model.figures(best), **timed[key]}
        return list(rows.values())

    def _about(self, candidate: Candidate) -> dict[str, Any]:
        family = FAMILIES.load(candidate.family.name)
        return {
            "candidate": candidate.name, "family": candidate.family.model_dump(mode="json"),
            "template_row": family.template_row, "reason": None,
        }  # fmt: skip

    def job_of(self, candidate: Candidate, seed: int) -> Job:
        """A candidate's training with a seed of its own; with its default loss where it has not the brief's."""
        given = self.job.training
        changed = {"seed": given.seed + seed, "loss": loss_of(candidate.family, given.loss)}
        plan = self.job.augmentation
        return replace(
            self.job,
            folder=self.job.folder / f"{candidate.key}-{seed}",
            family=candidate.family,
            training=given.model_copy(update=changed),
            augmentation=plan.model_copy(update={"seed": plan.seed + seed}),
        )

    def _train(self, candidates: Sequence[Candidate]) -> dict[str, str]:
        """Every candidate with every seed; why those failed that did, by key."""
        from dl_pipelines.training.pool import Pool

        jobs = {self.job_of(one, seed).folder: (one, seed) for seed in range(self.seeds) for one in candidates}
        failed: dict[str, str] = {}
        left = [folder for folder in jobs if not is_done(folder)]
        self.say(f"{len(jobs)} trainings of {len(candidates)} candidates", len(jobs) - len(left), len(jobs))
        if not left:
            return failed
        with Pool() as pool:
            for folder in left:
                pool.submit(self.job_of(*jobs[folder]))
            while pool.waiting:
                for ended in pool.wait():
                    candidate, seed = jobs[ended.job.folder]
                    if ended.error:
                        failed.setdefault(
                            candidate.key, f"its training with seed {seed} failed: {first_line(ended.error)}"
                        )
                    durable.remove_tree(ended.job.folder / "checkpoints")
                    self.say(self._told(candidate, ended), len(jobs) - pool.waiting, len(jobs))
        return failed

    def _told(self, candidate: Candidate, ended: Ended) -> str:
        if ended.error:
            return f"{candidate.name} failed"
        found = ended.curves[-1]["validation"].get(self.task.primary)
        return f"{candidate.name} is trained" + ("" if found is None else f": {self.task.primary} {found:.4g}")

    def _best(self, models: Mapping[str, Model]) -> Model | None:
        """The one with the best mean of the primary metric, the first of several."""
        sign = 1 if self.task.metrics[self.task.primary].better == "higher" else -1
        return max(models.values(), key=lambda model: sign * model.mean, default=None)

    def _timed(self, sessions: Mapping[str, Session]) -> dict[str, dict[str, Any]]:
        """Latency of one row, throughput of batches, energy, by candidate; nothing else of ours runs meanwhile."""
        import numpy as np

        from dl_pipelines.inference.timing import time_interleaved
        from dl_pipelines.training.energy import find_counter

        one, rounds = self.validation.inputs[:1].copy(), self.compression.timing_rounds
        batch = self.validation.inputs[np.arange(BATCH) % len(self.validation)].copy()
        alone = time_interleaved({key: lambda s=session: s.run(one) for key, session in sessions.items()}, rounds)
        # A batch takes as long as many rows: fewer rounds tell as much.
        many = time_interleaved(
            {key: lambda s=session: s.run(batch) for key, session in sessions.items()}, max(5, rounds // 3), warmup=2
        )
        counter, _ = find_counter()
        return {
            key: {
                "latency_ms": {"value": alone[key]["p50_ms"], "low": alone[key]["low"], "high": alone[key]["high"]},
                "throughput": {
                    "value": BATCH * 1e3 / many[key]["p50_ms"], "low": BATCH * 1e3 / many[key]["high"],
                    "high": BATCH * 1e3 / many[key]["low"],
                },
                "energy_j": None if counter is None else _energy(counter, session, batch),
            }
            for key, session in sessions.items()
        }  # fmt: skip


def _require_one(candidates: Sequence[Candidate], failed: Mapping[str, str]) -> None:
    if all(candidate.key in failed for candidate in candidates):
        told = "; ".join(f"{candidate.name}: {failed[candidate.key]}" for candidate in candidates)
        raise ComparisonFailed(
            f"found no candidate that could be trained ({told}); expected at least one; mend what they have in common"
        )


def validation_rows(folder: Path) -> Rows:
    """The validation rows of a folder of rows, read from the disk when they are looked at."""
    import numpy as np

    inputs, targets, ids = (
        np.load(folder / f"validation_{name}.npy", mmap_mode="c") for name in ("inputs", "targets", "ids")
    )
    return Rows(np.asarray(inputs), np.asarray(targets), np.asarray(ids))


def is_done(folder: Path) -> bool:
    """Whether a training has left its model there."""
    return (folder / FINAL).exists() and (folder / RESULT).exists()


def loss_of(family: FamilyRef, loss: str | None) -> str | None:
    """The loss of a brief where the family has it, else None: the family's first."""
    return loss if loss in getattr(FAMILIES.load(family.name), "losses", ()) else None


def _energy(counter: Counter, session: Session, batch: np.ndarray) -> float:
    """Joules of the machine for a thousand answers, in batches."""
    from dl_pipelines.training.energy import joules_of

    return round(joules_of(counter, lambda: len(session.run(batch)), ENERGY_SECONDS), 6)
