"""What is shown of forecasts beside metrics, against the metrics of the same rows and hand-made arrays."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dl_pipelines.tasks.base import Rows
from dl_pipelines.tasks.forecast_details import details
from dl_pipelines.tasks.forecast_metrics import measure
from dl_pipelines.tasks.series import ITEM, MASE, ORIGIN, SCALE

LEVELS = (0.1, 0.5, 0.9)
HISTORY, HORIZON, FIRST = 60, 3, 20000
NAMES = ("big", "a|b", "middle", "small")


def made(origins: int = 5) -> tuple[np.ndarray, Rows]:
    """Four items whose levels fall, 7 days apart; the last day of the last origin is not known of `small`."""
    rng = np.random.default_rng(0)
    rows = len(NAMES) * origins
    level = np.repeat([80.0, 40, 20, 10], origins)
    day = FIRST + 7 * np.tile(np.arange(origins), len(NAMES))
    inputs = np.full((rows, HISTORY + HORIZON, 3), np.nan, np.float32)
    inputs[:, :, 0] = day[:, None] + np.arange(-HISTORY, HORIZON)
    inputs[:, :HISTORY, 2] = level[:, None] + np.arange(HISTORY)
    targets = np.zeros((rows, HORIZON + 4), np.float32)
    targets[:, :HORIZON] = level[:, None] * rng.uniform(0.8, 1.2, (rows, HORIZON))
    targets[:, ORIGIN], targets[:, ITEM] = day, np.repeat(np.arange(len(NAMES)), origins)
    targets[:, MASE], targets[:, SCALE] = 1, level
    targets[-1, HORIZON - 1] = np.nan
    outputs = level[:, None, None] * np.array([1.05, 0.9, 1, 1.1]) * np.ones((rows, HORIZON, 4))
    dates = (np.datetime64(0, "D") + day).astype(str)
    ids = np.array([f"{NAMES[place // origins]}|{dates[place]}" for place in range(rows)])
    return outputs.astype(np.float32), Rows(inputs, targets, ids)


@pytest.fixture(scope="module")
def shown() -> dict:
    """All of it, as it is after JSON."""
    outputs, rows = made()
    return json.loads(json.dumps(details(outputs, rows, LEVELS, 200, 0.95, 0), allow_nan=False))


def test_each_step_is_measured_on_its_own(shown: dict):
    outputs, rows = made()
    assert [row["step"] for row in shown["by_horizon"]] == [1, 2, 3]
    for step, row in enumerate(shown["by_horizon"]):
        targets = rows.targets[:, [step, -4, -3, -2, -1]]
        expected = measure(outputs[:, [step]], targets, LEVELS)
        for name in ("wape", "mape", "coverage"):
            assert row[name]["value"] == pytest.approx(expected[name], abs=1e-6)
            assert row[name]["low"] <= row[name]["value"] <= row[name]["high"]
        assert row["wape"]["low"] < row["wape"]["high"]


def test_the_backtest_is_by_origin(shown: dict):
    outputs, rows = made()
    assert [row["date"] for row in shown["backtest"]] == [str(np.datetime64(FIRST + 7 * at, "D")) for at in range(5)]
    for at, row in enumerate(shown["backtest"]):
        chosen = np.arange(at, len(rows), 5)
        expected = measure(outputs[chosen], rows.targets[chosen], LEVELS)
        assert {name: row[name] for name in ("mape", "wape", "coverage")} == pytest.approx(
            {name: expected[name] for name in ("mape", "wape", "coverage")}, abs=1e-6
        )
        assert row["actual"] == pytest.approx(np.nansum(rows.targets[chosen, :HORIZON]), rel=1e-6)
    assert [row["forecast"] for row in shown["backtest"]] == pytest.approx([472.5] * 4 + [462], rel=1e-6)


def test_items_are_listed_from_the_worst(shown: dict):
    outputs, rows = made()
    found = shown["by_item"]["worst"]
    assert shown["by_item"]["best"] == []
    expected = {name: measure(outputs[5 * at : 5 * at + 5], rows.targets[5 * at : 5 * at + 5], LEVELS)["wape"]
                for at, name in enumerate(NAMES)}  # fmt: skip
    assert {row["item"]: row["wape"]["value"] for row in found} == pytest.approx(expected, abs=1e-6)
    assert [row["item"] for row in found] == sorted(expected, key=lambda name: -expected[name])
    assert all(row["rows"] == 5 and row["wape"]["low"] < row["wape"]["value"] < row["wape"]["high"] for row in found)


def test_examples_are_the_total_and_three_levels_of_the_last_origin(shown: dict):
    _, rows = made()
    total, big, middle, small = shown["examples"]
    assert [row["item"] for row in shown["examples"]] == ["TOTAL", "big", "a|b", "small"]
    assert middle["interval"] == [0.1, 0.9]
    assert big["origin"] == big["dates"][0] == str(np.datetime64(FIRST + 28, "D"))
    assert big["history_dates"][-1] == str(np.datetime64(FIRST + 27, "D"))
    assert big["history"] == [80 + at for at in range(4, 60)]
    assert big["median"] == pytest.approx([80] * 3)
    assert [big[name][0] for name in ("mean", "low", "high")] == pytest.approx([84, 72, 88])
    assert small["actual"][2] is None
    assert total["history"][-1] == 150 + 4 * 59
    assert total["median"] == pytest.approx([157.5, 157.5, 147], rel=1e-6)  # small is left out where it isn't known
    assert total["actual"] == pytest.approx(np.nansum(rows.targets[4::5, :HORIZON], axis=0).tolist(), rel=1e-6)
    assert total["low"] is None and total["high"] is None


def test_one_item_has_no_total_and_few_days_are_no_error():
    outputs, rows = made()
    one = details(outputs[:5], rows.take(np.arange(5)), LEVELS, 20, 0.9, 0)
    assert [row["item"] for row in one["examples"]] == ["big"]
    assert details(outputs[:0], rows.take(np.arange(0)), LEVELS, 20, 0.9, 0) == {}
    assert details(outputs * np.nan, rows, LEVELS, 20, 0.9, 0) == {}


def test_what_nothing_is_known_of_is_left_out():
    outputs, rows = made()
    unknown = rows.targets.copy()
    unknown[:, :HORIZON] = np.nan
    found = details(outputs, Rows(rows.inputs, unknown, rows.ids), LEVELS, 20, 0.9, 0)
    assert found["by_horizon"] == [{"step": 1}, {"step": 2}, {"step": 3}]
    assert found["by_item"] == {"worst": [], "best": []}
    assert found["backtest"][0]["mape"] is None
    assert found["examples"][0]["actual"] == [None] * 3
    unknown[:, -4:] = np.nan
    found = details(outputs, Rows(rows.inputs, unknown, rows.ids), LEVELS, 20, 0.9, 0)
    assert (found["backtest"], found["examples"]) == ([], [])


def test_a_years_details_are_small():
    rng = np.random.default_rng(0)
    items, origins, horizon = 50, 26, 28
    day = np.repeat(20000 + 7 * np.arange(origins), items)
    inputs = rng.uniform(0, 1e5, (items * origins, 84 + horizon, 4)).astype(np.float32)
    inputs[:, :, 0] = day[:, None] + np.arange(-84, horizon)
    targets = rng.uniform(1, 1e5, (items * origins, horizon + 4)).astype(np.float32)
    targets[:, ORIGIN], targets[:, ITEM] = day, np.tile(np.arange(items), origins)
    outputs = np.sort(rng.uniform(0, 1e5, (items * origins, horizon, 8)), axis=2)
    ids = np.array([f"item {row % items}|{row // items}" for row in range(len(day))])
    levels = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
    found = details(outputs, Rows(inputs, targets, ids), levels, 100, 0.95, 0)
    assert len(json.dumps(found)) < 60_000
    assert len(found["by_item"]["worst"]) == len(found["by_item"]["best"]) == 5
    assert found["by_item"]["best"][0]["wape"]["value"] < found["by_item"]["worst"][-1]["wape"]["value"]
