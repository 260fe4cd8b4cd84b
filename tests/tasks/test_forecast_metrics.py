"""Metrics of forecasts against scikit-learn, a slow second implementation and hand-made arrays; their resamples."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from sklearn import metrics as reference

from dl_pipelines.tasks.forecast_metrics import METRICS, answer_features, measure, resampled, residuals, weights
from dl_pipelines.tasks.series import ITEM, MASE, ORIGIN, SCALE

LEVELS = (0.1, 0.5, 0.9)
HORIZON = 3


def made(
    items: int = 4, origins: int = 6, apart: int = 1, missing: float = 0.1, levels: tuple[float, ...] = LEVELS,
    horizon: int = HORIZON,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Outputs [N, H, 1 + Q] and targets [N, H + 4] of every item at every origin, item by item; some are missing."""
    rng = np.random.default_rng(0)
    rows = items * origins
    mean = rng.uniform(5, 50, (rows, horizon, 1))
    outputs = np.concatenate([mean, np.sort(mean + rng.normal(0, 4, (rows, horizon, len(levels))), axis=2)], axis=2)
    targets = np.concatenate([np.abs(mean[:, :, 0] + rng.normal(0, 5, (rows, horizon))), np.zeros((rows, 4))], axis=1)
    targets[:, :horizon][rng.uniform(size=(rows, horizon)) < missing] = np.nan
    targets[:, ITEM] = np.repeat(np.arange(items), origins)
    targets[:, ORIGIN] = np.tile(20000 + apart * np.arange(origins), items)
    targets[:, MASE] = rng.uniform(1, 3, rows)
    targets[:, SCALE] = rng.uniform(10, 30, rows)
    return outputs.astype(np.float32), targets.astype(np.float32)


