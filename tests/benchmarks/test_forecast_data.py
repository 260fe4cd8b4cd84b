"""What the peer of the forecasting benchmark is given: the same values, and nothing of what is to come."""

import json
import math
from datetime import date

import numpy as np
import pandas as pd
import pytest

from benchmarks import forecast_data
from dl_pipelines.tasks.base import Rows
from dl_pipelines.tasks.forecasting import Forecasting
from dl_pipelines.tasks.series import Panel

FIRST = (date(2024, 12, 1) - date(1970, 1, 1)).days


@pytest.fixture
def given(tmp_path):
    """Two items, 40 days, of which 30 train; one value is missing, the second item starts on the third day."""
    params = {"horizon": 5, "history": 14, "known": ["price"], "observed": ["out"], "categories": ["kind"]}
    params |= {"country": "DE", "censored_by": "out"}
    task = Forecasting(Forecasting.Params.model_validate(params))
    values = np.zeros((2, 40, 4))
    values[:, :, 0] = np.arange(40) + np.array([[0], [100]])
    values[:, :, 2], values[:, :, 3] = 2.5, [[7.0], [3.0]]
    values[1, 30, 2], values[1, 20, 1] = 2.25, 1
    values[0, 10, 0], values[1, :2, 0], values[0, 4, 2] = np.nan, np.nan, np.nan
    panel = Panel(["a", "b"], FIRST + np.arange(40), task.columns, values, np.arange(40) < 30)
    origins = FIRST + np.array([31.0, 31.0, 35.0])
    targets = np.zeros((3, 9))
    targets[:, -4] = origins
    rows = Rows(np.zeros((3, 19, 6), np.float32), targets, np.array(["a|x", "b|x", "b|y"], dtype=object))
    forecast_data.write(tmp_path, task, panel, rows, threads=2)
    return pd.read_parquet(tmp_path / "series.parquet"), json.loads((tmp_path / "peer.json").read_text()), rows


def test_missing_values_are_filled_by_the_season_and_masked(given):
    series, _, _ = given
    a = series[series["unique_id"] == "a"].reset_index()
    assert a["y"][10] == 3 and a["available_mask"].tolist() == [1.0] * 10 + [0.0] + [1.0] * 29
    assert a["price"].eq(forecast_data.MOST).all()


def test_prices_are_steps_from_what_is_usual(given):
    series, about, _ = given
    b = series[series["unique_id"] == "b"].set_index("ds")
    assert b.loc["2024-12-31", "price"] == forecast_data.MOST + round(math.log(0.9) / forecast_data.STEP)
    assert (about["categories"]["price"], about["categories"]["out"]) == (2 * forecast_data.MOST + 1, 2)


def test_what_was_not_in_stock_is_missing(given):
    series, _, _ = given
    b = series[series["unique_id"] == "b"].set_index("ds")
    assert b.loc["2024-12-21", ["y", "available_mask", "out"]].tolist() == [113.0, 0.0, 1.0]


def test_a_series_begins_where_it_has_a_value(given):
    series, _, _ = given
    b = series[series["unique_id"] == "b"]
    assert (len(b), b["y"].iloc[0]) == (38, 102.0)


def test_days_and_words_are_numbers(given):
    series, about, _ = given
    a = series[series["unique_id"] == "a"].set_index("ds")
    days = ["2024-12-24", "2024-12-25", "2024-12-26", "2024-12-27"]
    assert a.loc[days, "holiday"].tolist() == [1, 2, 2, 0]
    assert a.loc["2024-12-01", "weekday"] == 6
    assert series.groupby("unique_id")["kind"].first().to_dict() == {"a": 1, "b": 0}
    assert about["categories"] == {"weekday": 7, "week": 53, "holiday": 3, "item": 2, "kind": 2, "price": 31, "out": 2}


def test_nothing_after_the_train_days_may_train(given):
    _, about, _ = given
    assert about["train_until"] == "2024-12-30"
    assert about["origins"] == ["2025-01-01", "2025-01-05"]


def test_forecasts_go_to_their_rows(given):
    _, about, rows = given
    forecasts = np.arange(2 * 2 * 5, dtype=np.float32).reshape(2, 2, 5)
    found = forecast_data.outputs(forecasts, rows, about["items"], quantiles=3)
    assert found.shape == (3, 5, 4)
    np.testing.assert_array_equal(found[:, :, 0], [forecasts[0, 0], forecasts[0, 1], forecasts[1, 1]])
    assert (found == found[:, :, :1]).all()
