"""1. Candidates beside each other: what the architecture comparison measured of each, as cells and a table of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dl_pipelines.evaluation.choosing import value
from dl_pipelines.evaluation.wording import in_unit, number, plural
from dl_pipelines.report.cells import Cell, Extra, Found, Source, interval, not_measured, told
from dl_pipelines.report.facts import Facts, pointer

STAGE = "architecture_comparison"
TITLE = "Every candidate"
_AT = "outcome.json#/measured/comparison"


def compared(facts: Facts) -> dict[str, Any] | None:
    """What was compared, as plain data; None where nothing was."""
    found = facts.find(STAGE, _AT)
    return found.value if isinstance(found, Found) and found.value["rows"] else None


def source(facts: Facts) -> Source:
    """Where what was compared is; only where something was."""
    found = facts.find(STAGE, _AT)
    assert isinstance(found, Found)
    return found.source


def row_cells(facts: Facts, template_row: str) -> tuple[Cell, ...]:
    """Fit, parameters, hours of training, latency and metric of a row of the template.

    Of several candidates in a row the chosen one, else the one with the best metric.
    """
    place = _place(facts, template_row)
    if place is None:
        return (not_measured("no candidate of this kind was compared"),) * 5
    found = compared(facts)
    assert found is not None
    row = found["rows"][place]
    if row["reason"]:
        return (not_measured(f"{row['candidate']}: {row['reason']}"),) * 5
    rivals = [other for other in found["rows"] if other["template_row"] == template_row]
    named = f"{row['candidate']}, " if len(rivals) > 1 else ""
    return (
        _cell(facts, place, "fit").noted(f"({named}{'chosen' if row['chosen'] else 'not chosen'})"),
        _plain(facts, place, "parameters", "parameters", lambda count: number(count / 1e6),
               f"({number(row['parameters'])})"),
        _plain(facts, place, "train_seconds", "s", lambda seconds: number(seconds / 3600),
               f"({number(row['train_seconds']['value'])} s {interval(row['train_seconds'])})"),
        _estimate(facts, place, "latency_ms", "ms"),
        _metric(facts, place, about="Accuracy").noted(f"(validation rows, {plural(found['seeds'], 'seed')})"),
    )  # fmt: skip


def _place(facts: Facts, template_row: str) -> int | None:
    """The position of the candidate that stands for a row of the template."""
    found = compared(facts)
    assert found is not None
    sign = 1 if found["better"] == "higher" else -1

    def rank(place: int) -> tuple[bool, bool, float]:
        row = found["rows"][place]
        return row["chosen"], not row["reason"], sign * (value(row, "metric") or 0.0)

    places = [place for place, row in enumerate(found["rows"]) if row["template_row"] == template_row]
    return max(places, key=rank, default=None)


def candidates(facts: Facts) -> list[Extra]:
    """All candidates, and why the chosen one was chosen; nothing where none were compared."""
    found = compared(facts)
    if found is None:
        return []
    energy = any(row.get("energy_j") is not None for row in found["rows"])
    metric = facts.metrics[found["metric"]]
    columns = ["Candidate", "Verdict", metric.label, "Latency (ms)", "Throughput (rows/s)", "Size (MB)", "Training (s)",
               "Cost ($)", *(["Energy (J)"] if energy else []), "Fit", "Parameters"]  # fmt: skip
    rows = [(row["candidate"], _row(facts, place, energy)) for place, row in enumerate(found["rows"])]
    return [Extra(TITLE, columns, rows, _note(found, energy))]


def _row(facts: Facts, place: int, energy: bool) -> list[Cell]:
    found = compared(facts)
    assert found is not None
    row = found["rows"][place]
    if row["reason"]:
        return [not_measured(row["reason"])] * (9 + energy)
    cost = _cell(facts, place, "cost")
    return [
        _verdict(facts, place, row),
        _metric(facts, place),
        _estimate(facts, place, "latency_ms", "ms", lambda ms: f"{ms:.3g}"),
        _estimate(facts, place, "throughput", "rows/s", lambda rate: f"{rate:,.0f}"),
        _cell(facts, place, "size_mb", "MB"),
        _estimate(facts, place, "train_seconds", "s", lambda seconds: f"{seconds:.3g}"),
        not_measured("the brief has no price of an hour") if row["cost"] is None else cost,
        *([_cell(facts, place, "energy_j", "J")] if energy else []),
        _cell(facts, place, "fit"),
        _cell(facts, place, "parameters"),
    ]


def _verdict(facts: Facts, place: int, row: dict[str, Any]) -> Cell:
    whole = facts.find(STAGE, _AT + pointer("rows", place, "behind")[1:])
    assert isinstance(whole, Found)
    metric = facts.metrics[(compared(facts) or {})["metric"]]

    def show(difference: float) -> str:
        return in_unit(difference, metric.unit)

    behind = f"{show(whole.value['value'])} {interval(whole.value, show)} behind the best"
    word = "chosen" if row["chosen"] else "tied" if row["tied"] else "worse"
    parts = [word, *([behind] if any(whole.value.values()) else []), *(["on the front"] if row["pareto"] else [])]
    return told(", ".join(parts), whole.source)


def _note(found: dict[str, Any], energy: bool) -> str:
    """Why the chosen one, and what the figures are of."""
    why = found["why"][0].upper() + found["why"][1:]
    parts = [
        f"{why}. The brief's priority is {found['priority']}.",
        f"{plural(found['seeds'], 'seed')} of {plural(found['epochs'], 'epoch')} each, "
        f"{plural(found['train_rows'], 'train row')}; the metric on "
        f"{plural(found['validation_rows'], 'validation row')}, intervals {found['interval']}.",
        "Timed in ONNX Runtime, fp32, one row at a time and in batches of 64.",
        "Energy is of 1,000 answers." if energy else f"Energy: {found['energy_reason']}.",
        "Fit is out of 10: its formula is in docs/comparison.md.",
    ]
    return " ".join(parts)


def _find(facts: Facts, place: int, *keys: str) -> Found | Cell:
    return facts.find(STAGE, _AT + pointer("rows", place, *keys)[1:])


def _cell(facts: Facts, place: int, name: str, unit: str = "") -> Cell:
    found = _find(facts, place, name)
    return found if isinstance(found, Cell) else found.cell(unit)


def _plain(facts: Facts, place: int, name: str, unit: str, show: Callable[[Any], str], note: str) -> Cell:
    """A figure in the template's unit; of an estimate its middle."""
    whole = _find(facts, place, name)
    if isinstance(whole, Found) and isinstance(whole.value, dict):
        whole = _find(facts, place, name, "value")
    return whole if isinstance(whole, Cell) else whole.cell(unit, show, note)


def _estimate(facts: Facts, place: int, name: str, unit: str, show: Callable[[Any], str] = number) -> Cell:
    whole, middle = _find(facts, place, name), _find(facts, place, name, "value")
    if isinstance(whole, Cell) or isinstance(middle, Cell):
        return whole if isinstance(whole, Cell) else not_measured("no estimate")
    return middle.cell(unit, show, interval(whole.value, show))


def _metric(facts: Facts, place: int, about: str = "") -> Cell:
    """The metric that was compared; it is named where the row is about another one."""
    metric = facts.metrics[(compared(facts) or {})["metric"]]
    name = f"{metric.label} " if about and about.lower() not in metric.label.lower() else ""
    whole, middle = _find(facts, place, "metric"), _find(facts, place, "metric", "value")
    if isinstance(whole, Cell) or isinstance(middle, Cell):
        return whole if isinstance(whole, Cell) else not_measured("no estimate")

    def show(found: float) -> str:
        return in_unit(found, metric.unit)

    return middle.cell(metric.unit, lambda found: name + show(found), interval(whole.value, show), whole=True)
