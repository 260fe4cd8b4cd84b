"""What sections read: the documents of each stage's artifact as plain data, found by file and JSON pointer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dl_pipelines.report.cells import Cell, Found, Source, not_measured
from dl_pipelines.store.digest import SHORT, digest_json
from dl_pipelines.tasks.base import Metric

BRIEF, LIBRARY, REPORT = "brief", "library", "implementation_report"


@dataclass(frozen=True)
class Document:
    """One artifact as plain data: every JSON file by name, `manifest.json` and `outcome.json` among them."""

    stage: str
    digest: str
    files: Mapping[str, Any]
    day: str = ""

    @property
    def short(self) -> str:
        """The first digits of the digest."""
        return self.digest[:SHORT]


@dataclass(frozen=True)
class Facts:
    """All that sections read. `days`: the documents of a daily stage by day; `own`: files of the report itself."""

    partition: str
    brief: Mapping[str, Any]
    documents: Mapping[str, Document]
    days: Mapping[str, Sequence[Document]]
    missing: Mapping[str, str]
    metrics: Mapping[str, Metric]
    primary: str
    own: Mapping[str, Any] = field(default_factory=dict)

    @property
    def brief_digest(self) -> str:
        """Of the brief as this experiment sees it."""
        return digest_json(self.brief)

    def find(self, stage: str, field: str) -> Found | Cell:
        """The value at `file#/json/pointer` of a stage's artifact, or a cell with the reason why there is none."""
        if stage in self.missing:
            return Cell(reason=self.missing[stage])
        if stage == BRIEF:
            return _at(BRIEF, self.brief_digest, {"brief.json": self.brief}, field)
        if stage == REPORT:
            return _at(REPORT, "", self.own, field)
        found = self.documents.get(stage) or (self.days.get(stage) or [None])[-1]
        if found is None:
            return not_measured(f"{stage} has not run")
        return _at(stage, found.digest, found.files, field)

    def over_days(self, stage: str, field: str) -> Found | Cell:
        """The values of every day of the window as a list, in order; a cell with the reason where one is missing."""
        days = self.days.get(stage, ())
        if not days:
            return Cell(reason=self.missing.get(stage) or not_measured(f"{stage} has not run").reason)
        found = [_at(stage, item.digest, item.files, field) for item in days]
        values = [item.value for item in found if isinstance(item, Found)]
        if len(values) < len(found):
            return next(item for item in found if isinstance(item, Cell))
        return Found(values, source_of_days(stage, [item.digest for item in days], field))

    @property
    def simulated(self) -> bool:
        """Whether the source says that its records are simulated."""
        found = self.find("raw_data", "source.json#/simulated")
        return isinstance(found, Found) and bool(found.value)

    def of_brief(self, *keys: str | int) -> Found:
        """A value of the brief. Raises KeyError."""
        value: Any = self.brief
        for key in keys:
            value = value[key]
        return Found(value, source(BRIEF, self.brief_digest, "brief.json" + pointer(*keys)))

    def words(self, key: str, default: str) -> Found:
        """What the task says of itself (`split`, `output`, ...), or the report's own words where it says nothing."""
        found = self.find(REPORT, "described.json" + pointer("told", key))
        return found if isinstance(found, Found) else Found(default, library("tasks"))

    def metric(self, template: str) -> Metric | None:
        """The task's metric that a row of the template is about."""
        return next((metric for metric in self.metrics.values() if metric.template == template), None)


def source(stage: str, digest: str, field: str) -> Source:
    """Where a value was read."""
    return {"stage": stage, "digest": digest, "field": field}


def digest_of(digests: Sequence[str]) -> str:
    """Of one day its own digest, of several that of the list of theirs."""
    return digests[0] if len(digests) == 1 else digest_json(list(digests))


def source_of_days(stage: str, digests: Sequence[str], field: str) -> Source:
    """Where the values of every day of a window were read: one digest over all of them."""
    several = {"days": len(digests)} if len(digests) > 1 else {}
    return {**source(stage, digest_of(digests), field), **several}


def library(module: str) -> Source:
    """What the code does, whatever the brief says: the module that does it."""
    from dl_pipelines import __version__

    return source(LIBRARY, __version__, f"dl_pipelines.{module}")


def pointer(*keys: str | int) -> str:
    """`#/a/0/b`: a JSON pointer (RFC 6901) as a fragment."""
    return "#" + "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in keys)


def follow(value: Any, fragment: str) -> Any:
    """The value at a JSON pointer. Raises KeyError, IndexError, TypeError, ValueError."""
    for part in fragment.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def _at(stage: str, digest: str, files: Mapping[str, Any], field: str) -> Found | Cell:
    name, _, fragment = field.partition("#")
    if name not in files:
        return not_measured(f"{stage} wrote no {name}")
    try:
        value = follow(files[name], fragment)
    except (KeyError, IndexError, TypeError, ValueError):
        return not_measured(f"{stage} did not measure {fragment.strip('/').replace('/', ' ')}")
    if value is None:
        return not_measured(f"{stage} could not measure {fragment.strip('/').replace('/', ' ')}")
    return Found(value, source(stage, digest, field))
