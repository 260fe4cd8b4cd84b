"""A cell: a value with its unit and its source, or the reason why there is none. Nothing here reads a file.

A source is plain data: `{"stage", "digest", "field"}`, or `{"op", "of": [sources]}` for a figure made of several.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dl_pipelines.evaluation.wording import number

Source = Mapping[str, Any]
Value = float | int | str | None

NOT_MEASURED, NOT_APPLICABLE = "not measured: ", "not applicable: "


@dataclass(frozen=True)
class Cell:
    """What stands for one placeholder. `text` is the value as shown, `note` follows the template's own suffix.

    `value` is in `unit`, as stored; `text` may be in the template's unit. `whole`: `text` replaces prefix and suffix.
    """

    value: Value = None
    unit: str = ""
    source: Source | None = None
    reason: str | None = None
    text: str = ""
    note: str = ""
    whole: bool = False

    def plain(self) -> dict[str, Any]:
        """As in report.json."""
        return {"value": self.value, "unit": self.unit, "source": self.source, "reason": self.reason}

    def noted(self, note: str) -> Cell:
        """The same with a note; a reason is left as it is."""
        return self if self.reason else replace(self, note=f"{self.note} {note}".strip())


def not_measured(reason: str) -> Cell:
    """A cell of which the value could be known and isn't, and why."""
    return Cell(reason=NOT_MEASURED + reason)


def not_applicable(reason: str) -> Cell:
    """A cell that has no meaning here, and why."""
    return Cell(reason=NOT_APPLICABLE + reason)


@dataclass(frozen=True)
class Extra:
    """A table of ours behind a section's own: the first column holds the labels of the rows.

    `folded`: long, so the page opens it when asked.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    note: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Found:
    """A value and where it was read."""

    value: Any
    source: Source

    def cell(
        self, unit: str = "", show: Callable[[Any], str] | None = None, note: str = "", whole: bool = False
    ) -> Cell:
        """As a cell; a list or mapping is told as text."""
        value = self.value if isinstance(self.value, int | float | str) else str(self.value)
        return Cell(value, unit, self.source, None, (show or number)(self.value), note, whole)


def told(text: str, *sources: Source) -> Cell:
    """A sentence made of the values at `sources`."""
    source = sources[0] if len(sources) == 1 else {"op": "told", "of": list(sources)}
    return Cell(text, "", source, None, text, whole=True)


def made(op: str, of: Sequence[Found]) -> Found:
    """A figure made of several: see OPERATIONS."""
    return Found(OPERATIONS[op]([item.value for item in of]), {"op": op, "of": [item.source for item in of]})


def _sum(values: Sequence[Any]) -> Any:
    """Of numbers, and of lists of numbers: what was read of each day."""
    return sum(_sum(value) if isinstance(value, list) else value for value in values)


OPERATIONS: Mapping[str, Callable[[Sequence[Any]], Any]] = {
    "sum": lambda values: round(_sum(values), 9),
    "count": lambda values: sum(len(value) for value in values),
    "ratio": lambda values: _sum(values[:1]) / _sum(values[1:]),  # the first over the second
    "rest": lambda values: 1 - values[0] / values[1],  # what is left of the second without the first, as a share
    "share": lambda values: values[0] / sum(values),  # of the first in all
    "cost": lambda values: round(values[0] * values[1] / 3600, 9),  # a price of an hour times seconds
    "megabytes": lambda values: values[0] / 1e6,  # of bytes
}


def interval(estimate: Mapping[str, float], show: Callable[[Any], str] = number) -> str:
    """`[low, high]` of an estimate, which no line break tears."""
    return f"[{show(estimate['low'])}, {show(estimate['high'])}]".replace(" ", "\N{NO-BREAK SPACE}")
