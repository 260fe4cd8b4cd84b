"""Architecture search: whether shared weights rank networks as training from scratch does, and what the search spares.

The search is the product's own, up to its choice: shared training, exports and timing for the costs, scores of the
networks that it looks at. Peers are trainings from scratch of networks drawn evenly from the same space, by the same
loop, rows and epochs. What is timed runs alone, by one thread: the search, and a training of each of those networks.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contract import Comparison, main
from dl_pipelines.brief.references import FamilyRef, TaskRef
from dl_pipelines.brief.sections import AugmentationPlan, Compression, Distributed, Training
from dl_pipelines.compression.architecture_search import ArchitectureSearch
from dl_pipelines.compression.base import Network
from dl_pipelines.compression.search_front import rank_correlation
from dl_pipelines.compression.search_run import Search
from dl_pipelines.compression.trials import Bench
from dl_pipelines.compression.workshop import Workshop
from dl_pipelines.inference.export import export_onnx
from dl_pipelines.models.elastic import Point, Space, searchable
from dl_pipelines.models.plan import NetworkPlan
from dl_pipelines.store.durable import read_json
from dl_pipelines.tasks.base import Rows
from dl_pipelines.tasks.registry import TASKS
from dl_pipelines.training.job import FINAL, RESULT, Job
from dl_pipelines.training.launch import run_locally
from dl_pipelines.training.pool import Pool

FAMILY = FamilyRef(name="cnn", params={"width": 16, "blocks": 3})
PARAMS = ArchitectureSearch.Params(depths=(1, 2, 3))
"""The defaults but for a third layer: four widths and three depths of each of three blocks, 1,728 networks."""
EPOCHS = 20
TRAIN, NOISE = 600, 40
"""Rows that train, and the deviation of the noise on all: without it the networks are all as good."""
DRAWN, DRAW = 24, 101
"""Networks that are trained from scratch, and the seed that draws them: not one that settings were tried with."""
SEEDS = (11, 12, 13)
RESAMPLES = 2000
TASK = TaskRef(
    name="image_classification",
    params={"classes": [str(place) for place in range(10)], "height": 8, "width": 8, "channels": 1},
)
STATISTICS = {"mean": [0.3], "std": [0.38]}


@dataclass(frozen=True)
class Alone:
    """Networks trained from scratch: accuracy [networks, seeds], seconds of a training [networks], alone."""

    accuracy: np.ndarray
    seconds: np.ndarray

    @property
    def spread(self) -> float:
        """Of the means over seeds, in points."""
        return 100 * float(np.ptp(self.accuracy.mean(axis=1)))


def nas() -> Iterator[Comparison]:
    """Both figures, from one search."""
    import torch

    with tempfile.TemporaryDirectory() as held:
        folder = Path(held)
        _rows(folder / "rows")
        space = searchable(FAMILY).space(PARAMS.widths, PARAMS.depths, PARAMS.shortest)
        assert space is not None
        points = [space[place] for place in sorted(random.Random(DRAW).sample(range(len(space)), DRAWN))]
        with Pool(1) as pool:
            start = _start(pool, folder)
            _train(pool, folder, points, SEEDS[:1])
        with Pool() as pool:  # of these no time is told
            _train(pool, folder, points, SEEDS[1:])
        alone = _alone(folder, points)
        torch.set_num_threads(1)
        search = Search(PARAMS, start, _workshop(folder, start), space)
        began = time.perf_counter()
        looked = search.look()
        seconds = time.perf_counter() - began
        yield _rank(alone, [search.score(point) for point in points], space)
        yield _cost(alone, seconds, {"looked": len(looked), **search.seconds()}, space)


def _rank(alone: Alone, shared: Sequence[float], space: Space) -> Comparison:
    ours, peer = ranks(shared, alone.accuracy)
    draw, drawn = np.random.default_rng(0), list[float]()
    for _ in range(RESAMPLES):
        chosen = draw.integers(0, len(shared), len(shared))
        one, other = ranks(np.asarray(shared)[chosen], alone.accuracy[chosen])
        drawn.append(one / other)
    low, high = np.percentile(drawn, (2.5, 97.5))
    about: dict[str, Any] = {
        "limit": 0.8, "seeds": len(SEEDS), "spread_points": round(alone.spread, 2), "spread_limit": 5,
        "scratch_accuracy": [round(float(value), 4) for value in np.sort(alone.accuracy.mean(axis=1))[[0, -1]]],
        "shared_accuracy": [round(min(shared), 4), round(max(shared), 4)], "space": len(space),
        "train_rows": TRAIN, "noise": NOISE, "epochs": EPOCHS, "peer_is": "scratch to scratch over seeds",
    }  # fmt: skip
    interval = (round(float(low), 3), round(float(high), 3))
    return Comparison(
        "nas.rank", round(ours, 4), round(peer, 4), "Spearman", round(ours / peer, 3), interval, len(shared), about
    )


def ranks(shared: Sequence[float] | np.ndarray, accuracy: np.ndarray) -> tuple[float, float]:
    """Mean correlation of shared scores [N] with each seed's accuracies [N, S]; of each two seeds with one another."""

    def mean(pairs: Sequence[tuple[Any, Any]]) -> float:
        return statistics.fmean(rank_correlation(list(one), list(other)) or 0.0 for one, other in pairs)

    seeds = list(accuracy.T)
    return mean([(shared, one) for one in seeds]), mean(list(combinations(seeds, 2)))


