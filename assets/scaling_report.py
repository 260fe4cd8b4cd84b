"""`scaling_report`: how much faster more workers train, when the brief or an experiment asks for it."""

import dagster as dg

from assets.partitions import Partitions
from assets.stage import Step, stage_asset
from dl_pipelines.brief import Brief
from dl_pipelines.store.artifacts import Artifact


def scaling_report(brief: Brief, partitions: Partitions) -> dg.AssetsDefinition:
    """Samples a second by number of workers."""

    def make(step: Step) -> Artifact:
        from dl_pipelines.training.scaling import make_scaling_report

        seen = step.brief
        return make_scaling_report(
            step.workspace, step.partition, seen.architecture, seen.training, seen.distributed, seen.data, step.task
        )

    return stage_asset(
        brief,
        "scaling_report",
        make,
        partitions=partitions.models,
        deps=("training_window", "architecture_comparison", "hyperparameter_study"),
        kinds={"pytorch"},
        description="Samples a second, efficiency and the split of a step by number of workers; when asked for.",
    )
