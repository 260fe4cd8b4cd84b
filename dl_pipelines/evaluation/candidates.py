"""Candidates of an architecture comparison: trained alike in the pool, scored on validation rows, timed one by one.

It measures and decides nothing; what the figures say is choosing.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dl_pipelines.brief.sections import Architecture, Compression, Evaluation, FamilyRef
from dl_pipelines.evaluation.metrics import Estimate, estimate, over_seeds
from dl_pipelines.models.registry import FAMILIES
from dl_pipelines.store import durable
from dl_pipelines.store.digest import SHORT, digest_json
from dl_pipelines.tasks.base import Rows, Task
from dl_pipelines.training.job import FINAL, RESULT, Job

if TYPE_CHECKING:
    import numpy as np
    import torch

    from dl_pipelines.inference.runtimes import Session
    from dl_pipelines.training.energy import Counter
    from dl_pipelines.training.pool import Ended

BATCH = 64
"""Rows at once, where throughput is measured."""
MOST_DRAWS = 400
"""Resamples of the rows: beside what the seeds differ by, more would cost seconds a candidate and change nothing."""
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
                    raise _Unable(failed[candidate.key])
                models[candidate.key] = _Model(self, candidate)
            except _Unable as error:
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
                        failed.setdefault(candidate.key, f"its training with seed {seed} failed: {_first(ended.error)}")
                    durable.remove_tree(ended.job.folder / "checkpoints")
                    self.say(self._told(candidate, ended), len(jobs) - pool.waiting, len(jobs))
        return failed

    def _told(self, candidate: Candidate, ended: Ended) -> str:
        if ended.error:
            return f"{candidate.name} failed"
        found = ended.curves[-1]["validation"].get(self.task.primary)
        return f"{candidate.name} is trained" + ("" if found is None else f": {self.task.primary} {found:.4g}")

    def _best(self, models: Mapping[str, _Model]) -> _Model | None:
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


class _Unable(ValueError):
    """Why a candidate has no figures."""


class _Model:
    """The trained networks of a candidate, a seed each: how they answer the validation rows; the first one's file."""

    def __init__(self, bench: Bench, candidate: Candidate):
        from dl_pipelines.evaluation.evaluate import answer
        from dl_pipelines.models.layers import count_parameters

        self.bench, task, rows, given = bench, bench.task, bench.validation, bench.evaluation
        self.metrics: list[dict[str, float]] = []
        self.drawn: list[np.ndarray] = []
        self.seconds: list[float] = []
        draws = min(given.resamples, MOST_DRAWS)
        for seed in range(bench.seeds):
            folder = bench.job_of(candidate, seed).folder
            network = _network(bench, candidate, folder)
            outputs = answer(network, rows.inputs)
            self.metrics.append(task.measure(outputs, rows.targets))
            if task.primary not in self.metrics[-1]:
                raise _Unable(f"{task.primary} can't be measured on its answers to the validation rows")
            self.drawn.append(task.resampled(outputs, rows.targets, draws, given.seed)[task.primary])
            self.seconds.append(sum(line["seconds"] for line in durable.read_json(folder / RESULT)["curves"]))
            if not seed:
                self.parameters = count_parameters(network)
                self.path, self.session = _exported(bench, candidate, network)

    @property
    def values(self) -> list[float]:
        """The primary metric of each seed."""
        return [found[self.bench.task.primary] for found in self.metrics]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return sum(self.values) / len(self.values)

    def figures(self, best: _Model | None) -> dict[str, Any]:
        """What is told of it; how far it is `behind` the best is of the same rows and seeds."""
        import numpy as np

        assert best is not None
        task, given = self.bench.task, self.bench.evaluation
        metric = task.metrics[task.primary]
        sign = 1.0 if metric.better == "higher" else -1.0
        apart = [sign * (a - b) for a, b in zip(best.values, self.values, strict=True)]
        drawn = [sign * (a - b) for a, b in zip(best.drawn, self.drawn, strict=True)]
        found = over_seeds(self.values, self.drawn, given.confidence, given.seed)
        behind = over_seeds(apart, drawn, given.confidence, given.seed)
        names = [name for name in task.metrics if all(name in item for item in self.metrics)]
        return {
            "parameters": self.parameters,
            "metric": _inside(found) if metric.unit == "share" else found,
            "values": [round(value, 6) for value in self.values],
            "metrics": {name: round(sum(item[name] for item in self.metrics) / len(self.metrics), 6) for name in names},
            "behind": _inside(behind, -1.0) if metric.unit == "share" else behind,
            "behind_rows": estimate(sum(apart) / len(apart), np.mean(drawn, axis=0), given.confidence),
            "size_mb": self.path.stat().st_size / 1e6,
            "train_seconds": _seconds(self.seconds, given.confidence),
        }


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


def _network(bench: Bench, candidate: Candidate, folder: Path) -> torch.nn.Module:
    from safetensors.torch import load_file

    network = FAMILIES.make(candidate.family).network(bench.task, bench.job.statistics)
    network.load_state_dict(load_file(folder / FINAL))
    return network.eval()


def _exported(bench: Bench, candidate: Candidate, network: torch.nn.Module) -> tuple[Path, Session]:
    """As a file that serves, opened. Raises _Unable."""
    from dl_pipelines.inference.export import ExportError, export_onnx
    from dl_pipelines.inference.runtimes import ModelRunError, RuntimeFileError, open_runtime

    try:
        path = export_onnx(network, bench.task, bench.job.folder / f"{candidate.key}.onnx")
        session = open_runtime("onnxruntime", path, bench.compression.threads)
        session.run(bench.validation.inputs[:1].copy())
    except (ExportError, RuntimeFileError, ModelRunError) as error:
        raise _Unable(f"it can't be served: {_first(str(error))}") from error
    return path, session


def _energy(counter: Counter, session: Session, batch: np.ndarray) -> float:
    """Joules of the machine for a thousand answers, in batches."""
    import time

    def work() -> int:
        end, count = time.monotonic() + ENERGY_SECONDS, 0
        while time.monotonic() < end:
            session.run(batch)
            count += len(batch)
        return count

    rows, joules = counter.around(work)
    return round(1000 * joules / rows, 6)


def _seconds(values: Sequence[float], confidence: float) -> Estimate:
    """Mean and Student's interval over the seeds, at least 0."""
    import numpy as np

    found = over_seeds(values, [np.full(10_000, value) for value in values], confidence, 0)
    return {name: max(0.0, value) for name, value in found.items()}


def _inside(found: Estimate, least: float = 0.0) -> Estimate:
    """A share can't leave 0 to 1, nor a difference of two -1 to 1; Student's interval of a few seeds may."""
    return {name: min(1.0, max(least, value)) for name, value in found.items()}


def _first(text: str) -> str:
    return next((line for line in text.splitlines() if line.strip()), "")
