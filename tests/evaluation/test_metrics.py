"""Intervals against SciPy's bootstrap, their coverage on a known case, the paired difference."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dl_pipelines.evaluation.metrics import paired_difference, with_intervals
from dl_pipelines.tasks.image_classification import ImageClassification


@pytest.fixture(scope="module")
def three() -> ImageClassification:
    return ImageClassification(ImageClassification.Params(classes=("a", "b", "c")))


def drawn(seed: int, rows: int, right: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits [N, 3] whose decision is right with probability `right`, targets [N]."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 3, rows)
    decided = np.where(rng.uniform(size=rows) < right, targets, (targets + 1) % 3)
    return rng.normal(0, 0.2, (rows, 3)) + 2 * np.eye(3)[decided], targets


@pytest.mark.parametrize("metric", ["accuracy", "f1", "loss"])
def test_an_interval_is_scipys_percentile_bootstrap(three: ImageClassification, metric: str):
    logits, targets = drawn(0, 200, 0.8)
    found = with_intervals(three, logits, targets, 500, 0.9, seed=0)[metric]
    rows = np.arange(len(targets))

    def statistic(chosen: np.ndarray) -> float:
        return three.measure(logits[chosen], targets[chosen])[metric]

    expected = stats.bootstrap(
        (rows,), statistic, n_resamples=500, confidence_level=0.9, method="percentile", vectorized=False,
        rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    # Each end is a quantile of 500 draws: the difference of two has a deviation of 4 % of the interval's width.
    width = expected.high - expected.low
    assert found["low"] == pytest.approx(expected.low, abs=0.12 * width)
    assert found["high"] == pytest.approx(expected.high, abs=0.12 * width)
    assert found["value"] == pytest.approx(statistic(rows), abs=1e-6)


def test_intervals_hold_the_truth_as_often_as_they_say(three: ImageClassification):
    held = 0
    for seed in range(80):
        logits, targets = drawn(seed, 150, 0.8)
        found = with_intervals(three, logits, targets, 60, 0.8, seed)["accuracy"]
        held += found["low"] <= 0.8 <= found["high"]
    # 64 of 80 are expected, with a deviation of 3.6.
    assert 50 <= held <= 77


def test_the_same_seed_gives_the_same_interval(three: ImageClassification):
    logits, targets = drawn(0, 100, 0.8)
    first, again, other = (with_intervals(three, logits, targets, 100, 0.95, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_more_confidence_is_a_wider_interval(three: ImageClassification):
    logits, targets = drawn(0, 100, 0.8)
    widths = []
    for confidence in (0.6, 0.9, 0.99):
        found = with_intervals(three, logits, targets, 200, confidence, 0)["accuracy"]
        widths.append(found["high"] - found["low"])
    assert widths == sorted(widths)
    assert widths[0] < widths[2]


def test_what_a_resample_does_not_determine_is_left_out_of_it(three: ImageClassification):
    logits, targets = np.eye(3)[[0, 1]], np.array([0, 1])  # half the resamples of two rows hold one class
    found = with_intervals(three, logits, targets, 200, 0.95, 0)
    assert found["auc"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    alone = with_intervals(three, logits[:1], targets[:1], 100, 0.95, 0)
    assert "auc" not in alone
    assert alone["accuracy"] == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_no_rows_and_no_numbers_have_no_metrics(three: ImageClassification):
    logits, targets = drawn(0, 20, 0.8)
    assert with_intervals(three, logits[:0], targets[:0], 100, 0.95, 0) == {}
    assert with_intervals(three, logits * np.nan, targets, 100, 0.95, 0) == {}


def test_a_paired_difference_is_narrower_than_two_intervals(three: ImageClassification):
    first, targets = drawn(0, 400, 0.8)
    second = first.copy()
    wrong = np.flatnonzero(first.argmax(1) != targets)[:12]
    second[wrong] = 2 * np.eye(3)[targets[wrong]]
    found = paired_difference(three, "accuracy", first, second, targets, 400, 0.95, 0)
    assert found["value"] == pytest.approx(12 / 400, abs=1e-6)
    # The difference a row is 1 with probability 12/400, else 0.
    deviation = (0.03 * 0.97 / 400) ** 0.5
    assert found["low"] == pytest.approx(0.03 - 1.96 * deviation, abs=0.4 * deviation)
    assert found["high"] == pytest.approx(0.03 + 1.96 * deviation, abs=0.4 * deviation)
    apart = with_intervals(three, first, targets, 400, 0.95, 0)["accuracy"]
    assert found["high"] - found["low"] < 0.5 * (apart["high"] - apart["low"])
    back = paired_difference(three, "accuracy", second, first, targets, 400, 0.95, 0)
    assert (back["value"], back["low"], back["high"]) == (-found["value"], -found["high"], -found["low"])


def test_a_model_does_not_differ_from_itself(three: ImageClassification):
    logits, targets = drawn(0, 50, 0.8)
    for metric in ("accuracy", "loss"):
        found = paired_difference(three, metric, logits, logits.copy(), targets, 100, 0.95, 0)
        assert found == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_a_metric_that_is_not_determined_has_no_difference(three: ImageClassification):
    with pytest.raises(KeyError, match="auc"):
        paired_difference(three, "auc", np.eye(3), np.eye(3), np.zeros(3, int), 100, 0.95, 0)
