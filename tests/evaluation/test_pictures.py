"""Pictures of an evaluation: their lines are the data's, they are small, and stand alone where no style sheet is."""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ET
from datetime import date, timedelta

import numpy as np
import pytest

from dl_pipelines.evaluation.pictures import backtest, by_horizon, forecasts, markdown, shown
from dl_pipelines.tasks.forecast_metrics import METRICS

HISTORY, HORIZON = 56, 28
DAYS = [(date(2025, 1, 1) + timedelta(days=day)).isoformat() for day in range(HISTORY + HORIZON)]


def estimate(value):
    return {"value": value, "low": value * 0.8, "high": value * 1.2}


def example(item="item-001"):
    rng = np.random.default_rng(0)
    mean = rng.gamma(9, 20, HORIZON).tolist()
    return {
        "item": item, "origin": DAYS[HISTORY], "history_dates": DAYS[:HISTORY], "dates": DAYS[HISTORY:],
        "history": [None, *rng.gamma(9, 20, HISTORY - 1).tolist()], "actual": rng.gamma(9, 20, HORIZON).tolist(),
        "mean": mean, "median": mean, "low": [0.5 * value for value in mean],
        "high": [1.5 * value for value in mean], "interval": [0.05, 0.95],
    }  # fmt: skip


@pytest.fixture(scope="module")
def details():
    total = {**example("TOTAL"), "low": None, "high": None, "interval": None}
    steps = [{"step": step + 1, "wape": estimate(0.1 + step / 500)} for step in range(HORIZON)]
    origins = [
        {"date": DAYS[day], "wape": 0.1, "mape": None if day == 3 else 0.04, "coverage": 0.9, "actual": 900.0 + day,
         "forecast": 910.0} for day in range(30)
    ]  # fmt: skip
    return {"examples": [total, *map(example, "abc")], "by_horizon": steps, "backtest": origins}


def places(drawn, kind):
    (path,) = re.findall(rf'class="line {kind}" d="M([^"]*)"', drawn)
    return np.array([list(map(float, point.split())) for point in path.split("L")])


def test_a_line_of_a_forecast_is_its_values_on_one_scale():
    given = example()
    ((name, drawn),) = forecasts({"examples": [given]})
    assert name == f"item-001, 28 steps from {DAYS[HISTORY]}"
    mean, actual = places(drawn, "stroke-0"), places(drawn, "stroke-ink")
    slope, start = np.polyfit(given["mean"], mean[:, 1], 1)
    assert slope < 0, "up is more"
    assert np.abs(start + slope * np.array(given["mean"]) - mean[:, 1]).max() < 0.06
    assert np.abs(start + slope * np.array(given["actual"]) - actual[:, 1]).max() < 0.1  # rounded to a tenth of a pixel
    assert len(places(drawn, "stroke-past")) == HISTORY - 1, "a missing day is left out"
    assert ">90%</text>" in drawn


def test_what_has_no_interval_has_no_band(details):
    drawn = [picture for _, picture in forecasts(details)]
    assert ["band-0" in picture for picture in drawn] == [False, True, True, True]


def test_each_metric_by_horizon_and_over_time(details):
    assert [name for name, _ in by_horizon(details, METRICS)] == ["WAPE by item and day"]
    names = [name for name, _ in backtest(details, METRICS)]
    assert names == [
        "Total of the horizon",
        "WAPE by item and day",
        "MAPE of the total",
        "Coverage of the widest interval",
    ]
    mape = dict(backtest(details, METRICS))["MAPE of the total"]
    assert mape.count("M50.0") == 1 and re.search(r'd="M[^"]*M', mape), "the origin without it is a gap"


def test_nothing_is_drawn_without_data(details):
    one = {"by_horizon": details["by_horizon"][:1], "backtest": details["backtest"][:1]}
    for given in ({}, {"examples": []}, one):
        assert shown(given, None, METRICS, simulated=False) == {}


def test_every_picture_of_simulated_data_says_so(details):
    row = {"baseline": "ets", "metric": "wape", "ours": estimate(0.1), "theirs": estimate(0.2)}
    against = {"metrics": ["wape"], "must_beat": ["ets"], "rows": [row]}
    found = shown(details, against, METRICS, simulated=True)
    assert list(found) == ["forecasts", "by_horizon", "backtest", "baselines"]
    pictures = [picture for kind in found.values() for picture in kind["md"].split("\n\n")]
    assert len(pictures) == 4 + 1 + 4 + 1
    for picture in pictures:
        assert "(simulated)</text>" in alone(picture)


def alone(picture):
    start, _, rest = picture.partition("](data:image/svg+xml;base64,")
    assert start.startswith("![") and rest.endswith(")")
    return base64.b64decode(rest[:-1]).decode()


def test_a_picture_stands_alone_and_is_small(details):
    for picture in markdown(forecasts(details)).split("\n\n"):
        assert len(picture) < 6_000
        drawn = alone(picture)
        root = ET.fromstring(drawn)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        style = next(element.text for element in root if element.tag.endswith("style")) or ""
        kinds = {kind for element in root.iter() for kind in element.attrib.get("class", "").split()} - {"narrow"}
        assert kinds and all(f".{kind}{{" in style for kind in kinds)
        assert "var(" not in drawn and "<title>" not in drawn


def test_a_name_breaks_neither_the_markdown_nor_the_picture():
    ((name, drawn),) = forecasts({"examples": [example("](x) <b>\n`1`")]})
    text = markdown([(name, drawn)])
    assert "\n" not in text and text.count("](") == 1 and "<b>" not in text
    ET.fromstring(alone(text))
