"""Metrics against scikit-learn, calibration against a plain loop, on random logits with ties and missing classes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special
from sklearn import metrics as reference

from dl_pipelines.tasks.classification import METRICS, auc, calibration_error, measure, reliability, softmax


def drawn(seed: int, rows: int, classes: int, used: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    """Logits [N, K] float32 that are right more often than not, targets [N] of the first `used` classes."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, used, rows)
    logits = rng.normal(size=(rows, classes)) + 1.5 * np.eye(classes)[targets]
    return (np.round(logits) if ties else logits).astype(np.float32), targets


CASES = [
    (rows, classes, used, ties)
    for rows in (2, 30, 500)
    for classes, used in ((2, 2), (5, 5), (7, 4), (10, 10))
    for ties in (False, True)
]


@pytest.mark.parametrize(("rows", "classes", "used", "ties"), CASES)
def test_metrics_are_scikit_learns(rows: int, classes: int, used: int, ties: bool):
    for seed in range(3):
        logits, targets = drawn(seed, rows, classes, used, ties)
        found, decided = measure(logits, targets), logits.argmax(axis=1)
        precision, recall, f1, _ = reference.precision_recall_fscore_support(
            targets, decided, average="macro", zero_division=0
        )
        probabilities = softmax(logits)  # held to SciPy's below: where scores tie, the last bit decides the rank
        assert found["accuracy"] == pytest.approx(reference.accuracy_score(targets, decided), abs=1e-12)
        assert found["precision"] == pytest.approx(precision, abs=1e-12)
        assert found["recall"] == pytest.approx(recall, abs=1e-12)
        assert found["f1"] == pytest.approx(f1, abs=1e-12)
        loss = reference.log_loss(targets, probabilities, labels=range(classes))
        assert found["loss"] == pytest.approx(loss, rel=1e-9)
        if len(set(targets)) < 2:
            assert "auc" not in found
        else:
            areas = [reference.roc_auc_score(targets == k, probabilities[:, k]) for k in sorted(set(targets))]
            assert found["auc"] == pytest.approx(np.mean(areas), abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_auc_is_scikit_learns_ovr_where_that_is_defined(ties: bool):
    logits, targets = drawn(0, 400, 6, 6, ties)
    probabilities = softmax(logits)
    expected = reference.roc_auc_score(targets, probabilities, multi_class="ovr", average="macro")
    assert auc(probabilities, targets) == pytest.approx(expected, abs=1e-12)


def test_constant_scores_are_worth_half():
    assert auc(np.full((10, 2), 0.5), np.arange(10) % 2) == 0.5


def test_softmax_stays_finite_and_shifts_nothing():
    logits = np.array([[1e4, 0, -1e4], [1, 2, 3]], np.float32)
    assert softmax(logits)[0].tolist() == [1, 0, 0]
    drawn_logits, _ = drawn(0, 50, 5, 5, True)
    assert softmax(drawn_logits) == pytest.approx(special.softmax(drawn_logits.astype(float), axis=1), abs=1e-15)
    assert softmax(logits)[1] == pytest.approx(softmax(logits + 50)[1], abs=1e-5)
    assert softmax(logits).sum(axis=1) == pytest.approx([1, 1])


def slow_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int) -> float:
    """Naeini et al., 2015, equation 1, row by row."""
    total = 0.0
    for number in range(bins):
        inside = [
            row
            for row, value in enumerate(confidence)
            if number / bins <= value < (number + 1) / bins or (number == bins - 1 and value == 1)
        ]
        if inside:
            gap = sum(correct[row] for row in inside) / len(inside) - sum(confidence[row] for row in inside) / len(
                inside
            )
            total += len(inside) / len(confidence) * abs(gap)
    return total


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_the_calibration_error_is_a_plain_loops(bins: int):
    rng = np.random.default_rng(0)
    for rows in (1, 7, 300):
        confidence = np.append(rng.uniform(0, 1, rows), [0.0, 1.0])
        correct = rng.uniform(size=rows + 2) < confidence
        expected = slow_calibration_error(confidence, correct, bins)
        assert calibration_error(confidence, correct, bins) == pytest.approx(expected, abs=1e-12)


def test_a_perfect_confidence_has_no_error():
    assert calibration_error(np.full(100, 0.8), np.arange(100) < 80) == pytest.approx(0, abs=1e-12)
    assert calibration_error(np.ones(10), np.zeros(10, bool)) == 1


def test_the_bins_sum_to_the_calibration_error():
    logits, targets = drawn(1, 400, 5, 5, False)
    lines = reliability(logits, targets)
    assert sum(line["rows"] for line in lines) == 400
    summed = sum(line["rows"] * abs(line["accuracy"] - line["confidence"]) for line in lines) / 400
    assert summed == pytest.approx(measure(logits, targets)["calibration_error"], abs=1e-5)
    assert [line["confidence"] for line in lines] == sorted(line["confidence"] for line in lines)


def test_every_metric_is_measured_and_described():
    assert set(measure(*drawn(0, 50, 4, 4, False))) == set(METRICS)
    assert {name for name, metric in METRICS.items() if metric.better == "lower"} == {"loss", "calibration_error"}


def test_what_is_not_determined_is_absent():
    logits, targets = drawn(0, 20, 3, 3, False)
    assert measure(logits[:0], targets[:0]) == {}
    assert reliability(logits[:0], targets[:0]) == []
    assert "auc" not in measure(logits, np.zeros(20, int))
    for bad in (np.nan, np.inf):
        broken = logits.copy()
        broken[3, 1] = bad
        assert measure(broken, targets) == {}
        assert reliability(broken, targets) == []
