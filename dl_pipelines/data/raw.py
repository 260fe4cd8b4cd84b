"""`raw_data`: the records of one day as they arrived, as a Lance dataset, and what could not be read, and why."""

from __future__ import annotations

from dl_pipelines.brief.sections import Data
from dl_pipelines.data.registry import SOURCES
from dl_pipelines.data.samples import reasons_table, show_records
from dl_pipelines.store.artifacts import Artifact, Draft, Gate
from dl_pipelines.store.digest import digest_json
from dl_pipelines.store.records import records_digest, write_records
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Task

STAGE = "raw_data"


def make_raw_data(workspace: Workspace, partition: Partition, data: Data, task: Task) -> Artifact:
    """The day's records (`records.lance`) and `quarantine.json`.

    What is there now decides: when the source's day has changed since the last run, the stage is made again.
    Raises StageSkipped on a day without records, SourceError when the source can't be read.
    """
    source = SOURCES.make(data.source)
    source.require_day(partition.day, data.start)
    workspace.progress(STAGE, f"reading {partition.day}")
    table, quarantined = source.read_day(partition.day, task)
    found = {"records": records_digest(table), "quarantined": digest_json([item.plain() for item in quarantined])}

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
        draft.measure(megabytes=round(table.nbytes / 1e6, 6))
        draft.show(records=table.num_rows, unreadable=len(quarantined), source=data.source.name)
        overlooked = source.overlooked()
        if overlooked:
            draft.show(overlooked=len(overlooked), of_no_day={"md": reasons_table(overlooked)})
        if quarantined:
            draft.show(quarantine={"md": reasons_table(quarantined)})
        draft.show(**show_records(table, task))

    settings = {"source": data.source.model_dump(mode="json"), "found": found}
    return workspace.make(STAGE, partition, build, settings=settings, parents={})
