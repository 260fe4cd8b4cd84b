"""Targets against what was measured on the artifact that each is about. Plain data in, plain data out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dl_pipelines.brief.targets import SYSTEM_METRICS, Target
from dl_pipelines.evaluation.slices import GATED_ROWS
from dl_pipelines.evaluation.wording import in_unit, number
from dl_pipelines.report.cells import NOT_MEASURED, Cell, Found, made, not_measured
from dl_pipelines.report.facts import REPORT, Facts, pointer

MET, MISSED, BLOCKED = "met", "missed", "blocked"
_LEDGER_FIGURE = {"latency_p50_ms": "latency_p50_ms", "size_mb": "size_mb"}


def judge(facts: Facts) -> dict[str, Any]:
    """`verdict` met, missed or blocked (an integrity gate failed), `targets`, `blocked_by`."""
    targets = [_judge(facts, Target.model_validate(target)) for target in facts.brief["problem"]["targets"]]
    blocked = blocking(facts)
    missed = any(target["met"] is False for target in targets)
    return {"verdict": BLOCKED if blocked else MISSED if missed else MET, "targets": targets, "blocked_by": blocked}


def blocking(facts: Facts) -> list[str]:
    """Integrity gates that did not pass, with what they found."""
    documents = [*(item for items in facts.days.values() for item in items), *facts.documents.values()]
    return [
        f"{document.stage}{' ' + document.day if document.day else ''}: {gate['name']}: {gate['summary']}"
        for document in documents
        for gate in document.files["outcome.json"]["gates"]
        if gate["blocking"] and gate["passed"] is not True
    ]


def _judge(facts: Facts, target: Target) -> dict[str, Any]:
    found, whole, undecided = measure(facts, target)
    unit = facts.metrics[target.metric].unit if target.metric in facts.metrics else SYSTEM_METRICS[target.metric][0]
    row: dict[str, Any] = {
        "name": target.name, "metric": target.metric, "op": target.op, "where": target.where, "unit": unit,
        "target": target.value, "measured": None, "low": None, "high": None, "met": False, "source": None,
        "nearest": None, "reason": None,
    }  # fmt: skip
    if isinstance(found, Cell):
        return {**row, "reason": (found.reason or "").removeprefix(NOT_MEASURED)}
    row |= {"measured": found.value, "source": found.source}
    if whole:
        row |= {"low": whole["low"], "high": whole["high"]}
    if undecided:
        return {**row, "met": None, "reason": undecided}
    met = target.met_by(found.value)
    return {**row, "met": met, "nearest": None if met else nearest(facts, target)}


Measured = tuple[Found | Cell, Mapping[str, float] | None, str | None]
"""The value, its interval, and why it can't be decided on."""


def measure(facts: Facts, target: Target) -> Measured:
    """What was measured on the artifact that a target is about."""
    if target.metric in SYSTEM_METRICS:
        return _system(facts, target)
    if target.slice is not None:
        return _slice(facts, target)
    stage, path = {
        "trained": ("evaluation", "metrics.json#/test"),
        "compressed": (REPORT, "compressed_test.json#/metrics"),
        "served": ("triton_repository", "outcome.json#/measured/metrics/test"),
    }[target.where]
    if target.where == "compressed" and "compressed_model" in facts.missing:
        return Cell(reason=facts.missing["compressed_model"]), None, None
    key = path + pointer(target.metric)[1:]
    value, whole = facts.find(stage, f"{key}/value"), facts.find(stage, key)
    return value, whole.value if isinstance(whole, Found) else None, None


