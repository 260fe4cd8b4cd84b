"""5. What the scaling report measured of each number of workers, as cells and a table of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dl_pipelines.evaluation.wording import number, percent, plural
from dl_pipelines.report.cells import Cell, Extra, Found, interval, not_applicable, not_measured, told
from dl_pipelines.report.facts import Facts, pointer

STAGE = "scaling_report"
TITLE = "More workers on the same samples"
PARTS = ("compute", "communication", "input", "other")
_AT = "outcome.json#/measured/scaling"
_COLUMNS = ("Workers", "Samples/s", "Efficiency", "Compute (ms a step)", "Communication (ms)", "Input (ms)",
            "Other (ms)", "Bottleneck", "Loss", "Cost ($)")  # fmt: skip


def scaled(facts: Facts) -> dict[str, Any] | None:
    """What was measured, as plain data; None where nothing was."""
    found = facts.find(STAGE, _AT)
    return found.value if isinstance(found, Found) and found.value["rows"] else None


def place_of(facts: Facts, workers: int | None) -> int | None:
    """The position of the row of so many workers (None: of the most that were measured); None where there is none."""
    measured = [
        (row["workers"], place)
        for place, row in enumerate((scaled(facts) or {"rows": []})["rows"])
        if not row["reason"]
    ]
    if workers is None:
        return max(measured)[1] if measured and max(measured)[0] > 1 else None
    return next((place for count, place in measured if count == workers), None)


def find(facts: Facts, place: int | None, *keys: str) -> Found | Cell:
    """A value of a row."""
    if place is None:
        return not_measured("so many workers were not measured")
    return facts.find(STAGE, _AT + pointer("rows", place, *keys)[1:])


def figure(
    facts: Facts, place: int | None, name: str, unit: str, show: Callable[[Any], str] = number, whole: bool = False
) -> Cell:
    """An estimate of a row with its interval."""
    estimate, middle = find(facts, place, name), find(facts, place, name, "value")
    if isinstance(estimate, Cell) or isinstance(middle, Cell):
        return estimate if isinstance(estimate, Cell) else not_measured("no estimate")
    return middle.cell(unit, show, interval(estimate.value, show), whole)


def scaling(facts: Facts) -> list[Extra]:
    """A row for each number of workers; nothing where none were asked for."""
    found = scaled(facts)
    if found is None:
        return []
    energy = any(row.get("energy_j") is not None for row in found["rows"])
    rows = [(str(row["workers"]), _row(facts, place, row, energy)) for place, row in enumerate(found["rows"])]
    return [Extra(TITLE, (*_COLUMNS, *(["Energy (J)"] if energy else [])), rows, _note(found, energy))]


def _row(facts: Facts, place: int, row: dict[str, Any], energy: bool) -> list[Cell]:
    if row["reason"]:
        return [not_measured(row["reason"])] * (len(_COLUMNS) - 1 + energy)
    return [
        figure(facts, place, "samples_per_second", "samples/s"),
        not_applicable("one worker") if row["workers"] == 1
        else figure(facts, place, "efficiency", "share", lambda share: f"{percent(share)}%"),
        *(_plain(find(facts, place, "step_ms", part), "ms", lambda value: f"{value:.3g}") for part in PARTS),
        _bottleneck(facts, place, row),
        _plain(find(facts, place, "loss"), note=f"({row['loss_of']})"),
        not_measured("the brief has no price of an hour") if row["cost"] is None
        else _plain(find(facts, place, "cost"), "USD"),
        *([_plain(find(facts, place, "energy_j"), "J")] if energy else []),
    ]  # fmt: skip


def _bottleneck(facts: Facts, place: int, row: dict[str, Any]) -> Cell:
    found = find(facts, place, "bottleneck")
    if isinstance(found, Cell):
        return found
    lost = f"; most is lost to {row['lost_to']}" if row["lost_to"] else ""
    return told(f"{found.value}{lost}", found.source)


def _plain(
    found: Found | Cell, unit: str = "", show: Callable[[Any], str] = number, note: str = ""
) -> Cell:  # fmt: skip
    return found if isinstance(found, Cell) else found.cell(unit, show, note)


def _note(found: dict[str, Any], energy: bool) -> str:
    parts = [
        f"{plural(found['samples'], 'sample')} each, {plural(found['steps'], 'step')} of one worker of "
        f"{plural(found['batch_size'], 'sample')}, which more workers share; validation is not in the time. "
        f"{found['confidence']:.0%} intervals over blocks of steps.",
        "Communication is the wait for the other workers' gradients at the end of a step.",
        "" if energy else f"Energy: {found['energy_reason']}.",
    ]
    return " ".join(part for part in parts if part)
