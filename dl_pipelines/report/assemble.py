"""The template filled with cells: one structure, from which Markdown, HTML and JSON are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dl_pipelines.report.cells import Cell, Extra
from dl_pipelines.report.template import Block, Document, Filled, Line, Table, fill


@dataclass(frozen=True)
class FilledRow:
    """A row of a table: its label and a filled pattern for each other column."""

    label: str
    cells: list[Filled]


@dataclass(frozen=True)
class FilledTable:
    """A table of the template, or one of ours with a title."""

    columns: list[str]
    rows: list[FilledRow]
    kind: str = "table"
    title: str = ""
    note: str = ""
    folded: bool = False


@dataclass(frozen=True)
class FilledLine:
    """A line of a list."""

    line: Line
    filled: Filled


@dataclass(frozen=True)
class FilledBlock:
    """A list of the template with its header."""

    header: str
    lines: list[FilledLine]
    kind: str = "block"


@dataclass(frozen=True)
class Title:
    """A bold line of the template."""

    text: str
    kind: str = "title"


@dataclass(frozen=True)
class FilledSection:
    """One of the ten sections, and tables of ours behind what the template has."""

    number: int
    title: str
    parts: list[Title | FilledTable | FilledBlock]
    extras: list[FilledTable]

    @property
    def anchor(self) -> str:
        """Its fragment in the page."""
        return f"section-{self.number}"


@dataclass(frozen=True)
class FilledReport:
    """The opening and the sections."""

    opening: Filled
    sections: list[FilledSection]

    def plain(self) -> dict[str, Any]:
        """As in report.json: every cell is `{"value", "unit", "source", "reason"}`."""
        return {
            "opening": {"text": self.opening.text, "cells": _plain(self.opening.cells)},
            "sections": [
                {
                    "number": section.number,
                    "title": section.title,
                    "parts": [_part(part) for part in section.parts],
                    "extras": [{**_part(table), "title": table.title, "note": table.note} for table in section.extras],
                }
                for section in self.sections
            ],
        }


def assemble(
    template: Document, cells: Mapping[str, Cell], extras: Mapping[int, Sequence[Extra]] | None = None
) -> FilledReport:
    """Fill the template, with `extras` by section. Raises KeyError naming a placeholder without a cell."""
    more = extras or {}
    sections = [
        FilledSection(
            section.number, section.title, [_fill(part, cells) for part in section.parts],
            [_extra(table) for table in more.get(section.number, ())],
        )
        for section in template.sections
    ]  # fmt: skip
    return FilledReport(fill(template.opening, cells), sections)


def _fill(part: str | Table | Block, cells: Mapping[str, Cell]) -> Title | FilledTable | FilledBlock:
    if isinstance(part, str):
        return Title(part)
    if isinstance(part, Table):
        rows = [FilledRow(label, [fill(pattern, cells) for pattern in patterns]) for label, patterns in part.rows]
        return FilledTable(part.columns, rows)
    return FilledBlock(part.header, [FilledLine(line, fill(line.text, cells)) for line in part.lines])


def _extra(table: Extra) -> FilledTable:
    rows = [
        FilledRow(label, [Filled(cell.reason or f"{cell.text} {cell.note}".strip(), {"": cell}) for cell in cells])
        for label, cells in table.rows
    ]
    return FilledTable(list(table.columns), rows, title=table.title, note=table.note, folded=table.folded)


def _plain(cells: Mapping[str, Cell]) -> dict[str, Any]:
    return {name: cell.plain() for name, cell in cells.items()}


def _part(part: Title | FilledTable | FilledBlock) -> dict[str, Any]:
    if isinstance(part, Title):
        return {"kind": "title", "text": part.text}
    if isinstance(part, FilledTable):
        rows = [
            {"label": row.label,
             "cells": {column: _cell(cell) for column, cell in zip(part.columns[1:], row.cells, strict=True)}}
            for row in part.rows
        ]  # fmt: skip
        return {"kind": "table", "columns": part.columns, "rows": rows}
    fields = [
        {"label": item.line.label, "level": item.line.level, "cells": _plain(item.filled.cells)} for item in part.lines
    ]
    return {"kind": "list", "header": part.header, "fields": fields}


def _cell(filled: Filled) -> dict[str, Any]:
    """The one cell of a table's place; the template's own words are a value from the template."""
    if filled.cells:
        (cell,) = filled.cells.values()
        return cell.plain()
    if filled.text == "N/A":
        return Cell(reason="not applicable: by the template").plain()
    value: Any = int(filled.text) if filled.text.isdigit() else filled.text
    return Cell(value, source={"stage": "template", "digest": "", "field": "framework.md"}).plain()
