"""`raw_data`: the records of one day as they arrived."""

from collections.abc import Iterator, Sequence
from datetime import date

import dagster as dg

from assets.partitions import Partitions
from assets.stage import Step, stage_asset
from dl_pipelines.brief import Brief
from dl_pipelines.store.artifacts import Artifact, StageSkipped


def raw_data(brief: Brief, partitions: Partitions) -> dg.AssetsDefinition:
    """Records of one day."""

    def make(step: Step) -> Artifact:
        from dl_pipelines.data.raw import make_raw_data

        return make_raw_data(step.workspace, step.partition, step.brief.data, step.task)

    def make_days(step: Step, days: Sequence[date]) -> Iterator[tuple[date, Artifact | StageSkipped]]:
        from dl_pipelines.data.raw import make_raw_days

        return make_raw_days(step.workspace, days, step.brief.data, step.task)

    return stage_asset(
        brief,
        "raw_data",
        make,
        make_days=make_days,
        partitions=partitions.days,
        blocking={
            "schema": "the records have the columns, types and shapes of the task",
            "readable": "at least one record could be read; what could not be is set aside with the reason",
        },
        kinds={"lance"},
        description="The records of one day as they arrived, and what could not be read, with the reason.",
    )
