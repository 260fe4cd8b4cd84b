"""7. What was tried to make the model smaller or faster: rows of the ledger, measured on validation rows."""

from __future__ import annotations

from dl_pipelines.report import chain
from dl_pipelines.report.cells import Cell, Extra, not_applicable, not_measured, told
from dl_pipelines.report.chain import LEDGER, STAGE, Row
from dl_pipelines.report.facts import Facts
from dl_pipelines.report.sections import ledger

ROWS = {
    "QUANT": "quantization", "PRUNE": "pruning", "DISTIL": "distillation", "NAS": "architecture search",
    "MIXED": "mixed precision",
}  # fmt: skip
_COLUMNS = ("APPLIED", "ORIG", "COMP", "SPEED", "LOSS")


def cells(facts: Facts) -> dict[str, Cell]:
    """The table's cells; of several rows of one kind, the one that serves or the best is shown (chain.shown)."""
    made: dict[str, Cell] = {}
    for prefix in ROWS:
        made |= {f"{prefix}_{column}": cell for column, cell in zip(_COLUMNS, _row(facts, prefix), strict=True)}
    del made["MIXED_ORIG"], made["MIXED_COMP"]  # the template has no place for them
    return {**made, **_trained_precision(facts, made["MIXED_APPLIED"])}


def _row(facts: Facts, prefix: str) -> tuple[Cell, ...]:
    where = facts.of_brief("compression", "techniques").source
    if not _is_asked(facts, prefix):
        return (told("no", where), *[not_applicable("not among the brief's techniques")] * 4)
    found = facts.find(STAGE, LEDGER)
    if isinstance(found, Cell):
        return (found,) * 5
    rows = found.value
    position = chain.shown(rows, prefix, facts.brief["compression"]["objective"])
    if position is None:
        return (told("no", where), *[not_measured(f"the ledger has no row of {ROWS[prefix]}")] * 4)
    original = facts.find(STAGE, "outcome.json#/measured/baseline/size_mb")
    return (
        _applied(facts, rows, position),
        original if isinstance(original, Cell) else original.cell("MB"),
        ledger.figure(facts, position, "size_mb", "MB"),
        ledger.estimate(facts, position, "gain", "x", ledger.times),
        ledger.loss(facts, position).noted(f"of {facts.primary}, paired, validation rows"),
    )


def _applied(facts: Facts, rows: list[Row], position: int) -> Cell:
    """In words: whether it serves or why not, what it began from."""
    row, before = rows[position], chain.began_from(rows, rows[position]["step"])
    start = f", from {before['variant']}" if before else ""
    text = f"{chain.verdict(rows, position)}: {chain.name(row)}{start} ({row['reason']})"
    return told(text, *ledger.sources(facts, position, "reason", "chosen", "taken"))


def _trained_precision(facts: Facts, applied: Cell) -> dict[str, Cell]:
    """What the training's precision changes in the row of mixed precision, all of it where no technique was asked."""
    precision = facts.find("trained_model", "manifest.json#/settings/settings/training/precision")
    if _is_asked(facts, "MIXED"):
        if isinstance(precision, Cell) or precision.value == "fp32" or applied.source is None:
            return {}
        both = f"{applied.text}; trained in {precision.value}"
        return {"MIXED_APPLIED": told(both, applied.source, precision.source)}
    if isinstance(precision, Cell):
        trained = why = precision
    elif precision.value == "fp32":
        trained, why = told("no: trained in fp32", precision.source), not_applicable("trained in fp32")
    else:
        trained = told(f"yes: trained in {precision.value}", precision.source)
        why = not_measured("no training in fp32 was run beside it")
    return {"MIXED_APPLIED": trained, "MIXED_SPEED": why, "MIXED_LOSS": why}


def _is_asked(facts: Facts, prefix: str) -> bool:
    return prefix in {chain.template_row(name) for name in chain.asked(facts)}


def extras(facts: Facts) -> list[Extra]:
    """The whole ledger, and what techniques tell of themselves; nothing where nothing was compressed."""
    return ledger.tables(facts)
