"""6. The task's metrics on train, validation, test and live rows, with intervals, beside the brief's thresholds."""

from __future__ import annotations

from typing import Any

from dl_pipelines.evaluation.wording import in_unit
from dl_pipelines.report.cells import Cell, Extra, Found, interval, not_applicable, not_measured
from dl_pipelines.report.facts import REPORT, Facts, pointer
from dl_pipelines.report.sections.against import against
from dl_pipelines.tasks.base import Metric

_ROWS = {
    "ACC": "Accuracy", "PREC": "Precision", "REC": "Recall", "F1": "F1 score", "AUC": "AUC-ROC", "LOSS": "loss",
}  # fmt: skip
"""Rows of the template, and what they are about."""
_SPLITS = {"TRAIN": "train", "VAL": "validation", "TEST": "test"}
_COLUMNS = ("Metric", "Training", "Validation", "Test", "Production", "Threshold")


def cells(facts: Facts) -> dict[str, Cell]:
    """The table's cells; a metric that is called otherwise than its row is named in its cells."""
    made: dict[str, Cell] = {}
    for row, about in _ROWS.items():
        metric = facts.metric(row)
        names = [*(f"{column}_{row}" for column in (*_SPLITS, "PROD")), f"{row}_THRESH"]
        if metric is None:
            made |= dict.fromkeys(names, not_applicable("this task has no such metric"))
        else:
            made |= dict(zip(names, _figures(facts, metric, about), strict=True))
    return made


def extras(facts: Facts) -> list[Extra]:
    """All metrics, where the template has no row for some; and what the model was to beat."""
    found = against(facts)
    if all(metric.template for metric in facts.metrics.values()):
        return found
    named = [(f"{metric.label} ({metric.better} is better)", metric) for metric in facts.metrics.values()]
    rows = [(name, _figures(facts, metric)) for name, metric in named]
    return [Extra("All metrics of the task", _COLUMNS, rows), *found]


def _figures(facts: Facts, metric: Metric, about: str = "") -> list[Cell]:
    splits = [estimate(facts, "evaluation", ("metrics.json", split), metric, about) for split in _SPLITS.values()]
    return [*splits, _live(facts, metric, about), _threshold(facts, metric, about)]


def estimate(facts: Facts, stage: str, where: tuple[str, str], metric: Metric, about: str = "") -> Cell:
    """A metric with its interval, at (file, split) of a stage, as a cell of a row that is about something."""
    file, split = where
    value = facts.find(stage, file + pointer(split, metric.name, "value"))
    whole = facts.find(stage, file + pointer(split, metric.name))
    if isinstance(value, Cell) or isinstance(whole, Cell):
        return value if isinstance(value, Cell) else not_measured("no interval")
    note = interval(whole.value, lambda bound: in_unit(bound, metric.unit))
    return value.cell(metric.unit, lambda found: _text(metric, found, about), note, whole=True)


def _text(metric: Metric, value: float, about: str) -> str:
    """A value with its unit; `about` is what the row is called, where the metric may be another."""
    name = "" if about.lower() in metric.label.lower() else f"{metric.label} "
    return name + in_unit(value, metric.unit)


def _live(facts: Facts, metric: Metric, about: str) -> Cell:
    """Each live window's value; the report's own `production.json` says where each was read or why there is none."""
    windows = facts.find(REPORT, "production.json#/windows")
    why = facts.find(REPORT, "production.json#/reason")
    if isinstance(windows, Cell) or not windows.value:
        return not_measured(str(why.value)) if isinstance(why, Found) else not_measured("no live window")
    parts, sources = [], []
    for position, window in enumerate(windows.value):
        if metric.name in window["metrics"]:
            sources.append(_source(facts, position, metric))
            parts.append(f"{window['name']} {_text(metric, window['metrics'][metric.name]['value'], about)}")
    if not parts:
        reason = why.value if isinstance(why, Found) else "labels of the live rows do not determine it"
        return not_measured(str(reason))
    if len(parts) == 1:
        found = facts.find(REPORT, sources[0]["field"])
        assert isinstance(found, Found)
        return found.cell(metric.unit, lambda _: parts[0], whole=True)
    return Cell("; ".join(parts), metric.unit, {"op": "told", "of": sources}, None, "; ".join(parts), whole=True)


def _source(facts: Facts, position: int, metric: Metric) -> Any:
    found = facts.find(REPORT, "production.json" + pointer("windows", position, "metrics", metric.name, "value"))
    assert isinstance(found, Found)
    return found.source


def _threshold(facts: Facts, metric: Metric, about: str) -> Cell:
    if metric.name not in facts.brief["evaluation"]["thresholds"]:
        return not_applicable("the brief sets none")
    given = facts.of_brief("evaluation", "thresholds", metric.name)
    cell = given.cell(metric.unit, lambda bound: _text(metric, bound, about), whole=True)
    gates = facts.find("evaluation", "outcome.json#/gates")
    if isinstance(gates, Cell):
        return cell
    states = {gate["name"]: gate["passed"] for gate in gates.value}
    told = {True: "(held)", False: "(missed)", None: "(undecided)"}
    name = f"threshold_{metric.name}"
    return cell.noted(told[states[name]]) if name in states else cell
