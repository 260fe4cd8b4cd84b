"""For a missed target, what of all that was tried comes nearest to it, and by how much it is missed. No verdict."""

from __future__ import annotations

from collections.abc import Sequence

from dl_pipelines.brief.targets import SYSTEM_METRICS, Target
from dl_pipelines.evaluation.wording import in_unit, number, percent
from dl_pipelines.report import chain
from dl_pipelines.report.chain import Row
from dl_pipelines.report.facts import Facts
from dl_pipelines.report.sections.comparison import compared
from dl_pipelines.report.sections.study import study

_LEDGER_FIGURES = ("latency_p50_ms", "size_mb")


def nearest(facts: Facts, target: Target, measured: float) -> str:
    """The row of the ledger that meets a missed target at the least cost; where none does, by how much it is missed."""
    unit = unit_of(facts, target.metric)
    missed = f"none tried meets it; it is missed by {gap(unit, measured - target.value)}"
    if target.where == "trained":
        return f"{missed}; {_other_models(facts)}"
    rows = chain.ledger(facts)
    if not rows:
        return f"{missed}; nothing was compressed in this run"
    if target.where == "served" and (target.metric.startswith("latency_") or target.metric == "throughput_rps"):
        return f"{missed}; {_in_process(rows)}"
    options = [(value, row) for row in rows if (value := _figure(row, target)) is not None]
    if not options:
        return f"{missed}; the ledger has no {target.name}"
    others = [option for option in options if target.met_by(option[0]) and not option[1]["chosen"]]
    if others:
        value, row = min(others, key=lambda option: (not option[1]["kept"], _latency(option[1])))
        told = f"{chain.name(row)} would meet it with {in_unit(value, unit)} (validation rows)"
        return f"{told}; {_why(row)}"
    value, row = (min if target.op == "<=" else max)(options, key=lambda option: option[0])
    told = f"{chain.name(row)} with {in_unit(value, unit)}"
    if target.met_by(value):
        return f"{missed}; the nearest is {told} on validation rows, which serves"
    return f"none tried meets it; the nearest is {told}, {gap(unit, value - target.value)} from the target; {_why(row)}"


def _other_models(facts: Facts) -> str:
    """Where to look for another model than the one that was trained."""
    if compared(facts):
        return "it was chosen among the candidates of section 1"
    return "it is the best that the search of section 4 found" if study(facts) else "no other model was trained"


def _in_process(rows: Sequence[Row]) -> str:
    timed = [row for row in rows if row["latency_p50_ms"] is not None]
    if not timed:
        return "no row of the ledger was timed"
    row = next((row for row in timed if row["chosen"]), None) or min(timed, key=_latency)
    fastest = max(timed, key=lambda item: item["gain"]["value"] if item["gain"] else 0.0)
    told = f"{chain.name(row)}, which serves, has a p50 of {number(row['latency_p50_ms'])} ms in the process"
    if fastest is not row:
        told += f" (the fastest tried, {chain.name(fastest)}, {number(_latency(fastest))} ms; {_why(fastest)})"
    knobs = "try serving.queue_delay_ms, serving.instances or serving.load_clients"
    return f"{told}; the rest is the server: {knobs}"


def _latency(row: Row) -> float:
    return row["latency_p50_ms"] if row["latency_p50_ms"] is not None else float("inf")


def _figure(row: Row, target: Target) -> float | None:
    """What a row has of the figure that a target is about, on validation rows."""
    told = next((item["value"] for item in row["targets"] if item["name"] == target.name), None)
    if told is not None or target.slice is not None:
        return told
    if target.metric in _LEDGER_FIGURES:
        return row[target.metric]
    return row["metrics"].get(target.metric, {}).get("value")


def _why(row: Row) -> str:
    return "which serves" if row["chosen"] else f"not chosen: {row['reason']}"


def gap(unit: str, difference: float) -> str:
    """How far two values are apart; shares by points."""
    if unit != "share":
        return in_unit(abs(difference), unit)
    points = percent(abs(difference))
    return f"{points} point{'' if points == '1' else 's'}"


def unit_of(facts: Facts, metric: str) -> str:
    """Of a metric of the task, or of the system."""
    return facts.metrics[metric].unit if metric in facts.metrics else SYSTEM_METRICS[metric][0]
