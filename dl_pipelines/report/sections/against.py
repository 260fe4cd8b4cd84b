"""6. This model against what it has to beat, and beside the oracle where the data has one; on the test rows, paired."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dl_pipelines.evaluation.wording import in_unit, number
from dl_pipelines.report.cells import Cell, Extra, Found, interval, not_measured, told
from dl_pipelines.report.facts import Facts, pointer
from dl_pipelines.tasks.base import Metric

FILE = "against.json"
_COLUMNS = ("Baseline and metric", "This model", "Baseline", "Difference", "Ratio (above 1: ours is better)", "Beaten")


def against(facts: Facts) -> list[Extra]:
    """A row for each baseline and metric that is worth one; nothing where the task has no baselines."""
    found = facts.find("evaluation", FILE)
    if isinstance(found, Cell) or not found.value["rows"]:
        return []
    rows = [
        (f"{said(row['baseline'])}: {facts.metrics[name].label}", _row(facts, place, row, found.value))
        for name in found.value["metrics"] for place, row in enumerate(found.value["rows"]) if row["metric"] == name
    ]  # fmt: skip
    left = unbeaten(facts)
    note = f"NOT beaten: {'; '.join(left)}." if left else "Every baseline that must be beaten is."
    return [Extra("Against baselines", _COLUMNS, rows, f"{note} Intervals are of paired differences on the test rows.")]


def unbeaten(facts: Facts) -> list[str]:
    """The baselines that the model does not beat beyond the interval of the difference in the primary metric."""
    found = facts.find("evaluation", FILE)
    if isinstance(found, Cell):
        return []
    metric = facts.metrics[facts.primary]
    rows = {row["baseline"]: row for row in found.value["rows"] if row["metric"] == facts.primary}
    left = [
        name for name in found.value["must_beat"] if name not in rows or not beats(metric, rows[name]["difference"])
    ]
    return [f"{said(name)} ({_why(metric, rows.get(name))})" for name in left]


def said(baseline: str) -> str:
    """A baseline's name for people."""
    return baseline.replace("_", " ")


def beats(metric: Metric, difference: Mapping[str, float]) -> bool:
    """Whether the whole interval of ours - theirs is on our side."""
    return difference["high"] < 0 if metric.better == "lower" else difference["low"] > 0


def _why(metric: Metric, row: Mapping[str, Any] | None) -> str:
    if row is None:
        return f"no {metric.name} on the test rows"
    ours, theirs = (in_unit(row[key]["value"], metric.unit) for key in ("ours", "theirs"))
    return f"{metric.name} {ours}, theirs {theirs}"


def _row(facts: Facts, place: int, row: Mapping[str, Any], found: Mapping[str, Any]) -> list[Cell]:
    metric = facts.metrics[row["metric"]]

    def estimate(key: str, unit: str, signed: bool = False) -> Cell:
        value = facts.find("evaluation", FILE + pointer("rows", place, key, "value"))
        if isinstance(value, Cell):
            return not_measured("it would be divided by 0") if key == "ratio" else value

        def show(given: float) -> str:
            return ("+" if signed and given > 0 else "") + (in_unit(given, unit) if unit else number(round(given, 3)))

        return value.cell(unit, show, interval(row[key], show), whole=True)

    whole = facts.find("evaluation", FILE + pointer("rows", place, "difference"))
    assert isinstance(whole, Found)
    return [
        *(estimate(key, metric.unit) for key in ("ours", "theirs")),
        estimate("difference", metric.unit, signed=True),
        estimate("ratio", ""),
        told(_verdict(metric, row, found), whole.source),
    ]


def _verdict(metric: Metric, row: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    if row["baseline"] not in found["must_beat"]:
        return "the floor: shown beside, not to be beaten"
    if beats(metric, row["difference"]):
        return "yes"
    apart = row["difference"]
    return "NO: the interval holds 0" if apart["low"] <= 0 <= apart["high"] else "NO: it is better"
