"""Targets against what was measured on the artifact that each is about. Plain data in, plain data out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dl_pipelines.brief.targets import SYSTEM_METRICS, Target
from dl_pipelines.evaluation.slices import GATED_ROWS
from dl_pipelines.report.cells import NOT_MEASURED, Cell, Found, made, not_measured
from dl_pipelines.report.facts import REPORT, Facts, pointer
from dl_pipelines.report.nearest import gap, nearest, unit_of

MET, MISSED, BLOCKED = "met", "missed", "blocked"
BUDGET = "accuracy_budget"
"""The gate of the stage `compressed_model`."""


def judge(facts: Facts) -> dict[str, Any]:
    """`verdict` met, missed or blocked (an integrity gate failed), `targets`, `blocked_by`.

    The budget of the compression is among the targets where nothing that was tried meets it.
    """
    targets = [_judge(facts, Target.model_validate(target)) for target in facts.brief["problem"]["targets"]]
    targets += _budget(facts)
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
        "unit": unit_of(facts, target.metric),
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


def _budget(facts: Facts) -> list[dict[str, Any]]:
    """The accuracy budget as one more target where it was missed: by the loss of what comes nearest, its upper end."""
    gates = facts.find("compressed_model", "outcome.json#/gates")
    if isinstance(gates, Cell):
        return []
    found = [(place, gate) for place, gate in enumerate(gates.value) if gate["name"] == BUDGET]
    return [_of_budget(facts, place, gate) for place, gate in found if gate["passed"] is False]


def _of_budget(facts: Facts, place: int, gate: Mapping[str, Any]) -> dict[str, Any]:
    budget, unit = facts.brief["compression"]["max_loss"], facts.metrics[facts.primary].unit
    row: dict[str, Any] = {
        "name": f"{BUDGET} <= {budget:g} (compressed)", "metric": BUDGET, "op": "<=", "where": "compressed",
        "unit": unit, "target": budget, "measured": None, "low": None, "high": None, "met": False, "source": None,
        "nearest": None, "reason": gate["summary"],
    }  # fmt: skip
    inside = ("nearest", "high") if "nearest" in gate["facts"] else ("high",)
    reached = facts.find("compressed_model", "outcome.json" + pointer("gates", place, "facts", *inside))
    if isinstance(reached, Cell):
        return row
    told = f"missed by {gap(unit, reached.value - budget)} at the end of the interval; {gate['summary']}"
    return {**row, "measured": reached.value, "source": reached.source, "nearest": told, "reason": None}


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