def _cost(alone: Alone, seconds: float, about: dict[str, Any], space: Space) -> Comparison:
    """The wall time of the search, and of the space's networks as long as those drawn from it took on average."""
    each = float(alone.seconds.mean())
    deviation = float(alone.seconds.std(ddof=1)) / len(alone.seconds) ** 0.5
    conditions: dict[str, Any] = {
        "limit": 20, "space": len(space), "widths": space.widths, "depths": space.depths,
        "peer_is": "networks of the space x mean seconds of a training from scratch (imports not counted)",
        "scratch_s": round(each, 3), "scratch_s_error": round(deviation, 3), "scratch_timed": len(alone.seconds),
        "threads": 1, "beside": "nothing else of the benchmark", "epochs": EPOCHS,
        "ours_is": "wall time of sharing (its process's start counted), exports, timing and scores",
        "shared_epochs": 2 * EPOCHS, **about, "against_looked": round(each * about["looked"] / seconds, 1),
        "against_drawn": round(each * DRAWN / seconds, 2),
    }  # fmt: skip
    whole = each * len(space)
    return Comparison(
        "nas.cost", round(seconds, 2), round(whole, 1), "s", round(whole / seconds, 1), None, 1, conditions
    )


def _start(pool: Pool, folder: Path) -> Network:
    """The trained network that the search begins from."""
    job = _job(folder / "start", folder / "rows", NetworkPlan(FAMILY, STATISTICS), 0)
    pool.submit(job)
    _wait(pool)
    plan, task = NetworkPlan(FAMILY, STATISTICS), TASKS.make(TASK)
    onnx = export_onnx(plan.load(task, job.folder / FINAL), task, job.folder / "model.onnx")
    return Network("fp32", plan, job.folder / FINAL, onnx)


def _train(pool: Pool, folder: Path, points: Sequence[Point], seeds: Sequence[int]) -> None:
    """Every network with every seed, from scratch, as many at once as the pool is wide."""
    family = searchable(FAMILY)
    for point in points:
        plan = NetworkPlan(FamilyRef(name=FAMILY.name, params=family.at(point)), STATISTICS)
        for seed in seeds:
            pool.submit(_job(folder / f"{point.name}-{seed}", folder / "rows", plan, seed))
    _wait(pool)


def _alone(folder: Path, points: Sequence[Point]) -> Alone:
    """Of the trained ones; the seconds are those of the first seed."""
    found = [[read_json(folder / f"{point.name}-{seed}" / RESULT) for seed in SEEDS] for point in points]
    accuracy = [[one["curves"][-1]["validation"]["accuracy"] for one in row] for row in found]
    return Alone(np.array(accuracy), np.array([row[0]["seconds"] for row in found]))


def _wait(pool: Pool) -> None:
    while pool.waiting:
        for ended in pool.wait():
            if ended.error:
                raise RuntimeError(f"{ended.job.folder.name}: {ended.error}")


def _job(place: Path, rows: Path, plan: NetworkPlan, seed: int) -> Job:
    training = Training(epochs=EPOCHS, learning_rate=0.003, compile="off", device="cpu", seed=seed)
    alone = Distributed(communicator="single", workers=1, threads=1)
    return Job(place, TASK, plan.family, training, alone, AugmentationPlan(), STATISTICS, rows)


def _workshop(folder: Path, start: Network) -> Workshop:
    rows = folder / "rows"
    validation = Rows(*(np.load(rows / f"validation_{name}.npy") for name in ("inputs", "targets", "ids")))
    train, decided = np.load(rows / "train_inputs.npy"), dict[str, Any]()

    def decide(name: str, measure: Callable[[], Any]) -> Any:
        if name not in decided:
            decided[name] = measure()
        return decided[name]

    bench = Bench(TASKS.make(TASK), validation, np.zeros((len(validation), 10), np.float32), 1, 30)
    return Workshop(
        bench, Compression(), lambda place: _job(place, rows, start.plan, 0), start, run_locally, folder / "search",
        lambda count: train[:count], decide, lambda *_: None,
    )  # fmt: skip


def _rows(folder: Path) -> None:
    """The digits, made harder by noise; `TRAIN` train, all others validate."""
    from sklearn.datasets import load_digits

    folder.mkdir(parents=True)
    found, draw = load_digits(), np.random.default_rng(0)
    order = draw.permutation(len(found.images))
    pixels = np.clip(found.images * 15 + draw.normal(0, NOISE, found.images.shape), 0, 255).astype(np.uint8)[..., None]
    for split, chosen in (("train", order[:TRAIN]), ("validation", order[TRAIN:])):
        np.save(folder / f"{split}_inputs.npy", pixels[chosen], allow_pickle=False)
        np.save(folder / f"{split}_targets.npy", found.target[chosen].astype(np.int64), allow_pickle=False)
        np.save(folder / f"{split}_ids.npy", np.array([f"r{place:04d}" for place in chosen]), allow_pickle=False)


if __name__ == "__main__":
    main({"nas": nas}, str(__doc__))
