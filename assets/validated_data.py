"""`validated_data`: clean records of one day; each expectation of the Great Expectations suite is a check."""

from collections.abc import Iterator, Sequence
from datetime import date

import dagster as dg

from assets.partitions import Partitions
from assets.stage import Step, stage_asset
from dl_pipelines.brief import Brief
from dl_pipelines.catalog import task_of
from dl_pipelines.data.validation import gates_of, warnings_of
from dl_pipelines.store.artifacts import Artifact, StageSkipped


def validated_data(brief: Brief, partitions: Partitions) -> dg.AssetsDefinition:
    """Clean records."""

    def make(step: Step) -> Artifact:
        from dl_pipelines.data.validation import make_validated_data

        return make_validated_data(step.workspace, step.partition, step.brief.data, step.task)

    def make_days(step: Step, days: Sequence[date]) -> Iterator[tuple[date, Artifact | StageSkipped]]:
        from dl_pipelines.data.validation import make_validated_days

        return make_validated_days(step.workspace, days, step.brief.data, step.task)

    return stage_asset(
        brief,
        "validated_data",
        make,
        make_days=make_days,
        partitions=partitions.days,
        deps=("raw_data",),
        blocking=gates_of(brief.data, task_of(brief)),
        warning=warnings_of(brief.data, task_of(brief)),
        kinds={"greatexpectations", "lance"},
        description="Clean records of one day, a quarantine with reasons, a quality score.",
    )