def slowly(outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """The definitions, one item-day after the other."""
    absolute, size, symmetric, square, pinball, inside, scaled = [], [], [], [], [], [], []
    below: list[list[bool]] = [[] for _ in LEVELS]
    totals: dict[tuple[float, int], list[float]] = {}
    for output, target in zip(outputs.astype(float), targets.astype(float), strict=True):
        errors = []
        for step in range(HORIZON):
            y, mean, low, middle, high = target[step], *output[step]
            if math.isnan(y):
                continue
            errors.append(abs(y - middle))
            absolute.append(abs(y - middle))
            size.append(abs(y))
            symmetric.append(2 * abs(y - middle) / (abs(y) + abs(middle)))
            square.append((y - mean) ** 2)
            inside.append(low <= y <= high)
            for place, (level, value) in enumerate(zip(LEVELS, (low, middle, high), strict=True)):
                pinball.append(level * (y - value) if y >= value else (1 - level) * (value - y))
                below[place].append(y <= value)
            total = totals.setdefault((target[ORIGIN], step), [0.0, 0.0])
            total[0] += mean
            total[1] += y
        if errors and target[MASE] > 0:
            scaled.append(np.mean(errors) / target[MASE])
    found = {
        "mape": np.mean([abs(forecast - actual) / actual for forecast, actual in totals.values()]),
        "wape": sum(absolute) / sum(size),
        "smape": np.mean(symmetric),
        "mase": np.mean(scaled),
        "rmse": math.sqrt(np.mean(square)),
        "pinball": sum(pinball) / len(LEVELS) / sum(size),
        "coverage": np.mean(inside),
        "coverage_error": np.mean([abs(np.mean(hits) - level) for hits, level in zip(below, LEVELS, strict=True)]),
    }
    return {name: float(value) for name, value in found.items()}


def test_every_metric_is_what_a_slow_loop_says():
    outputs, targets = made()
    found = measure(outputs, targets, LEVELS)
    assert list(found) == list(METRICS)
    assert found == pytest.approx(slowly(outputs, targets), rel=1e-6)


def test_metrics_are_scikit_learns():
    outputs, targets = made(missing=0)
    found, y = measure(outputs, targets, LEVELS), targets[:, :HORIZON]
    losses = [reference.mean_pinball_loss(y.ravel(), outputs[:, :, 1 + place].ravel(), alpha=level)
              for place, level in enumerate(LEVELS)]  # fmt: skip
    assert found["pinball"] == pytest.approx(np.mean(losses) / y.mean(), rel=1e-5)
    assert found["rmse"] == pytest.approx(
        reference.root_mean_squared_error(y.ravel(), outputs[:, :, 0].ravel()), rel=1e-5
    )
    assert found["wape"] == pytest.approx(
        reference.mean_absolute_error(y.ravel(), outputs[:, :, 2].ravel()) / y.mean(), rel=1e-5
    )
    actual, forecast = (values.reshape(4, 6, HORIZON).sum(axis=0).ravel() for values in (y, outputs[:, :, 0]))
    assert found["mape"] == pytest.approx(reference.mean_absolute_percentage_error(actual, forecast), rel=1e-5)


def test_by_hand():
    outputs = np.array([[[12, 8, 10, 15], [6, 3, 5, 9]], [[3, 1, 2, 4], [0, 0, 0, 0]]], np.float32)
    targets = np.array([[10, 10, 7, 1, 2, 9], [5, 0, 7, 2, 0, 3]], np.float32)
    assert measure(outputs, targets, LEVELS) == pytest.approx({
        "mape": (0 / 15 + 4 / 10) / 2,  # 12 + 3 of 15, 6 + 0 of 10
        "wape": (0 + 5 + 3 + 0) / 25,
        "smape": (0 + 10 / 15 + 6 / 7 + 0) / 4,
        "mase": 2.5 / 2,  # the second item has no seasonal difference
        "rmse": math.sqrt((4 + 16 + 4 + 0) / 4),
        "pinball": ((0.2 + 0 + 0.5) + (0.7 + 2.5 + 0.9) + (0.4 + 1.5 + 0.9)) / 3 / 25,
        "coverage": 2 / 4,
        "coverage_error": (abs(0.25 - 0.1) + abs(0.5 - 0.5) + abs(0.5 - 0.9)) / 3,
    })  # fmt: skip


def test_one_item_is_its_own_total():
    outputs, targets = made(items=1, missing=0)
    assert measure(outputs, targets, LEVELS)["mape"] == pytest.approx(
        reference.mean_absolute_percentage_error(targets[:, :HORIZON].ravel(), outputs[:, :, 0].ravel()), rel=1e-5
    )


def test_an_origin_that_is_held_twice_counts_twice():
    outputs, targets = made(items=2, origins=2, missing=0)
    rows = np.array([0, 2, 0, 2, 1, 3])  # the first origin of both items twice, the second once
    first, second = (measure(outputs[[a, b]], targets[[a, b]], LEVELS)["mape"] for a, b in ((0, 2), (1, 3)))
    assert measure(outputs[rows], targets[rows], LEVELS)["mape"] == pytest.approx((2 * first + second) / 3)


def test_what_the_labels_of_clients_do_not_hold_is_absent():
    outputs, targets = made()
    targets[:, -4:] = np.nan
    found = measure(outputs, targets, LEVELS)
    assert set(found) == set(METRICS) - {"mape", "mase"}
    drawn = resampled(outputs, targets, LEVELS, 50, seed=0)
    assert np.isnan(drawn["mape"]).all()
    assert drawn["wape"].std() > 0


def test_what_no_row_determines_is_absent():
    outputs, targets = made()
    assert measure(outputs[:0], targets[:0], LEVELS) == {}
    assert resampled(outputs[:0], targets[:0], LEVELS, 10, 0) == {}
    nothing = targets.copy()
    nothing[:, :HORIZON] = np.nan
    assert measure(outputs, nothing, LEVELS) == {}
    zeros = targets.copy()
    zeros[:, :HORIZON] = 0
    assert set(measure(outputs, zeros, LEVELS)) == {"smape", "mase", "rmse", "coverage", "coverage_error"}
    assert "coverage" not in measure(outputs[:, :, [0, 2]], targets, (0.5,))


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_answers_that_are_not_finite_have_no_metrics(wrong: float):
    outputs, targets = made()
    outputs[0, 0, 0] = wrong
    assert measure(outputs, targets, LEVELS) == {}
    assert resampled(outputs, targets, LEVELS, 10, 0) == {}


def test_a_resample_is_the_metric_of_the_rows_it_draws():
    outputs, targets = made()
    drawn = resampled(outputs, targets, LEVELS, 20, seed=3)
    for place, counts in enumerate(weights(targets, 20, seed=3)):
        assert counts.sum() == 6
        rows = np.concatenate([
            np.flatnonzero(targets[:, ORIGIN] == 20000 + origin) for origin, count in enumerate(counts)
            for _ in range(int(count))
        ])  # fmt: skip
        for name, value in measure(outputs[rows], targets[rows], LEVELS).items():
            assert drawn[name][place] == pytest.approx(value, rel=1e-9)


def test_every_origin_once_is_the_metric_itself(monkeypatch: pytest.MonkeyPatch):
    outputs, targets = made()
    monkeypatch.setattr("dl_pipelines.tasks.forecast_metrics.weights", lambda *given: np.ones((1, 6)))
    found = {name: value[0] for name, value in resampled(outputs, targets, LEVELS, 1, 0).items()}
    assert found == pytest.approx(measure(outputs, targets, LEVELS), rel=1e-12)


@pytest.mark.parametrize(("apart", "step_days", "length"), [(1, 1, 3), (2, 1, 2), (7, 1, 1), (7, 7, 3), (14, 7, 2)])
def test_blocks_are_as_long_as_origins_overlap(apart: int, step_days: int, length: int):
    _, targets = made(items=1, origins=12, apart=apart)
    drawn = weights(targets, 400, 0, step_days)
    assert (drawn.sum(axis=1) == 12).all()
    # An origin at either end lies in one block only, one in the middle in `length` of the 12 - length + 1 that exist.
    starts = 12 - length + 1
    assert drawn[:, 5].mean() == pytest.approx(12 / starts, rel=0.15)
    assert drawn[:, 0].mean() == pytest.approx(12 / starts / length, rel=0.25)


def test_few_origins_still_vary():
    _, targets = made(items=2, origins=2)
    assert {tuple(row) for row in weights(targets, 50, 0)} == {(2, 0), (1, 1), (0, 2)}
    assert weights(made(items=3, origins=1)[1], 5, 0).tolist() == [[1]] * 5


def test_two_models_are_drawn_alike():
    outputs, targets = made()
    first, second = resampled(outputs, targets, LEVELS, 30, 1), resampled(outputs + 1, targets, LEVELS, 30, 1)
    shifted = resampled(outputs, targets, LEVELS, 30, 2)
    assert np.corrcoef(first["pinball"], second["pinball"])[0, 1] > 0.5
    assert (weights(targets, 30, 1) == weights(targets, 30, 1)).all()
    assert (first["wape"] != shifted["wape"]).any()


def test_overlapping_errors_have_wider_intervals_than_rows_on_their_own():
    outputs, targets = made(items=20, origins=40, missing=0)
    shock = 20 * np.sin(np.arange(40) / 4)
    targets[:, :HORIZON] = outputs[:, :, 2] + np.tile(shock, 20)[:, None]
    blocks = resampled(outputs, targets, LEVELS, 300, 0)["wape"].std()
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 800, 800) for _ in range(100)]
    assert blocks > 3 * np.std([measure(outputs[row], targets[row], LEVELS)["wape"] for row in rows])


