"""7. The compression ledger as tables of ours, and its figures as cells that say where they were read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from dl_pipelines.evaluation.wording import in_unit, number, plural
from dl_pipelines.report import chain
from dl_pipelines.report.cells import Cell, Extra, Found, interval, not_measured, told
from dl_pipelines.report.chain import LEDGER, STAGE, Row
from dl_pipelines.report.details import in_words
from dl_pipelines.report.facts import Facts, pointer

TITLE, FOUND = "The compression ledger: every variant tried", "What the techniques found on the way"
FOLDED = 8
"""A longer ledger is folded in the page."""


def tables(facts: Facts) -> list[Extra]:
    """Every row of the ledger, and what techniques tell of themselves; nothing where nothing was compressed."""
    rows = chain.ledger(facts)
    if not rows:
        return []
    energy = any(row["energy_j"] for row in rows)
    columns = [
        "Variant", "Step", "Size (MB)", "Latency p50 (ms)", "Speed gain (x)",
        *(["Energy (J)"] if energy else []), f"Loss of {facts.primary}", "Verdict",
    ]  # fmt: skip
    listed = [(chain.name(row), _line(facts, place, row, energy)) for place, row in enumerate(rows)]
    made = [Extra(TITLE, columns, listed, _note(facts, rows, energy), folded=len(rows) > FOLDED)]
    found = _found(facts, rows)
    return [*made, *([Extra(FOUND, ["Variant", "Technique", "Found"], found, folded=True)] if found else [])]


def _line(facts: Facts, place: int, row: Row, energy: bool) -> list[Cell]:
    step = told(f"{row['step']} {row['phase']}", *sources(facts, place, "step", "phase"))
    judged = told(f"{chain.state(row)}: {row['reason']}", *sources(facts, place, "reason", "chosen", "taken", "kept"))
    if row["size_mb"] is None:
        return [step, *[not_measured("there is nothing to measure")] * (4 + energy), judged]
    return [
        step,
        figure(facts, place, "size_mb", "MB"),
        _latency(facts, place, row),
        estimate(facts, place, "gain", "x", times),
        *([estimate(facts, place, "energy_j", "J", number)] if energy else []),
        loss(facts, place),
        judged,
    ]


def _found(facts: Facts, rows: list[Row]) -> list[tuple[str, list[Cell]]]:
    """A line for each variant that tells something; what it tells on every runtime is told once."""
    lines: dict[tuple[int, str], tuple[str, list[Cell]]] = {}
    for place, row in enumerate(rows):
        if row["details"]:
            technique = told(row["technique"].replace("_", " "), *sources(facts, place, "technique"))
            found = told(in_words(row["details"]), *sources(facts, place, "details"))
            lines.setdefault((row["step"], row["variant"]), (row["variant"], [technique, found]))
    return list(lines.values())


def _note(facts: Facts, rows: list[Row], energy: bool) -> str:
    given = facts.brief["compression"]
    budget = in_unit(given["max_loss"], facts.metrics[facts.primary].unit)
    parts = [
        f"Objective: {given['objective']}. Budget: {budget} of {facts.primary}, for the whole interval of the loss, "
        "overall and on every slice of at least 100 rows.",
        "Each step is timed in turns with the uncompressed model, which the speed gain is against, and with the "
        "strongest artifact so far, on which it must improve; latencies of different steps are of different minutes.",
        *_counted(facts),
        *(["Energy is of 1,000 answers."] if energy else []),
    ]
    return " ".join(parts)


def _counted(facts: Facts) -> list[str]:
    """Of how many rows and by how many threads the figures are."""
    found = [facts.find(STAGE, f"outcome.json#/measured/{name}") for name in ("rows", "threads", "instances")]
    values = [item.value for item in found if isinstance(item, Found)]
    if len(values) < len(found):
        return []
    rows, threads, instances = values
    at_once = f"{plural(threads, 'thread')} and {plural(instances, 'instance')}"
    return [f"Metrics on {plural(rows, 'validation row')}; latency of one row at a time, with {at_once}."]


def sources(facts: Facts, place: int, *names: str) -> list[Any]:
    """Where fields of a row are read; those that have no value are left out."""
    found = [_find(facts, place, name) for name in names]
    return [item.source for item in found if isinstance(item, Found)]


def figure(facts: Facts, place: int, name: str, unit: str) -> Cell:
    """A figure of a row; of a variant that could not be made the reason."""
    found = _find(facts, place, name)
    return _why(facts, place, found) if isinstance(found, Cell) else found.cell(unit)


def estimate(facts: Facts, place: int, name: str, unit: str, show: Callable[[Any], str]) -> Cell:
    """A figure of a row with its interval; of a variant that could not be made the reason."""
    whole, middle = _find(facts, place, name), _find(facts, place, name, "value")
    if isinstance(whole, Cell) or isinstance(middle, Cell):
        return _why(facts, place, whole if isinstance(whole, Cell) else not_measured("no estimate"))
    return middle.cell(unit, show, interval(whole.value, show))


def loss(facts: Facts, place: int) -> Cell:
    """Of the primary metric, paired, positive is worse, in its unit."""
    unit = facts.metrics[facts.primary].unit
    return replace(estimate(facts, place, "loss", unit, lambda value: in_unit(value, unit)), whole=True)


def times(value: float) -> str:
    """How many times faster: three digits."""
    return f"{value:.3g}"


def _latency(facts: Facts, place: int, row: Row) -> Cell:
    found = _find(facts, place, "latency_p50_ms")
    if isinstance(found, Cell):
        return found
    return found.cell("ms", times, interval({"low": row["latency_low"], "high": row["latency_high"]}, times))


def _why(facts: Facts, place: int, cell: Cell) -> Cell:
    row = chain.ledger(facts)[place]
    return cell if row["size_mb"] is not None else not_measured(f"{row['variant']}: there is no file")


def _find(facts: Facts, place: int, *keys: str) -> Found | Cell:
    return facts.find(STAGE, LEDGER + pointer(place, *keys)[1:])
