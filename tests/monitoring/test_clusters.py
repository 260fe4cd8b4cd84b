"""Drawing by clusters against plain loops; the rate of false alarms where rows share what happened in their cluster."""

import numpy as np
import pytest
from scipy.stats import norm, t

from dl_pipelines.monitoring.clusters import block_length, count_like, draw_clusters, members, some_of_each, widened
from dl_pipelines.monitoring.thresholds import JENSEN_SHANNON, WASSERSTEIN, Sample, Size, thresholds, wasserstein
from tests.monitoring.test_thresholds import scipy_jensen_shannon, scipy_wasserstein


def test_clusters_are_counted_at_the_distances_of_the_reference():
    weekly = np.repeat(20_000 + 7 * np.arange(30), 4)
    assert count_like(weekly, np.repeat(20_300 + 7 * np.arange(5), 50)) == 5
    assert count_like(weekly, np.repeat(20_300 + np.arange(5), 50)) == 1, "five days in a row are one week"
    assert count_like(weekly, np.repeat(20_300 + np.arange(15), 50)) == 3
    assert count_like(weekly, np.array([20_300.0])) == 1
    assert count_like(weekly, np.zeros(0)) == 0


def test_drawn_clusters_are_blocks_of_neighbours_of_the_right_number():
    first, second = draw_clusters(60, 5, 300, np.random.default_rng(0))
    assert first.shape == second.shape == (300, 60)
    assert set(first.sum(axis=1)) == {60} and set(second.sum(axis=1)) == {5}
    assert block_length(60, 5) == 5 and block_length(35, 5) == 3 and block_length(240, 2) == 2
    for counts in second[:20]:
        (start,) = [place for place in range(60) if all(counts[(place + step) % 60] == 1 for step in range(5))]
        assert counts[start] == 1
    assert first.mean(axis=0) == pytest.approx(np.ones(60), abs=0.35)


def test_rows_of_a_cluster_are_drawn_where_a_window_has_fewer():
    member = members(np.array([7.0, 7, 7, 14, 14, 21]))
    assert member.tolist() == [0, 0, 0, 1, 1, 2]
    found = some_of_each(np.array([[1, 0, 2]]), member, 2, np.random.default_rng(0))
    assert [found[0, member == place].sum() for place in range(3)] == [2, 0, 4]


@pytest.mark.parametrize(("total", "count"), [(35, 5), (240, 5), (1000, 1)])
def test_a_critical_value_is_widened_as_students_t(total, count):
    free = total / block_length(total, count) - 1
    assert widened(3.0, total, count) == pytest.approx(t.isf(norm.sf(3.0), free), rel=0.02)
    assert widened(3.0, total, count) > 3.0


def test_thresholds_of_clusters_are_those_of_a_plain_loop():
    rng, groups = np.random.default_rng(1), np.repeat(np.arange(24) * 7.0, np.arange(24) % 3 + 2)
    values = {"level": rng.normal(size=len(groups)) + groups / 100, "kind": rng.choice(["a", "b"], len(groups))}
    sample = Sample(values, {"level": WASSERSTEIN, "kind": JENSEN_SHANNON}, groups)
    first, second = draw_clusters(24, 4, 100, np.random.default_rng([7, 0, 12]))
    member, found = members(groups), {}
    for name, measure in (("level", scipy_wasserstein), ("kind", scipy_jensen_shannon)):
        found[name] = np.array([
            measure(np.repeat(values[name], one[member]), np.repeat(values[name], other[member]))
            for one, other in zip(first, second, strict=True)
        ])  # fmt: skip
    scores = np.array([(drawn - drawn.mean()) / drawn.std(ddof=1) for drawn in found.values()])
    critical = widened(sorted(scores.max(axis=0))[96 - 1], 24, 4)
    expected = {name: drawn.mean() + critical * drawn.std(ddof=1) for name, drawn in found.items()}
    assert thresholds((sample,), (Size(12, 4),), 0.05, 100, 7) == pytest.approx(expected, rel=1e-7)


def shared(rng, clusters, items=50):
    """[clusters, items]: what an item is like, what happened to all of them, what happened to one."""
    return rng.normal(size=(1, items)) + 0.7 * rng.normal(size=(clusters, 1)) + rng.normal(size=(clusters, items))


def alarms(times, by_cluster):
    """Of windows of 5 x 50 rows after references of 60 x 50, at a nominal rate of 2 %; nothing has changed."""
    rng, found = np.random.default_rng(3), 0
    for number in range(times):
        world = shared(rng, 65)
        groups = np.repeat(np.arange(60) * 7.0, 50) if by_cluster else None
        reference = Sample({"value": world[:60].ravel()}, {"value": WASSERSTEIN}, groups)
        limit = thresholds((reference,), (Size(250, 5 if by_cluster else None),), 0.02, 100, number)["value"]
        found += wasserstein(reference.values["value"], world[60:].ravel()) >= limit
    return found


def test_a_common_shock_is_no_alarm_when_clusters_are_drawn_and_mostly_one_when_rows_are():
    assert alarms(60, by_cluster=True) <= 4
    assert alarms(20, by_cluster=False) >= 8


def test_a_shift_of_all_clusters_is_still_found():
    rng = np.random.default_rng(0)
    world = shared(rng, 65)
    sample = Sample({"value": world[:60].ravel()}, {"value": WASSERSTEIN}, np.repeat(np.arange(60) * 7.0, 50))
    limit = thresholds((sample,), (Size(250, 5),), 0.02, 200, 0)["value"]
    assert wasserstein(sample.values["value"], world[60:].ravel()) < limit
    assert wasserstein(sample.values["value"], world[60:].ravel() + 3) > limit
