"""Targets against what was measured on the artifact that each is about. Plain data in, plain data out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dl_pipelines.brief.targets import SYSTEM_METRICS, Target
from dl_pipelines.evaluation.slices import GATED_ROWS
from dl_pipelines.evaluation.wording import in_unit, number, percent
from dl_pipelines.report import chain
from dl_pipelines.report.cells import NOT_MEASURED, Cell, Found, made, not_measured
from dl_pipelines.report.chain import Row
from dl_pipelines.report.facts import REPORT, Facts, pointer
from dl_pipelines.report.sections.comparison import compared
from dl_pipelines.report.sections.study import study

MET, MISSED, BLOCKED = "met", "missed", "blocked"
_LEDGER_FIGURES = ("latency_p50_ms", "size_mb")


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
    row: dict[str, Any] = {
        "name": target.name, "metric": target.metric, "op": target.op, "where": target.where,
        "unit": _unit(facts, target.metric),
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
    return {**row, "met": met, "nearest": None if met else nearest(facts, target, found.value)}


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


def nearest(facts: Facts, target: Target, measured: float) -> str:
    """The row of the ledger that meets a missed target at the least cost; where none does, by how much it is missed."""
    missed = f"none tried meets it; it is missed by {_gap(facts, target, measured)}"
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
        told = f"{chain.name(row)} would meet it with {_show(facts, target, value)} (validation rows)"
        return f"{told}; {_why(row)}"
    value, row = (min if target.op == "<=" else max)(options, key=lambda option: option[0])
    told = f"{chain.name(row)} with {_show(facts, target, value)}"
    if target.met_by(value):
        return f"{missed}; the nearest is {told} on validation rows, which serves"
    return f"none tried meets it; the nearest is {told}, {_gap(facts, target, value)} from the target; {_why(row)}"


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


def _gap(facts: Facts, target: Target, value: float) -> str:
    """How far a value is from a target; shares differ by points."""
    if _unit(facts, target.metric) == "share":
        points = percent(abs(value - target.value))
        return f"{points} point{'' if points == '1' else 's'}"
    return _show(facts, target, abs(value - target.value))


def _show(facts: Facts, target: Target, value: float) -> str:
    return in_unit(value, _unit(facts, target.metric))


def _unit(facts: Facts, metric: str) -> str:
    return facts.metrics[metric].unit if metric in facts.metrics else SYSTEM_METRICS[metric][0]
