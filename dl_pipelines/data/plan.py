"""Which days of a window need work, so that a run leaves alone what is right: five years of days are told in seconds.

What was found right is remembered a day (`days.json` in the project's index): the artifacts that the day means, and
a digest of all days before it, since a day's clean records depend on what it repeats of them. What is there now
decides: the source's day is compared with the records that were read of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from dl_pipelines.brief.sections import Data
from dl_pipelines.data.earlier import passes
from dl_pipelines.data.raw import settings_of
from dl_pipelines.data.registry import SOURCES
from dl_pipelines.data.stages import daily_stages
from dl_pipelines.data.validation import VERSION
from dl_pipelines.store import durable
from dl_pipelines.store.artifacts import Artifact, ArtifactError
from dl_pipelines.store.digest import SHORT, digest_json
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Task

FILE = "days.json"


@dataclass(frozen=True)
class Plan:
    """Days that need work, sorted; the artifacts of each day that is right, by stage, and a mark.

    A day's mark changes with what any stage of it or of a day before it is.
    """

    work: Sequence[date]
    right: Mapping[date, Mapping[str, Artifact]]
    marks: Mapping[date, str]


def plan_days(workspace: Workspace, data: Data, task: Task, days: Iterable[date], compare: bool = True) -> Plan:
    """Look at these days. A day that was never settled, or has changed, or comes after a change, needs work.

    Without `compare` the source's records are not looked at: what was settled stands.
    Raises SourceError when the source can't be read.
    """
    source, wanted = SOURCES.make(data.source), set(days)
    if not wanted:
        return Plan([], {}, {})
    known = _known(workspace, data, task)
    work, right, marks = [], {}, {}
    for day, row in _rows(workspace, task, [day for day in source.days(data.start) if day <= max(wanted)]):
        if day not in wanted:
            continue
        artifacts = _artifacts(workspace, task, day) if known.get(day.isoformat()) == row else None
        raw = artifacts["raw_data"].settings["settings"] if artifacts else None
        if artifacts and (not compare or raw == settings_of(data, source.digests(day, task))):
            right[day], marks[day] = artifacts, digest_json(row)
        else:
            work.append(day)
    return Plan(work, right, marks)


def settle_days(workspace: Workspace, data: Data, task: Task, days: Iterable[date]) -> None:
    """Remember that the stages of these days were just made or found, in this order; a failed day is left out."""
    done = set(days)
    if not done:
        return
    known = _known(workspace, data, task)
    for day, row in _rows(workspace, task, SOURCES.make(data.source).days(data.start)):
        if day in done:
            artifacts = _artifacts(workspace, task, day)
            known.pop(day.isoformat(), None)
            if artifacts and all(passes(artifact) for artifact in artifacts.values()):
                known[day.isoformat()] = row
    durable.write_json(_file(workspace), {"asked": _asked(data, task), "days": known})


def _rows(workspace: Workspace, task: Task, days: Iterable[date]) -> Iterable[tuple[date, list[str]]]:
    """Of each day: a digest of the days before it, then what each stage's artifact is called now (or nothing)."""
    stages, before = daily_stages(task), ""
    for day in days:
        names = [workspace.pointed(stage, Partition(day)) or "" for stage in stages]
        yield day, [before, *names]
        before = digest_json([before, day.isoformat(), *names])[:SHORT]


def _artifacts(workspace: Workspace, task: Task, day: date) -> dict[str, Artifact] | None:
    """A day's artifacts by stage, None when one is missing or damaged."""
    found = {}
    for stage in daily_stages(task):
        try:
            artifact = workspace.find(stage, Partition(day))
        except ArtifactError:
            artifact = None
        if artifact is None:
            return None
        found[stage] = artifact
    return found


def _known(workspace: Workspace, data: Data, task: Task) -> dict[str, Any]:
    """The rows that were settled for the same brief, by day."""
    path = _file(workspace)
    stored = durable.read_json(path) if path.exists() else {}
    return stored["days"] if stored.get("asked") == _asked(data, task) else {}


def _asked(data: Data, task: Task) -> str:
    """What decides about every day beside its records."""
    given = data.model_dump(mode="json", exclude={"window_days"})
    return digest_json([given, task.name, [str(field) for field in task.fields()], VERSION])


def _file(workspace: Workspace) -> Path:
    return workspace.home.index / workspace.project / FILE
