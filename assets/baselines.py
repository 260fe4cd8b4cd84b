"""`baselines`: what a model of this task has to beat, on the same rows; made once for a day's data."""

import dagster as dg

from assets.partitions import Partitions
from assets.stage import Step, stage_asset
from dl_pipelines.brief import Brief
from dl_pipelines.store.artifacts import Artifact


def baselines(brief: Brief, partitions: Partitions) -> dg.AssetsDefinition:
    """Metrics of what is not ours."""

    def make(step: Step) -> Artifact:
        from dl_pipelines.evaluation.baselines import make_baselines

        return make_baselines(step.workspace, step.partition, step.brief.evaluation, step.brief.data, step.task)

    return stage_asset(
        brief,
        "baselines",
        make,
        partitions=partitions.models,
        deps=("training_window",),
        blocking={"finite_outputs": "no answer is infinite or not a number"},
        kinds={"scikitlearn"},
        description="What a model has to beat, and an oracle where the source has one, on validation and test rows.",
    )
