"""The figures of the search benchmark from made-up trainings."""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import spearmanr

from benchmarks.nas import DRAWN, Alone, _cost, _rank, ranks
from dl_pipelines.models.elastic import Space

SPACE = Space(((1, 2, 3),) * 3, ((1, 2),) * 3, 3)


@pytest.fixture
def alone() -> Alone:
    draw = np.random.default_rng(0)
    truth = np.linspace(0.8, 0.9, DRAWN)[:, None]
    return Alone(truth + draw.normal(0, 0.01, (DRAWN, 3)), draw.uniform(1, 3, (DRAWN, 3)))


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
