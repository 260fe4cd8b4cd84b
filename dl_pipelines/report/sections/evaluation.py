"""6. The task's metrics on train, validation, test and live rows, with intervals, beside the brief's thresholds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dl_pipelines.report.cells import Cell, Found, interval, not_applicable, not_measured, number, percent
from dl_pipelines.report.collect import REPORT, Facts, pointer
from dl_pipelines.tasks.base import Metric

_ROWS = ("ACC", "PREC", "REC", "F1", "AUC", "LOSS")
_SPLITS = {"TRAIN": "train", "VAL": "validation", "TEST": "test"}
IN_PERCENT = {"ACC", "PREC", "REC"}


def cells(facts: Facts) -> dict[str, Cell]:
    """The table's cells."""
    made: dict[str, Cell] = {}
    for row in _ROWS:
        metric = facts.metric(row)
        names = [f"{column}_{row}" for column in (*_SPLITS, "PROD")] + [f"{row}_THRESH"]
        if metric is None:
            made |= dict.fromkeys(names, not_applicable("this task has no such metric"))
            continue
        show = percent if row in IN_PERCENT else number
        for column, split in _SPLITS.items():
            made[f"{column}_{row}"] = _estimate(facts, "evaluation", ("metrics.json", split), metric, show)
        made[f"PROD_{row}"] = _live(facts, metric, row)
        made[f"{row}_THRESH"] = _threshold(facts, metric, show)
    return made


def _estimate(facts: Facts, stage: str, where: tuple[str, str], metric: Metric, show: Callable[[Any], str]) -> Cell:
    file, split = where
    value = facts.find(stage, file + pointer(split, metric.name, "value"))
    whole = facts.find(stage, file + pointer(split, metric.name))
    if isinstance(value, Cell) or isinstance(whole, Cell):
        return value if isinstance(value, Cell) else not_measured("no interval")
    return value.cell(metric.unit, show, interval(whole.value, show))


def _live(facts: Facts, metric: Metric, row: str) -> Cell:
    """Each live window's value; the report's own `production.json` says where each was read or why there is none."""
    windows = facts.find(REPORT, "production.json#/windows")
    why = facts.find(REPORT, "production.json#/reason")
    if isinstance(windows, Cell) or not windows.value:
        return not_measured(str(why.value)) if isinstance(why, Found) else not_measured("no live window")
    parts, sources = [], []
    for position, window in enumerate(windows.value):
        if metric.name not in window["metrics"]:
            continue
        value = window["metrics"][metric.name]["value"]
        sources.append(_source(facts, position, metric))
        parts.append(
            f"{window['name']} {percent(value)}%" if row in IN_PERCENT else f"{window['name']} {number(value)}"
        )
    if not parts:
        return not_measured("labels of the live rows do not determine it")
    if len(parts) == 1:
        found = facts.find(REPORT, sources[0]["field"])
        assert isinstance(found, Found)
        return found.cell(metric.unit, lambda _: parts[0], whole=True)
    return Cell("; ".join(parts), metric.unit, {"op": "told", "of": sources}, None, "; ".join(parts), whole=True)


def _source(facts: Facts, position: int, metric: Metric) -> Any:
    found = facts.find(REPORT, "production.json" + pointer("windows", position, "metrics", metric.name, "value"))
    assert isinstance(found, Found)
    return found.source


def _threshold(facts: Facts, metric: Metric, show: Callable[[Any], str]) -> Cell:
    if metric.name not in facts.brief["evaluation"]["thresholds"]:
        return not_applicable("the brief sets none")
    cell = facts.of_brief("evaluation", "thresholds", metric.name).cell(metric.unit, show)
    gates = facts.find("evaluation", "outcome.json#/gates")
    if isinstance(gates, Cell):
        return cell
    states = {gate["name"]: gate["passed"] for gate in gates.value}
    told = {True: "(held)", False: "(missed)", None: "(undecided)"}
    name = f"threshold_{metric.name}"
    return cell.noted(told[states[name]]) if name in states else cell