def test_a_thousand_resamples_take_a_moment():
    levels = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
    outputs, targets = made(items=50, origins=22, apart=7, levels=levels, horizon=28)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        resampled(outputs, targets, levels, 1000, 0)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5  # 0.03 s alone; room for a busy machine


def test_residuals_by_hand():
    outputs = np.array([[[12, 8, 10, 15], [6, 3, 5, 9]]] * 3, np.float32)
    targets = np.array([[10, 10, 7, 1, 2, 10], [9, np.nan, 7, 1, 2, 10], [np.nan, np.nan, 7, 1, 2, np.nan]], np.float32)
    found = residuals(outputs, targets, LEVELS)
    assert found["residual"] == pytest.approx([0.1, -0.3, np.nan], nan_ok=True)
    assert found["pit"] == pytest.approx([0, 1, np.nan], nan_ok=True)
    targets[:, SCALE] = np.nan
    assert np.isnan(residuals(outputs, targets, LEVELS)["residual"]).all()


def test_features_of_answers_by_hand():
    outputs = np.zeros((4, 3, 4), np.float32)
    outputs[0] = [[2, 1, 2, 4], [4, 3, 4, 6], [6, 5, 6, 8]]
    outputs[1] = 10 * outputs[0]
    outputs[2, 2] = [1, 0, 0, 1]
    found = answer_features(outputs, LEVELS)
    assert found["slope"] == pytest.approx([5 / 3, 5 / 3, 10, 1])
    assert found["spread"] == pytest.approx([3 / 4, 3 / 4, 10, 0])
    assert answer_features(outputs[:2, :1], LEVELS)["slope"].tolist() == [1, 1]
    assert answer_features(outputs[:0], LEVELS)["slope"].shape == (0,)
