"""The figures of the search benchmark from made-up trainings."""

from collections import Counter
from itertools import combinations
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from scipy.stats import spearmanr

from benchmarks import nas
from benchmarks.nas import DRAWN, SEEDS, Alone, _cost, _rank, ranks
from dl_pipelines.models.elastic import Space
from dl_pipelines.store.durable import write_json
from dl_pipelines.training.job import RESULT, Job

SPACE = Space(((1, 2, 3),) * 3, ((1, 2),) * 3, 3)


@pytest.fixture
def alone() -> Alone:
    draw = np.random.default_rng(0)
    truth = np.linspace(0.8, 0.9, DRAWN)[:, None]
    return Alone(truth + draw.normal(0, 0.01, (DRAWN, 3)), draw.uniform(1, 3, DRAWN))


def test_ranks_are_compared_seed_by_seed(alone: Alone):
    shared = np.random.default_rng(1).permutation(DRAWN) + np.arange(DRAWN) * 2.0
    ours, peer = ranks(shared, alone.accuracy)
    seeds = alone.accuracy.T
    assert ours == pytest.approx(np.mean([spearmanr(shared, one).statistic for one in seeds]))
    assert peer == pytest.approx(np.mean([spearmanr(*pair).statistic for pair in combinations(seeds, 2)]))
    found = _rank(alone, list(shared), SPACE)
    assert found.ratio == pytest.approx(ours / peer, abs=1e-3)
    assert found.interval is not None and found.interval[0] < found.ratio < found.interval[1]
    assert found.conditions["spread_points"] == pytest.approx(100 * np.ptp(alone.accuracy.mean(axis=1)), abs=0.01)


def test_the_cost_is_of_every_network_of_the_space(alone: Alone):
    found = _cost(alone, 10.0, {"looked": 100}, SPACE)
    each = alone.seconds.mean()
    assert len(SPACE) == 216 and found.ratio == pytest.approx(each * 216 / 10, abs=0.1)
    assert found.conditions["against_looked"] == pytest.approx(each * 10, abs=0.1)
    assert found.conditions["against_drawn"] == pytest.approx(each * DRAWN / 10, abs=0.01)


class Crowd:
    """A pool of no processes, in which a training takes a second for each that runs at once."""

    made: ClassVar[list[tuple[int, str]]] = []
    waiting = 0

    def __init__(self, side: int = 2):
        self.side = side

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, job: Job) -> None:
        self.made.append((self.side, job.folder.name))
        job.folder.mkdir()
        accuracy = len(self.made) % 24 / 100
        curves = [{"validation": {"accuracy": accuracy}}]
        write_json(job.folder / RESULT, {"seconds": float(self.side), "curves": curves})


def test_a_training_whose_time_is_told_runs_alone(monkeypatch: pytest.MonkeyPatch):
    start = SimpleNamespace(name="fp32", plan=None)
    search = SimpleNamespace(look=lambda: [1, 2, 3], seconds=dict, score=lambda point: point.widths[0])
    for name, stub in {"Pool": Crowd, "_start": lambda *_: start, "Search": lambda *_: search}.items():
        monkeypatch.setattr(nas, name, stub)
    monkeypatch.setattr(Crowd, "made", [])
    rank, cost = nas.nas()
    assert Counter(side for side, _ in Crowd.made) == {1: DRAWN, 2: DRAWN * (len(SEEDS) - 1)}
    assert all(name.endswith("-11") == (side == 1) for side, name in Crowd.made)
    assert cost.conditions["scratch_s"] == 1.0 and cost.peer == cost.conditions["space"] == 1728
    assert (cost.conditions["scratch_timed"], cost.conditions["threads"], rank.pairs) == (DRAWN, 1, DRAWN)
