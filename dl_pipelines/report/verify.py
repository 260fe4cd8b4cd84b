"""Reads the finished report back: it has the template's shape, no placeholder, and every number is its field's.

The artifacts are read anew from the disk, not from what the report was made of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from dl_pipelines.report.cells import NOT_APPLICABLE, NOT_MEASURED, OPERATIONS, Source
from dl_pipelines.report.facts import BRIEF, LIBRARY, REPORT, digest_of, follow
from dl_pipelines.report.template import Block, Document, Section, Table, placeholders
from dl_pipelines.store import durable
from dl_pipelines.store.artifacts import MANIFEST, OUTCOME, Artifact
from dl_pipelines.store.digest import digest_json
from dl_pipelines.store.workspace import Workspace

TEMPLATE = "template"


class Reader:
    """Values by source, read from the artifacts.

    `own` are the files of the report itself, `days` the digests of each daily stage, in order.
    """

    def __init__(self, workspace: Workspace, own: Mapping[str, Any], days: Mapping[str, Sequence[str]] | None = None):
        self._workspace, self._own, self._days = workspace, own, days or {}
        self._files: dict[tuple[str, str, str], Any] = {}
        self._artifacts: dict[tuple[str, str], Artifact] = {}

    def __call__(self, source: Source) -> Any:
        """The value at a source. Raises KeyError and others where there is none."""
        if "op" in source:
            values = [self(item) for item in source["of"]]
            return None if source["op"] == "told" else OPERATIONS[source["op"]](values)
        stage, digest, field = source["stage"], source["digest"], source["field"]
        if stage == LIBRARY:
            if find_spec(field) is None:
                raise KeyError(field)
            return None
        if stage == TEMPLATE:
            return None
        name, _, fragment = field.partition("#")
        if stage == BRIEF and digest != digest_json(self._own[name]):
            raise ValueError(f"another brief than {digest[:16]}")
        if stage in (BRIEF, REPORT):
            return follow(self._own[name], fragment)
        if "days" in source:
            return self._read_days(stage, digest, name, fragment)
        return self._read(stage, digest, name, fragment)

    def _read_days(self, stage: str, digest: str, name: str, fragment: str) -> list[Any]:
        digests = self._days[stage]
        if digest_of(digests) != digest:
            raise ValueError(f"other days of {stage} than {digest[:16]}")
        return [self._read(stage, day, name, fragment) for day in digests]

    def _read(self, stage: str, digest: str, name: str, fragment: str) -> Any:
        key = (stage, digest, name)
        if not name.endswith(".json") and fragment == "/size":
            return self._artifact(stage, digest).file(name).stat().st_size
        if key not in self._files:
            artifact = self._artifact(stage, digest)
            outside = name in (MANIFEST, OUTCOME)
            self._files[key] = durable.read_json(artifact.path / name) if outside else artifact.read_json(name)
        return follow(self._files[key], fragment)

    def _artifact(self, stage: str, digest: str) -> Artifact:
        if (stage, digest) not in self._artifacts:
            artifact = self._workspace.by_digest(stage, digest)
            if artifact.digest != digest:
                raise ValueError(f"{stage} {artifact.short} has another digest")
            self._artifacts[stage, digest] = artifact
        return self._artifacts[stage, digest]


def problems(template: Document, markdown: Document, text: str, report: Mapping[str, Any], read: Reader) -> list[str]:
    """Everything that is wrong with a report; empty when it is complete."""
    return [
        *_left(text),
        *_shape(template, markdown),
        *_empty(markdown),
        *(problem for place, cell in cells(report) for problem in _cell(place, cell, read)),
        *(problem for target in report["verdict"]["targets"] for problem in _target(target, read)),
    ]


def _left(text: str) -> Iterator[str]:
    for name in placeholders():
        if f"[{name}]" in text:
            yield f"the placeholder [{name}] is left"


def _shape(template: Document, found: Document) -> Iterator[str]:
    if not found.opening:
        yield "the opening sentence is missing"
    titles = [(section.number, section.title) for section in template.sections]
    if [(section.number, section.title) for section in found.sections] != titles:
        yield f"found the sections {[section.title for section in found.sections]}; expected the template's, in order"
        return
    for wanted, section in zip(template.sections, found.sections, strict=True):
        if _outline(wanted) != _outline(section):
            yield f"section {wanted.number} has {_outline(section)}; expected {_outline(wanted)}"


def _outline(section: Section) -> list[Any]:
    """What a section must have: titles, columns, row labels, headers and labels of lists, in order."""
    outline: list[Any] = []
    for part in section.parts:
        if isinstance(part, Table):
            outline.append((part.columns, [label for label, _ in part.rows], [len(cells) for _, cells in part.rows]))
        elif isinstance(part, Block):
            outline.append((part.header, [(line.level, line.label) for line in part.lines]))
        else:
            outline.append(part)
    return outline


def _empty(found: Document) -> Iterator[str]:
    for section in found.sections:
        for part in section.parts:
            if isinstance(part, Table):
                for label, values in part.rows:
                    if not all(values):
                        yield f"section {section.number}: {label} has an empty cell"


def cells(report: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every cell of a report with its place."""
    yield from ((f"opening: {name}", cell) for name, cell in report["opening"]["cells"].items())
    for section in report["sections"]:
        for part in section["parts"]:
            for row in part.get("rows", ()):
                for column, cell in row["cells"].items():
                    yield f"section {section['number']}: {row['label']}: {column}", cell
            for field in part.get("fields", ()):
                for name, cell in field["cells"].items():
                    yield f"section {section['number']}: {field['label']}: {name}", cell
        for table in section["extras"]:
            for row in table["rows"]:
                for column, cell in row["cells"].items():
                    yield f"section {section['number']}: {table['title']}: {row['label']}: {column}", cell


def _cell(place: str, cell: Mapping[str, Any], read: Reader) -> Iterator[str]:
    if set(cell) != {"value", "unit", "source", "reason"}:
        yield f"{place}: found the keys {', '.join(cell)}; expected value, unit, source, reason"
        return
    value, reason = cell["value"], cell["reason"]
    if value is None:
        starts = (NOT_MEASURED, NOT_APPLICABLE)
        if not reason or not reason.startswith(starts) or reason in starts:
            yield f"{place}: has neither a value nor a reason"
        return
    if value == "" or reason is not None:
        yield f"{place}: found {value!r} with the reason {reason!r}; expected one of them"
    yield from _compare(place, value, cell["source"], read)


def _target(target: Mapping[str, Any], read: Reader) -> Iterator[str]:
    place = f"target {target['name']}"
    if target["measured"] is None:
        if not target["reason"]:
            yield f"{place}: has neither a value nor a reason"
        return
    yield from _compare(place, target["measured"], target["source"], read)
    if target["met"] is False and not target["nearest"]:
        yield f"{place}: is missed, and no nearest option is named"


def _compare(place: str, value: Any, source: Source | None, read: Reader) -> Iterator[str]:
    if not source:
        yield f"{place}: found {value!r} without a source"
        return
    try:
        there = read(source)
    except (KeyError, IndexError, TypeError, ValueError, OSError, ZeroDivisionError, AttributeError) as error:
        yield f"{place}: its source can't be read ({type(error).__name__}: {error}): {source}"
        return
    if isinstance(value, int | float) and source.get("stage") != TEMPLATE and value != there:
        yield f"{place}: found {value!r}; its source says {there!r}: {source}"
