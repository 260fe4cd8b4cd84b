"""`raw_data`: the records of one day as they arrived, as a Lance dataset, and what could not be read, and why."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, NamedTuple

from dl_pipelines.brief.sections import Data
from dl_pipelines.data.registry import SOURCES
from dl_pipelines.data.samples import reasons_table, show_records
from dl_pipelines.data.sources.base import Quarantined, Source, digests_of, no_records
from dl_pipelines.store.artifacts import Artifact, Draft, Gate, StageSkipped
from dl_pipelines.store.many import side_by_side
from dl_pipelines.store.records import write_records
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Task

if TYPE_CHECKING:
    import pyarrow as pa

STAGE = "raw_data"


Outcome = Artifact | StageSkipped
"""What became of a day: its artifact, or why there is nothing to do."""
PICTURED = 31
"""Of a longer range only the last days are pictured."""


def make_raw_data(workspace: Workspace, partition: Partition, data: Data, task: Task) -> Artifact:
    """The same for one day. Raises StageSkipped on a day without records, SourceError when the source can't be read."""
    ((_, outcome),) = make_raw_days(workspace, [partition.day], data, task)
    if isinstance(outcome, StageSkipped):
        raise outcome
    return outcome


def make_raw_days(workspace: Workspace, days: Sequence[date], data: Data, task: Task) -> Iterator[tuple[date, Outcome]]:
    """The records of each day (`records.lance`) and `quarantine.json`.

    What is there now decides: when the source's day has changed since the last run, the stage is made again.
    Raises SourceError when the source can't be read.
    """
    source = SOURCES.make(data.source)
    _, arrived, skipped = arriving(source, data, days)

    def read() -> Iterator[_Day]:
        said = 0.0
        for place, day in enumerate(arrived):
            if time.monotonic() - said > 1:  # Dagster keeps what is said
                workspace.progress(STAGE, f"reading {day}")
                said = time.monotonic()
            table, quarantined = source.read_day(day, task)
            yield _Day(day, table, quarantined, place >= len(arrived) - PICTURED)

    def make(item: _Day) -> Artifact:
        return _make(workspace, item, source, data, task)

    yield from zip(arrived, side_by_side(make, read()), strict=True)
    yield from skipped


def arriving(
    source: Source, data: Data, days: Sequence[date]
) -> tuple[list[date], list[date], list[tuple[date, StageSkipped]]]:
    """The days of the source; of those that are asked for the ones with records, sorted, and the others with why."""
    there = source.days(data.start)
    known = set(there)
    skipped = [(day, no_records(day, there)) for day in sorted(days) if day not in known]
    return there, sorted(known & set(days)), skipped


def settings_of(data: Data, found: Mapping[str, str]) -> dict[str, Any]:
    """What decides about a day's artifact: the source, and what it gave."""
    return {"source": data.source.model_dump(mode="json"), "found": dict(found)}


class _Day(NamedTuple):
    day: date
    table: pa.Table
    quarantined: list[Quarantined]
    pictured: bool


def _make(workspace: Workspace, item: _Day, source: Source, data: Data, task: Task) -> Artifact:
    _, table, quarantined, pictured = item

    def build(draft: Draft) -> None:
        write_records(draft, table)
        draft.write_json("quarantine.json", [item.plain() for item in quarantined])
        draft.write_json("source.json", {"name": data.source.name, **source.describe()})
        expected = task.arrow_schema()
        draft.gate(
            Gate("schema", table.schema.equals(expected), f"columns {', '.join(table.schema.names)}", blocking=True)
        )
        readable = table.num_rows > 0
        summary = f"{table.num_rows} records read, {len(quarantined)} unreadable"
        if not readable and quarantined:
            summary += f"; the first: {quarantined[0].uri}: {quarantined[0].reason}"
        draft.gate(Gate("readable", readable, summary, blocking=True, facts={"records": table.num_rows}))
        draft.show(records=table.num_rows, unreadable=len(quarantined), source=data.source.name)
        overlooked = source.overlooked()
        draft.measure(megabytes=round(table.nbytes / 1e6, 6), overlooked=len(overlooked))
        if overlooked:
            draft.show(overlooked=len(overlooked), of_no_day={"md": reasons_table(overlooked)})
        if quarantined:
            draft.show(quarantine={"md": reasons_table(quarantined)})
        if pictured:
            draft.show(**show_records(table, task))

    settings = settings_of(data, digests_of(table, quarantined))
    return workspace.make(STAGE, Partition(item.day), build, settings=settings, parents={})
