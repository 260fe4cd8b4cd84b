"""`validated_data`: clean records of one day; each expectation of the Great Expectations suite is a check."""

import dagster as dg

from assets.partitions import Partitions
from assets.stage import Step, stage_asset
from dl_pipelines.brief import Brief
from dl_pipelines.catalog import task_of
from dl_pipelines.data.validation import gates_of, warnings_of
from dl_pipelines.store.artifacts import Artifact


def validated_data(brief: Brief, partitions: Partitions) -> dg.AssetsDefinition:
    """Clean records."""

    def make(step: Step) -> Artifact:
        from dl_pipelines.data.validation import make_validated_data

        return make_validated_data(step.workspace, step.partition, step.brief.data, step.task)

    return stage_asset(
        brief,
        "validated_data",
        make,
        partitions=partitions.days,
        deps=("raw_data",),
        blocking=gates_of(brief.data, task_of(brief)),
        warning=warnings_of(brief.data, task_of(brief)),
        kinds={"greatexpectations", "lance"},
        description="Clean records of one day, a quarantine with reasons, a quality score.",
    )
