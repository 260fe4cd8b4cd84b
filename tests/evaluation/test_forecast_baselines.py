"""Baselines against statsmodels itself and by hand; that they know nothing of what comes after an origin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from statsmodels.tsa.exponential_smoothing.ets import ETSModel
from statsmodels.tsa.forecasting.theta import ThetaModel
from statsmodels.tsa.holtwinters import SimpleExpSmoothing

from dl_pipelines.evaluation import forecast_baselines, forecast_boosting
from dl_pipelines.evaluation.forecast_baselines import MODELS, ets_roll, fill, naive_roll, theta_roll
from dl_pipelines.evaluation.forecast_features import Features
from dl_pipelines.tasks.base import Rows, SplitName
from dl_pipelines.tasks.series import ORIGIN
from tests.evaluation import forecasts

EVERY: dict[str, Callable] = {
    "seasonal_naive": forecast_baselines.seasonal_naive,
    "theta": forecast_baselines.theta,
    "ets": forecast_baselines.ets,
    "boosting": forecast_boosting.boosting,
}


@pytest.fixture(autouse=True, scope="module")
def few_trees():
    small = {**forecast_boosting.SETTINGS, "max_iter": 50, "min_samples_leaf": 5, "learning_rate": 0.2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forecast_boosting, "SETTINGS", small)
        patch.setattr(forecast_boosting, "TRAINED", 1500)
        yield


@pytest.fixture(scope="module")
def task():
    return forecasts.make_task()


@pytest.fixture(scope="module")
def table(task):
    return forecasts.make_table(task)


@pytest.fixture(scope="module")
def split(task, table) -> tuple[np.ndarray, dict]:
    return forecasts.split_rows(task, table)


@pytest.fixture(scope="module")
def answers(few_trees, task, table, split) -> dict[str, dict]:
    return {name: baseline(task, table, *split) for name, baseline in EVERY.items()}


def series(zeros: bool = False) -> np.ndarray:
    """Two hundred values with a season of four and a drift."""
    rng = np.random.default_rng(0)
    y = (30 + 0.1 * np.arange(200)) * np.tile([1, 1.4, 0.7, 0.9], 50) * rng.lognormal(0, 0.1, 200)
    return np.where(rng.uniform(size=200) < 0.1, 0.0, y) if zeros else y


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("season", [4, 1])
def test_theta_is_statsmodels(zeros: bool, season: int):
    y, until = series(zeros), 150
    points = theta_roll(y, until, season, 6)
    model = ThetaModel(y[:until], period=season if season > 1 else None, deseasonalize=season > 1)
    found = model.fit()
    assert points[until] == pytest.approx(np.asarray(found.forecast(6)), rel=1e-6)
    if season == 1:  # later its parameters stay, and the level goes on
        level = SimpleExpSmoothing(y[:190], initialization_method="known", initial_level=y[0]).fit(
            smoothing_level=found.params["alpha"], optimized=False)  # fmt: skip
        alpha, drift = found.params["alpha"], found.params["b0"]
        drifted = np.arange(6) + 1 / alpha - (1 - alpha) ** 190 / alpha
        assert points[190] == pytest.approx(level.forecast(6) + drift / 2 * drifted, rel=1e-6)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("season", [4, 1])
def test_ets_is_statsmodels_on_the_values_before(zeros: bool, season: int):
    y, until = series(zeros), 150
    points = ets_roll(y, until, season, 6)
    kinds = [{**kind, "initialization_method": "heuristic",
              **({"seasonal_periods": 4} if season == 4 else {"seasonal": None})} for kind in MODELS
             if (kind["error"] == "add") == zeros]  # fmt: skip
    fitted: list[Any] = [ETSModel(y[:until], **kind).fit(disp=False) for kind in kinds]
    best = int(np.argmin([one.aicc for one in fitted]))
    assert points[until] == pytest.approx(fitted[best].forecast(6), rel=1e-6)
    later: Any = ETSModel(y[:187], **kinds[best]).smooth(fitted[best].params)
    assert points[187] == pytest.approx(later.forecast(6), rel=1e-6)


def test_ets_goes_on_after_a_zero_that_came_later():
    y = series()
    y[170] = 0
    points = ets_roll(y, 150, 4, 6)
    assert np.isfinite(points).all()
    y[170] = y[:150].min()  # what stands in for it
    assert (ets_roll(y, 150, 4, 6) == points).all()


def test_the_naive_forecast_is_the_last_season_again():
    points = naive_roll(np.array([1.0, 2, 3, 4, 5]), 5, season=3, horizon=5)
    assert points[5].tolist() == [3, 4, 5, 3, 4]
    assert points[3].tolist() == [1, 2, 3, 1, 2]
    assert points[1].tolist() == [1] * 5
    assert points.shape == (6, 5)


def test_a_missing_value_is_the_last_known_one_of_its_place():
    nan = np.nan
    target = np.array([[nan, 1, 2, 3, nan, 5, nan, nan, nan, 9]])
    assert fill(target, 3)[0] == pytest.approx([nan, 1, 2, 3, 1, 5, 3, 1, 5, 9], nan_ok=True)
    assert fill(np.array([[nan, 7.0, nan, nan]]), 3)[0] == pytest.approx([nan, 7, 7, 7], nan_ok=True)


@pytest.mark.parametrize("name", EVERY)
def test_answers_are_those_of_the_rows(name: str, answers, split, task):
    for part, rows in split[1].items():
        found = answers[name][part]
        assert found.shape == (len(rows), 3, 4)
        assert found.dtype == np.float32
        assert np.isfinite(found).all() and (found >= 0).all()
        assert (np.diff(found[:, :, 1:], axis=2) >= 0).all()
        measured = task.measure(found, rows.targets)
        assert 0.6 < measured["coverage"] <= 1
        assert measured["wape"] < 0.8


def test_promotions_are_known_to_boosting_alone(answers, split, task):
    rows = split[1]["test"]
    promoted = rows.inputs[:, 6:, 4] == 1
    targets = rows.targets.copy()
    targets[:, :3][~promoted] = np.nan
    wape = {name: task.measure(found["test"], targets)["wape"] for name, found in answers.items()}
    assert wape["boosting"] < 0.7 * min(wape[name] for name in ("seasonal_naive", "theta", "ets"))
    whole = {name: task.measure(found["test"], rows.targets)["pinball"] for name, found in answers.items()}
    assert max(whole["theta"], whole["ets"]) < whole["seasonal_naive"]


def test_naive_forecasts_of_rows_are_their_own_last_season(answers, split):
    rows = split[1]["test"]
    history = rows.inputs[:, 3:6, 2]
    whole = np.isfinite(history).all(axis=1)
    assert whole.sum() > 20
    found = answers["seasonal_naive"]["test"][whole]
    assert found[:, :, 0] == pytest.approx(history[whole])
    assert found[:, :, 2] == pytest.approx(history[whole], rel=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_nothing_after_an_origin_is_known(name: str, answers, split, task):
    splits, rows = split
    origins = rows["test"].targets[:, ORIGIN]
    cut = float(np.median(np.unique(origins)))
    day = int(cut) - (forecasts.FIRST - forecasts.date(1970, 1, 1)).days
    values = forecasts.demand()
    values[:, day:] = 1000
    changed = EVERY[name](task, forecasts.make_table(task, values), splits, rows)
    before = origins <= cut
    assert changed["test"][before] == pytest.approx(answers[name]["test"][before], rel=1e-5)
    assert (changed["test"][~before] != answers[name]["test"][~before]).any()


def test_an_item_of_which_nothing_was_known_has_the_naive_forecast(answers, split):
    rows = split[1]["test"]
    new = rows.slices["item:new"]
    assert new.sum() > 2
    for name in ("theta", "ets"):
        assert (answers[name]["test"][new] == answers["seasonal_naive"]["test"][new])[:, :, 0].all()


def test_no_rows_have_no_answers(task, table, split):
    none: dict[SplitName, Rows] = {"test": split[1]["test"].take(np.zeros(0, int))}
    assert forecast_baselines.seasonal_naive(task, table, split[0], none)["test"].shape == (0, 3, 4)


def test_features_by_hand(task, table):
    made = Features(task.panel(table), task)
    item, place, step = np.array([0]), np.array([100]), np.array([1])
    found = made.of((item, place, step))[0]
    y, level = made.target[0], np.nanmean(made.target[0, 88:100])
    assert made.level((item, place, step)) == pytest.approx([level])
    assert found[0] == 1
    assert found[1] == pytest.approx(np.log(level))
    assert found[3:7] * level == pytest.approx(y[[98, 95, 92, 89]], rel=1e-5, nan_ok=True)
    assert found[7:14] * level == pytest.approx(y[[99, 98, 97, 96, 95, 94, 93]], rel=1e-5, nan_ok=True)
    assert found[14:17] * level == pytest.approx(
        [np.nanmean(y[100 - length : 100]) for length in (3, 12, 36)], rel=1e-5
    )
    assert 2 in made.categorical


def test_a_year_ago_is_never_later_than_the_origin(task, table, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("dl_pipelines.evaluation.forecast_features.YEAR", 3)  # as short as a season
    panel = task.panel(table)
    cells = np.zeros(3, int), np.full(3, 100), np.arange(3)
    found = Features(panel, task).of(cells)
    panel.values[:, 100:, 0] = 1000
    assert Features(panel, task).of(cells) == pytest.approx(found, nan_ok=True)


def test_rows_keep_their_order_whatever_it_is(task, table, split, answers):
    rows = split[1]["test"]
    backwards: dict[SplitName, Rows] = {"test": rows.take(np.arange(len(rows))[::-1])}
    found = forecast_baselines.theta(task, table, split[0], backwards)["test"]
    assert (found[::-1] == answers["theta"]["test"]).all()
