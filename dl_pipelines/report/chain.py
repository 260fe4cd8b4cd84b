"""The compression ledger as a chain: what steps began from, what the served model is made of, which row is shown.

Rows of `compression/ledger.py` in, positions and words out; nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dl_pipelines.compression.registry import ALL, TECHNIQUES
from dl_pipelines.report.cells import Found
from dl_pipelines.report.facts import Facts

STAGE = "compressed_model"
LEDGER = "outcome.json#/measured/ledger"
Row = Mapping[str, Any]


def ledger(facts: Facts) -> list[Row]:
    """The compression ledger, in the order tried; empty when nothing was compressed."""
    found = facts.find(STAGE, LEDGER)
    return found.value if isinstance(found, Found) else []


def asked(facts: Facts) -> tuple[str, ...]:
    """Names of the brief's techniques."""
    techniques = facts.brief["compression"]["techniques"]
    return ALL if techniques == "all" else tuple(ref["name"] for ref in techniques)


def template_row(technique: str) -> str | None:
    """The row of the template's table (QUANT, PRUNE, ...) of a technique; None for what is none of ours."""
    return TECHNIQUES.load(technique).template_row if technique in TECHNIQUES.names else None


def steps(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of each step, in order."""
    numbers = dict.fromkeys(row["step"] for row in rows)
    return [[row for row in rows if row["step"] == number] for number in numbers]


def name(row: Row) -> str:
    """`static_int8 on openvino`."""
    return f"{row['variant']} on {row['runtime']}"


def state(row: Row) -> str:
    """serves, taken (the chain went on with it), kept (it could serve) or rejected."""
    return "serves" if row["chosen"] else "taken" if row["taken"] else "kept" if row["kept"] else "rejected"


def kind(row: Row) -> str:
    """Its class in a drawing."""
    return "chosen" if row["chosen"] else "kept" if row["kept"] else "rejected"


def began_from(rows: Sequence[Row], step: int) -> Row | None:
    """The row of the network that a step began from: the last one taken before it; None: the trained one."""
    before = [row for row in rows if row["step"] < step and row["taken"] and row["network"]]
    return before[-1] if before else None


def made_of(rows: Sequence[Row]) -> list[Row]:
    """What serves, and behind it the networks that it was made from, back to the trained one."""
    line: list[Row] = []
    row = next((row for row in rows if row["chosen"]), None)
    while row is not None:
        line.append(row)
        row = began_from(rows, row["step"])
    return line


def shown(rows: Sequence[Row], wanted: str, objective: str) -> int | None:
    """The position of the row that stands for a row of the template; None where no technique of it was tried.

    What serves comes first, then what it is made of, then the last one taken, then by the objective those that could
    serve, those that were rejected, and those that could not be made.
    """
    served = made_of(rows)

    def rank(position: int) -> tuple[bool, bool, bool, bool, bool, float]:
        row = rows[position]
        part = any(row is other for other in served)
        order = -float(position) if row["taken"] else _merit(row, objective)
        return not row["chosen"], not part, not row["taken"], not row["kept"], row["size_mb"] is None, order

    places = [place for place, row in enumerate(rows) if template_row(row["technique"]) == wanted]
    return min(places, key=rank, default=None)


def _merit(row: Row, objective: str) -> float:
    """Lower is better; what was not measured is worst."""
    endless = float("inf")
    if objective == "size":
        return endless if row["size_mb"] is None else row["size_mb"]
    if objective == "energy":
        return row["energy_j"]["value"] if row["energy_j"] else endless
    return -row["gain"]["value"] if row["gain"] else endless


def verdict(rows: Sequence[Row], position: int) -> str:
    """Whether a technique was applied, by the row that stands for it, in words for the template."""
    row, line = rows[position], made_of(rows)
    if row["chosen"]:
        return "yes, it serves"
    if any(row is other for other in line):
        return f"yes, {name(line[0])} is made from it"
    if row["taken"]:
        later = [name(other) for other in rows[position + 1 :] if other["taken"]]
        return f"tried and taken, then replaced by {later[0]}" if later else "tried and taken"
    return "tried, kept in reserve" if row["kept"] else "tried, rejected"
