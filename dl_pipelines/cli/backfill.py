"""Models of past days: which are there, which will be trained, how long that takes; then one run each, in order.

What a finished model was made of is marked in the project's index, so that a second call passes it over in
milliseconds and an interrupted one goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from assets.project import MODEL, names
from dl_pipelines import catalog
from dl_pipelines.brief import Brief
from dl_pipelines.data.plan import Plan, plan_days
from dl_pipelines.data.registry import SOURCES
from dl_pipelines.data.window import window_days
from dl_pipelines.store import durable
from dl_pipelines.store.digest import digest_json
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Partition, Workspace

STAGES = names(MODEL)
TRAINED, REPORT = STAGES[0], STAGES[-1]
MEASURED = 5
"""The last so many models say how long the next one takes."""


@dataclass(frozen=True)
class Backfill:
    """What a backfill is about: its models in the order of days, those that are finished, days of data to bring in.

    `seconds` is what a model took of late, None when none was made.
    """

    partitions: Sequence[Partition]
    finished: frozenset[Partition]
    days: Sequence[date]
    work: Sequence[date]
    seconds: float | None
    marks: Mapping[Partition, str] = field(default_factory=dict)

    @property
    def missing(self) -> list[Partition]:
        """The models that will be made."""
        return [item for item in self.partitions if item not in self.finished]

    def plain(self) -> dict[str, Any]:
        """For `--plan --json`."""
        return {
            "models": [{"partition": item.key, "finished": item in self.finished} for item in self.partitions],
            "days": len(self.days),
            "days_to_bring_in": [day.isoformat() for day in self.work],
            "seconds_a_model": self.seconds,
            "seconds": None if self.seconds is None else round(self.seconds * len(self.missing), 1),
        }


def chosen_days(brief: Brief, first: date, last: date, every: int) -> list[date]:
    """Days with records from `first` to `last`, at least `every` days apart. Raises SourceError, ValueError."""
    if every < 1:
        raise ValueError(f"found --every {every}; expected at least 1 day")
    there = SOURCES.make(brief.data.source).days(brief.data.start)
    found: list[date] = []
    for day in there:
        if first <= day <= last and (not found or day - found[-1] >= timedelta(days=every)):
            found.append(day)
    if not found:
        near = f"from {there[0]} to {there[-1]}" if there else "none"
        raise ValueError(
            f"found no records of {brief.project} from {first} to {last}; expected days with records ({near}), "
            "--from before --to"
        )
    return found


def plan_backfill(home: Home, brief: Brief, dates: Sequence[date], experiments: Sequence[str]) -> Backfill:
    """Look at what is there; nothing is made. Raises SourceError, ValueError for an unknown experiment."""
    workspace, length = Workspace(home, brief.project), brief.data.window_days
    there = SOURCES.make(brief.data.source).days(brief.data.start)
    days = sorted({day for date in dates for day in window_days(there, date, length)}) if length else \
        window_days(there, dates[-1], None)  # fmt: skip
    plan = plan_days(workspace, brief.data, catalog.task_of(brief), days)
    partitions = [Partition(day, name) for day in dates for name in experiments]
    marks = _marks(home, workspace, brief, partitions, plan)
    finished = frozenset(item for item, mark in marks.items() if mark and _settled(workspace, item) == mark)
    return Backfill(partitions, finished, days, plan.work, _seconds(workspace), marks)


def settle_model(home: Home, brief: Brief, partition: Partition) -> None:
    """Mark a model whose report was just made or found as finished, for what it was made of."""
    workspace, task = Workspace(home, brief.project), catalog.task_of(brief)
    there = SOURCES.make(brief.data.source).days(brief.data.start)
    days = window_days(there, partition.day, brief.data.window_days)
    plan = plan_days(workspace, brief.data, task, days, compare=False)
    if mark := _marks(home, workspace, brief, [partition], plan)[partition]:
        durable.write_json(_file(workspace, partition), {"made_of": mark})


def _marks(
    home: Home, workspace: Workspace, brief: Brief, partitions: Sequence[Partition], plan: Plan
) -> dict[Partition, str]:
    """What each model would be made of and is now, as a digest; nothing where its data or a stage is missing."""
    first = min(plan.work, default=date.max)  # days after one that needs work need it too, where it comes to records
    briefs = {name: digest_json(catalog.brief_of(home, brief, name).model_dump(mode="json"))
              for name in {item.experiment for item in partitions}}  # fmt: skip
    found = {}
    for item in partitions:
        stages = [workspace.pointed("training_window", item.daily), *(workspace.pointed(name, item) for name in STAGES)]
        data = plan.marks.get(item.day)
        whole = data and item.day < first and stages[0] and stages[-1]
        found[item] = digest_json([data, briefs[item.experiment], stages]) if whole else ""
    return found


def _settled(workspace: Workspace, partition: Partition) -> str:
    try:
        return durable.read_json(_file(workspace, partition))["made_of"]
    except FileNotFoundError:
        return ""


def _seconds(workspace: Workspace) -> float | None:
    """What one model takes from training to report, by the last ones that were made."""
    made = workspace.partitions(TRAINED)[-MEASURED:]
    taken = []
    for item in made:
        artifacts = [workspace.find(stage, item) for stage in STAGES if workspace.pointed(stage, item)]
        taken.append(sum(float(artifact.outcome["seconds"]) for artifact in artifacts if artifact))
    return round(sum(taken) / len(taken), 1) if taken else None


def _file(workspace: Workspace, partition: Partition) -> Path:
    return workspace.home.index / workspace.project / "finished" / f"{partition.slug}.json"
