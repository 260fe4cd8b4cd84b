"""`training_window`: which days a model of a date sees. It turns a window of days into one day (see partitions.py)."""

import dagster as dg

from assets.partitions import Partitions, window
from assets.stage import RETRAIN, Step, stage_asset
from dl_pipelines.brief import Brief
from dl_pipelines.catalog import task_of
from dl_pipelines.data.stages import stored_stage
from dl_pipelines.store.artifacts import Artifact, StageSkipped


def training_window(brief: Brief, partitions: Partitions) -> dg.AssetsDefinition:
    """Days and splits, by digest."""

    def make(step: Step) -> Artifact:
        from dl_pipelines.data.window import make_training_window

        trained = step.context.run.tags.get(RETRAIN, step.partition.key).partition("|")[0]
        if trained != step.partition.key:  # a run may bring in years of days before it
            raise StageSkipped(f"this run is for a model of {trained}, which needs the window of that day only")
        return make_training_window(step.workspace, step.partition, step.brief.data, step.task)

    return stage_asset(
        brief,
        "training_window",
        make,
        partitions=partitions.days,
        deps=((stored_stage(task_of(brief)), window(brief)),),
        blocking={
            "no_leak": "no group and no content is in more than one split",
            "complete": "every day of the window is there, and every split has records",
        },
        kinds={"json"},
        description="The digests of the datasets that a model of this date trains, validates and tests on.",
    )
