"""The template's structure (opening, headings, tables, lists of fields), read from Markdown; and filling it with cells.

The same reader reads the finished report back, so that `verify` can lay one beside the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dl_pipelines.report.cells import Cell

TEMPLATES = Path(__file__).parent / "templates"
PLACEHOLDER = re.compile(r"\[([A-Z][A-Z0-9_]*)\]")
_BEHIND = r"(%|ms)?( accuracy)?"
"""Words of the opening behind a placeholder; a cell that is whole says it all itself."""
_HEADING = re.compile(r"^### (\d+)\. (.+)$")
_FIELD = re.compile(r"^(\s*)(?:-|\d+\.) ([^:]+):\s*(.*)$")
_TITLE = re.compile(r"^\*\*([^*]+):\*\*$")
_HEADER = re.compile(r"^([A-Z][^:|]*):$")


@dataclass
class Table:
    """Columns, and rows by their label (first column) with what stands in the others."""

    columns: list[str]
    rows: list[tuple[str, list[str]]] = field(default_factory=list)


@dataclass(frozen=True)
class Line:
    """One line of a list: `label` and what stands behind it; `level` counts its parents."""

    level: int
    label: str
    text: str


@dataclass
class Block:
    """A list of fields with its header."""

    header: str
    lines: list[Line] = field(default_factory=list)


@dataclass
class Section:
    """One of the ten. `parts` in order: a title (str), a table or a list."""

    number: int
    title: str
    parts: list[str | Table | Block] = field(default_factory=list)


@dataclass(frozen=True)
class Document:
    """The opening sentence and the sections."""

    opening: str
    sections: list[Section]


def framework() -> Document:
    """The template that every report fills."""
    return parse((TEMPLATES / "framework.md").read_text(encoding="utf-8"))


def placeholders() -> list[str]:
    """Every placeholder of the template, in order."""
    return list(dict.fromkeys(PLACEHOLDER.findall((TEMPLATES / "framework.md").read_text(encoding="utf-8"))))


def parse(markdown: str) -> Document:
    """Read the opening and the numbered sections.

    Other headings end a section and are left out: `##`, and `####` above tables of ours.
    """
    opening, sections, inside = "", list[Section](), False
    for raw in markdown.splitlines():
        line = raw.rstrip()
        heading = _HEADING.match(line)
        if heading:
            sections.append(Section(int(heading[1]), heading[2]))
            inside = True
        elif line.startswith(("#### ", "## ", "# ")):
            inside = False
        elif inside:
            _read(line, sections[-1].parts)
        elif not opening and line.startswith("Develop deep learning solution"):
            opening = line
    return Document(opening, sections)


def _read(line: str, parts: list[str | Table | Block]) -> None:
    title, header, item = _TITLE.match(line), _HEADER.match(line), _FIELD.match(line)
    if line.startswith("|"):
        _read_row(line, parts)
    elif title:
        parts.append(title[1])
    elif header:
        parts.append(Block(header[1]))
    elif item and parts and isinstance(parts[-1], Block):
        level = 0 if not item[1] else 1
        parts[-1].lines.append(Line(level, item[2], item[3].strip()))


def _read_row(line: str, parts: list[str | Table | Block]) -> None:
    cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
    if set("".join(cells)) <= set("-: "):
        return
    if not parts or not isinstance(parts[-1], Table):
        parts.append(Table([cell.strip("*") for cell in cells]))
        return
    parts[-1].rows.append((cells[0], cells[1:]))


@dataclass(frozen=True)
class Filled:
    """A pattern of the template with its cells: `text` is what a reader sees; no cells: the template's own words."""

    text: str
    cells: Mapping[str, Cell]

    @property
    def reason(self) -> str | None:
        """The reason, when no cell has a value."""
        reasons = [cell.reason for cell in self.cells.values()]
        return self.text if reasons and all(reasons) else None


def fill(pattern: str, cells: Mapping[str, Cell]) -> Filled:
    """Replace the placeholders of a pattern. Raises KeyError naming a placeholder that has no cell."""
    names = PLACEHOLDER.findall(pattern)
    used = {name: cells[name] for name in names}
    if len(names) == 1 and pattern.count("[") == 1 and len(pattern) - len(names[0]) < 16:
        cell, (before, after) = used[names[0]], pattern.split(f"[{names[0]}]")
        if cell.reason:
            return Filled(cell.reason, used)
        text = cell.text if cell.whole else f"{before}{cell.text}{after}"
        return Filled(f"{text} {cell.note}".strip(), used)
    text = pattern
    for name, cell in used.items():
        if cell.reason:
            text = re.sub(rf"\[{name}\](%|ms)?", lambda _, reason=cell.reason: f"({reason})", text)
        elif cell.whole:
            text = re.sub(rf"\[{name}\]{_BEHIND}", lambda _, told=f"{cell.text} {cell.note}".strip(): told, text)
        else:
            text = text.replace(f"[{name}]", f"{cell.text} {cell.note}".strip())
    return Filled(text, used)


def patterns(document: Document) -> Iterator[str]:
    """Every pattern of the template."""
    yield document.opening
    for section in document.sections:
        for part in section.parts:
            if isinstance(part, Table):
                yield from (cell for _, cells in part.rows for cell in cells)
            elif isinstance(part, Block):
                yield from (line.text for line in part.lines)
