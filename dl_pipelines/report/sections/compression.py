"""7. What was tried to make the model smaller or faster: rows of the ledger, measured on validation rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dl_pipelines.evaluation.wording import in_unit, number
from dl_pipelines.report.cells import Cell, Found, interval, not_applicable, not_measured, told
from dl_pipelines.report.facts import Facts, pointer

_LEDGER = "outcome.json#/measured/ledger"
_KINDS = {
    "QUANT": ("quantization", ("int8", "int4", "quant")),
    "PRUNE": ("pruning", ("prun", "sparse")),
    "DISTIL": ("distillation", ("distil",)),
    "NAS": ("architecture search", ("nas", "search")),
}
"""Row of the template: what it is called, and what the name of such a technique contains."""
_COLUMNS = ("APPLIED", "ORIG", "COMP", "SPEED", "LOSS")


def cells(facts: Facts) -> dict[str, Cell]:
    """The table's cells; of several rows of one kind, the one that serves or the fastest is shown."""
    made: dict[str, Cell] = {}
    for prefix, (kind, words) in _KINDS.items():
        made |= {f"{prefix}_{column}": cell for column, cell in zip(_COLUMNS, _row(facts, kind, words), strict=True)}
    return {**made, **_mixed(facts)}


def _row(facts: Facts, kind: str, words: tuple[str, ...]) -> tuple[Cell, ...]:
    asked = [ref["name"] for ref in facts.brief["compression"]["techniques"]]
    where = facts.of_brief("compression", "techniques").source
    if not any(word in name for name in asked for word in words):
        return (told("no", where), *[not_applicable("not among the brief's techniques")] * 4)
    ledger = facts.find("compressed_model", _LEDGER)
    if isinstance(ledger, Cell):
        return (ledger,) * 5
    position = _best(ledger.value, words)
    if position is None:
        return (told("no", where), *[not_measured(f"the ledger has no row of {kind}")] * 4)
    row = ledger.value[position]
    verdict = "yes" if row["chosen"] else "tried, kept in reserve" if row["kept"] else "tried, rejected"
    reason = facts.find("compressed_model", _LEDGER + pointer(position, "reason")[1:])
    applied = told(f"{verdict}: {row['variant']} on {row['runtime']} ({row['reason']})",
                   reason.source if isinstance(reason, Found) else ledger.source)  # fmt: skip
    return (
        applied,
        _figure(facts, "baseline/size_mb", "MB"),
        _figure(facts, f"ledger/{position}/size_mb", "MB"),
        _estimate(facts, position, "speed_up", "x", number),
        _loss(facts, position),
    )


def _best(ledger: list[dict[str, Any]], words: tuple[str, ...]) -> int | None:
    """The row that serves, else the fastest kept, else the fastest tried, of the techniques with these words."""
    rows = [
        (not row["chosen"], not row["kept"], row["latency_p50_ms"] or float("inf"), position)
        for position, row in enumerate(ledger)
        if any(word in row["technique"] for word in words)
    ]
    return min(rows)[3] if rows else None


def _figure(facts: Facts, path: str, unit: str) -> Cell:
    found = facts.find("compressed_model", f"outcome.json#/measured/{path}")
    return found if isinstance(found, Cell) else found.cell(unit)


def _estimate(facts: Facts, position: int, name: str, unit: str, show: Any) -> Cell:
    whole = facts.find("compressed_model", _LEDGER + pointer(position, name)[1:])
    value = facts.find("compressed_model", _LEDGER + pointer(position, name, "value")[1:])
    if isinstance(whole, Cell) or isinstance(value, Cell):
        return whole if isinstance(whole, Cell) else not_measured("no estimate")
    return value.cell(unit, show, interval(whole.value, show))


def _loss(facts: Facts, position: int) -> Cell:
    unit = facts.metrics[facts.primary].unit
    cell = _estimate(facts, position, "loss", unit, lambda value: in_unit(value, unit))
    return replace(cell, whole=True).noted(f"of {facts.primary}, paired, validation rows")


def _mixed(facts: Facts) -> dict[str, Cell]:
    precision = facts.find("trained_model", "manifest.json#/settings/settings/training/precision")
    if isinstance(precision, Cell):
        return {"MIXED_APPLIED": precision, "MIXED_SPEED": precision, "MIXED_LOSS": precision}
    if precision.value == "fp32":
        why = not_applicable("trained in fp32")
        return {"MIXED_APPLIED": told("no: trained in fp32", precision.source), "MIXED_SPEED": why, "MIXED_LOSS": why}
    why = not_measured("no training in fp32 was run beside it")
    return {
        "MIXED_APPLIED": told(f"yes: trained in {precision.value}", precision.source),
        "MIXED_SPEED": why,
        "MIXED_LOSS": why,
    }
