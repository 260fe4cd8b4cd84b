"""The search against random search: wall time until a configuration is as good as the best of 64 random ones.

Both arms are the product's own (Run in its pool, Optuna's storage in a file): random trains every configuration
to its end, ours is TPE with successive halving. Same space, epochs, rows, processes; the brief's own settings, which
both try first, are drawn from the space by the seed. Only a configuration that was trained to its end counts, in both.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contract import Comparison, main, paired
from dl_pipelines.brief.references import FamilyRef, TaskRef
from dl_pipelines.brief.sections import Architecture, AugmentationPlan, Distributed, Range, Search, Training
from dl_pipelines.training.asha import ladder
from dl_pipelines.training.job import Job
from dl_pipelines.training.pool import Pool
from dl_pipelines.training.study_run import Run
from dl_pipelines.training.study_space import configured, dimensions
from dl_pipelines.training.study_store import Trials, open_storage

SEEDS = (101, 102, 103, 104, 105)
"""Not those that the sampler's settings were tried with."""
RANDOM = 64
MOST = 256
"""Configurations of ours, should it not be there before."""
EPOCHS = 27
TRAIN, VALIDATION = 800, 400
SPACE = {
    "training.learning_rate": Range(low=1e-4, high=1.0, log=True),
    "training.optimizer": Range(choices=("adamw", "sgd", "rmsprop")),
    "training.batch_size": Range(low=32, high=256, log=True),
    "training.weight_decay": Range(low=1e-6, high=0.1, log=True),
    "training.label_smoothing": Range(low=0.0, high=0.3),
    "architecture.family.params.width": Range(low=4, high=16, log=True),
}
TASK = {"classes": [str(place) for place in range(10)], "height": 8, "width": 8, "channels": 1}


class Reached(Exception):
    """The target was met."""


@dataclass
class Arm:
    """One search: when each configuration that was trained to its end was known, in seconds, and its loss."""

    ended: dict[int, tuple[float, float]] = field(default_factory=dict)
    seconds: float = 0.0
    configurations: int = 0

    @property
    def best(self) -> float:
        """The lowest loss."""
        return min(loss for _, loss in self.ended.values())

    def until(self, target: float) -> float | None:
        """Seconds until a loss was at most that."""
        return next((at for at, loss in self.ended.values() if loss <= target), None)


def search() -> Iterator[Comparison]:
    """Both readings: until random search had found its best, and until it had tried all."""
    with tempfile.TemporaryDirectory() as held, Pool() as pool:
        folder = Path(held)
        rows = _rows(folder / "rows")
        _warm(pool, folder, rows)
        pairs = [_pair(pool, folder / str(seed), rows, seed) for seed in SEEDS]
    ours = [one.until(other.best) or one.seconds for one, other in pairs]
    found = [other.until(other.best) or other.seconds for _, other in pairs]
    whole = [other.seconds for _, other in pairs]
    about: dict[str, Any] = {
        "limit": 5, "goal": 10, "side": pool.side, "epochs": EPOCHS, "train_rows": TRAIN, "fields": len(SPACE),
        "reached": f"{sum(one.until(other.best) is not None for one, other in pairs)} of {len(pairs)}",
        "configurations": [one.configurations for one, _ in pairs], "target": [other.best for _, other in pairs],
    }  # fmt: skip
    yield paired("search.random", ours, found, "s", timed="until random's best was found, by either", **about)
    yield paired("search.random_whole", ours, whole, "s", timed=f"until it was found; all {RANDOM} of random", **about)


def _pair(pool: Pool, folder: Path, rows: Path, seed: int) -> tuple[Arm, Arm]:
    """Ours and random's."""
    other = run(pool, folder / "random", rows, Search(trials=RANDOM, sampler="random", pruner="none", seed=seed))
    ours = run(pool, folder / "ours", rows, Search(trials=MOST, seed=seed + 1000), own=seed, target=other.best)
    return ours, other


def run(
    pool: Pool, folder: Path, rows: Path, search: Search, own: int | None = None, target: float | None = None
) -> Arm:
    """One arm, until its last configuration or the target; the clock starts when the pool is warm and idle."""
    import optuna

    architecture, training = drawn(search.seed if own is None else own)
    fields = dimensions(architecture, training, SPACE)
    arm = Arm()
    started = time.perf_counter()
    with open_storage(f"sqlite:///{folder / 'optuna.sqlite'}") as storage:
        study = optuna.create_study(storage=storage, study_name="search")
        trials = Trials(storage, study, fields, search, ladder(search.pruner, EPOCHS), 1.0)

        def hear(*_: Any) -> None:
            for trial in trials.all():
                if trial.state.name == "COMPLETE" and trial.number not in arm.ended and trial.value is not None:
                    arm.ended[trial.number] = time.perf_counter() - started, trial.value
            if target is not None and arm.until(target) is not None:
                raise Reached

        def job(place: Path, params: Any) -> Job:
            return make_job(place, rows, *configured(architecture, training, params))

        with contextlib.suppress(Reached):
            Run(trials, job, "loss", "accuracy", True, folder / "trials", hear).run(pool)
        arm.seconds, arm.configurations = time.perf_counter() - started, len(trials.all())
    while pool.waiting:  # what still trains must not slow the next arm
        pool.wait()
    return arm


def drawn(seed: int) -> tuple[Architecture, Training]:
    """The brief's own settings: a point of the space."""
    rng = np.random.default_rng(seed)
    params = {}
    for path, given in SPACE.items():
        if given.choices:
            params[path] = given.choices[rng.integers(len(given.choices))]
            continue
        assert given.low is not None
        assert given.high is not None
        low, high = (np.log(end) if given.log else end for end in (given.low, given.high))
        value = float(rng.uniform(low, high))
        value = float(np.exp(value)) if given.log else value
        params[path] = round(value) if given.whole else value
    family = FamilyRef(name="cnn", params={"blocks": 1})
    plain = Training(epochs=EPOCHS, compile="off", device="cpu")
    return configured(Architecture(family=family), plain, params)


def make_job(place: Path, rows: Path, architecture: Architecture, training: Training) -> Job:
    """A training of the digits."""
    return Job(
        folder=place, rows=rows, task=TaskRef(name="image_classification", params=TASK), family=architecture.family,
        training=training, distributed=Distributed(communicator="single", workers=1, threads=1),
        augmentation=AugmentationPlan(), statistics={"mean": [0.3], "std": [0.38]},
    )  # fmt: skip


def _rows(folder: Path) -> Path:
    from sklearn.datasets import load_digits

    folder.mkdir(parents=True)
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.images))
    for split, chosen in (("train", order[:TRAIN]), ("validation", order[TRAIN : TRAIN + VALIDATION])):
        arrays = {
            "inputs": (found.images[chosen] * 15).astype(np.uint8)[..., None],
            "targets": found.target[chosen].astype(np.int64),
            "ids": np.array([f"r{place:04d}" for place in chosen]),
        }
        for name, value in arrays.items():
            np.save(folder / f"{split}_{name}.npy", value, allow_pickle=False)
    return folder


def _warm(pool: Pool, folder: Path, rows: Path) -> None:
    """A short training in each process: none of the clocks counts an import."""
    for place in range(pool.side):
        architecture, training = drawn(place)
        pool.submit(make_job(folder / f"warm-{place}", rows, architecture, training), until=1)
    while pool.waiting:
        pool.wait()


if __name__ == "__main__":
    main({"search": search}, str(__doc__))