def _slice(facts: Facts, target: Target) -> Measured:
    if target.where == "served":
        why = "through the live server all rows are measured together; set the target's where to compressed"
        return not_measured(why), None, None
    stage, path = {
        "trained": ("evaluation", "slices.json#"),
        "compressed": (REPORT, "compressed_test.json#/slices"),
    }[target.where]
    table = facts.find(stage, path)
    if isinstance(table, Cell):
        return table, None, None
    position = next((place for place, row in enumerate(table.value) if row["slice"] == target.slice), None)
    if position is None:
        known = ", ".join(row["slice"] for row in table.value)
        return not_measured(f"no test row is in the slice {target.slice}; there are {known}"), None, None
    row = table.value[position]
    if target.metric not in row:
        return not_measured(f"slices are measured by {facts.primary}"), None, None
    value = facts.find(stage, path + pointer(position, target.metric, "value")[1:])
    few = f"only {row['rows']} test rows are in the slice, {GATED_ROWS} are needed to decide"
    return value, row[target.metric], None if row["gated"] else few


def _system(facts: Facts, target: Target) -> Measured:
    if target.metric == "size_mb":
        if target.where == "trained":
            found = facts.find("trained_model", "weights.safetensors#/size")
        else:
            found = facts.find("compressed_model", "choice.json#/size_bytes")
        return (found if isinstance(found, Cell) else made("megabytes", [found])), None, None
    if target.where == "served":
        name = target.metric.removeprefix("latency_")
        return facts.find("triton_repository", f"outcome.json#/measured/latency/{name}"), None, None
    ledger = facts.find("compressed_model", "outcome.json#/measured/ledger")
    if isinstance(ledger, Cell):
        return ledger, None, None
    position = next(place for place, row in enumerate(ledger.value) if row["chosen"])
    row = ledger.value[position]
    path = "outcome.json#/measured/ledger" + pointer(position, "latency_p50_ms")[1:]
    whole = {"low": row["latency_low"], "high": row["latency_high"]}
    return facts.find("compressed_model", path), whole if whole["low"] is not None else None, None


def nearest(facts: Facts, target: Target) -> str:
    """The row of the ledger that meets a missed target at the least cost, or that none tried does."""
    ledger = facts.find("compressed_model", "outcome.json#/measured/ledger")
    if isinstance(ledger, Cell):
        return "none tried meets it: nothing was compressed in this run"
    if target.where == "trained":
        return "none tried meets it: one model was trained in this run, and no search was run"
    if target.where == "served" and (target.metric.startswith("latency_") or target.metric == "throughput_rps"):
        return _nearest_in_process(ledger.value, target)
    options = [(value, row) for row in ledger.value if (value := _figure(row, target.metric)) is not None]
    if not options:
        return f"none tried meets it: the ledger has no {target.metric}"
    best = min if target.op == "<=" else max
    meeting = [option for option in options if target.met_by(option[0])]
    if meeting:
        value, row = min(meeting, key=lambda option: option[1]["latency_p50_ms"] or float("inf"))
        return f"{_name(row)} would meet it with {_show(facts, target.metric, value)} (validation rows); {_why(row)}"
    value, row = best(options, key=lambda option: option[0])
    return f"none tried meets it; the nearest is {_name(row)} with {_show(facts, target.metric, value)}"


def _nearest_in_process(ledger: list[dict[str, Any]], target: Target) -> str:
    timed = [row for row in ledger if row["latency_p50_ms"] is not None]
    if not timed:
        return "none tried meets it: no row of the ledger was timed"
    row = min(timed, key=lambda item: item["latency_p50_ms"])
    told = f"{_name(row)} with p50 {number(row['latency_p50_ms'])} ms in the process, without the server"
    serves = "which is what serves" if row["chosen"] else _why(row)
    knobs = "try serving.queue_delay_ms, serving.instances or serving.load_clients"
    return f"none tried meets it; the fastest is {told}, {serves}; the rest is the server: {knobs}"


def _figure(row: Mapping[str, Any], metric: str) -> float | None:
    if metric in _LEDGER_FIGURE:
        return row[_LEDGER_FIGURE[metric]]
    return row["metrics"].get(metric, {}).get("value")


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['variant']} on {row['runtime']}"


def _why(row: Mapping[str, Any]) -> str:
    return "which serves" if row["chosen"] else f"not chosen: {row['reason']}"


def _show(facts: Facts, metric: str, value: float) -> str:
    unit = facts.metrics[metric].unit if metric in facts.metrics else SYSTEM_METRICS[metric][0]
    return in_unit(value, unit)
