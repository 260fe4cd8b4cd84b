"""Lengths of bars and whiskers, read back and compared with the estimates."""

from __future__ import annotations

import re

import pytest

from dl_pipelines.evaluation.bars import bars, baselines, effects
from dl_pipelines.evaluation.wording import number
from dl_pipelines.tasks.base import Metric

METRICS = {"wape": Metric("wape", "lower", "WAPE", "share")}


def estimate(value, apart=0.25):
    return {"value": value, "low": value - apart, "high": value + apart}


def whiskers(drawn):
    return [(float(a), float(b)) for a, b in re.findall(r'whisker" d="M([\d.]+) \d+H([\d.]+)', drawn)]


def test_bars_are_as_long_as_their_values():
    rows = [("this model", estimate(1.0), "chosen"), ("naive", estimate(4.0), ""), ("nothing", estimate(0, 0), "")]
    drawn = bars("errors", rows, number)
    lengths = [float(width) for width in re.findall(r'class="bar[^"]*" x="150" y="\d+" width="([\d.]+)"', drawn)]
    assert lengths[1] / lengths[0] == pytest.approx(4, rel=0.01)
    assert lengths[2] == 1
    for (low, high), (_, row, _) in zip(whiskers(drawn)[:2], rows, strict=False):
        assert (high - low) / lengths[0] == pytest.approx(0.5, rel=0.01)
        assert (low + high) / 2 - 150 == pytest.approx(lengths[0] * row["value"], abs=0.2)
    assert "1 [0.75, 1.25]" in drawn


def test_effects_lie_on_both_sides_of_zero():
    drawn = effects("effects", [("helps", estimate(0.5)), ("hurts", estimate(-0.5))], number)
    middle = float(re.findall(r'limit" d="M([\d.]+)', drawn)[0])
    places = [float(at) - middle for at in re.findall(r'cx="([\d.]+)"', drawn)]
    assert places[0] > 0 and places[0] == pytest.approx(-places[1], abs=0.11)
    (low, high), _ = whiskers(drawn)
    assert (high - middle) / (low - middle) == pytest.approx(3, rel=0.01)
    assert effects("none", [], number).startswith("<svg")


def test_baselines_are_beside_the_model_and_a_floor_is_called_so():
    rows = [
        {"baseline": name, "metric": "wape", "ours": estimate(0.1, 0.01), "theirs": estimate(0.2, 0.01)}
        for name in ("seasonal_naive", "oracle")
    ]
    against = {"metrics": ["wape", "mape"], "must_beat": ["seasonal_naive"], "rows": rows}
    ((title, drawn),) = baselines(against, METRICS, simulated=True)
    assert title == "WAPE (simulated)"
    assert re.findall(r'class="end"[^>]*>([^<]*)<', drawn) == ["this model", "seasonal naive", "oracle (the floor)"]
    assert baselines({}, METRICS) == []
