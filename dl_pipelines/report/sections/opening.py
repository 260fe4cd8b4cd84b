"""The sentence above the sections: what is built, from how much data, for which targets, where."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dl_pipelines.evaluation.wording import in_unit, number, percent, plural
from dl_pipelines.report.cells import Cell, Found, made, not_applicable, told
from dl_pipelines.report.facts import BRIEF, Facts, library

_ORDER = {"served": 0, "compressed": 1, "trained": 2}


def cells(facts: Facts) -> dict[str, Cell]:
    """The opening's cells."""
    return {
        "PROJECT_NAME": facts.of_brief("project").cell(),
        "DATA_VOLUME": _volume(facts),
        "MODEL_TYPE": facts.of_brief("architecture", "family", "name").cell(show=said),
        "ACCURACY_TARGET": _accuracy(facts),
        "LATENCY_TARGET": _target(
            facts,
            ["latency_p95_ms", "latency_p99_ms", "latency_p50_ms"],
            number,
            "no target for latency is in the brief",
        ),
        "DEPLOYMENT_ENV": told(
            "a Triton Inference Server on this machine, reached through loopback only", library("serving.server")
        ),
    }


def said(family: str) -> str:
    """A family's name for people."""
    return family.replace("_", " ").upper()


def _volume(facts: Facts) -> Cell:
    records = facts.over_days("validated_data", "quality.json#/clean")
    if isinstance(records, Cell):
        return records
    days, kind = len(records.value), "simulated record" if facts.simulated else "record"
    return made("sum", [records]).cell("records", show=lambda count: f"{plural(count, kind)} of {plural(days, 'day')}")


def _accuracy(facts: Facts) -> Cell:
    """The target on the metric that the template calls accuracy, else on the first of the task's that has one."""
    stands_for = facts.metric("ACC")
    names = [target["metric"] for target in facts.brief["problem"]["targets"] if target["slice"] is None]
    chosen = [name for name in names if name in facts.metrics]
    if stands_for and stands_for.name in chosen:
        chosen = [stands_for.name]
    if not chosen:
        return not_applicable("no target for the accuracy is in the brief")
    metric = facts.metrics[chosen[0]]
    if metric is stands_for and metric.better == "higher" and metric.unit == "share":
        return _target(facts, [metric.name], percent, "")
    bound = "at most" if metric.better == "lower" else "at least"
    cell = _target(facts, [metric.name], lambda value: f"{metric.label} {bound} {in_unit(value, metric.unit)}", "")
    return replace(cell, whole=True)


def _target(facts: Facts, metrics: list[str], show: Any, why: str) -> Cell:
    """The target on what is served, if there is one, else on what comes before it."""
    targets: list[tuple[int, int, int]] = []
    for position, target in enumerate(facts.brief["problem"]["targets"]):
        if target["metric"] in metrics and target["slice"] is None:
            targets.append((_ORDER[target["where"]], metrics.index(target["metric"]), position))
    if not targets:
        return not_applicable(why)
    position = min(targets)[2]
    found: Found = facts.of_brief("problem", "targets", position, "value")
    target = facts.brief["problem"]["targets"][position]
    unit = facts.metrics[target["metric"]].unit if target["metric"] in facts.metrics else "ms"
    assert found.source["stage"] == BRIEF
    return found.cell(unit, show)
