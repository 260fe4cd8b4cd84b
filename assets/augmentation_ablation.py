"""`augmentation_ablation`: what each augmentation is worth, when the brief or an experiment asks for it."""

import dagster as dg

from assets.partitions import Partitions
from assets.stage import Step, stage_asset
from dl_pipelines.brief import Brief
from dl_pipelines.store.artifacts import Artifact


def augmentation_ablation(brief: Brief, partitions: Partitions) -> dg.AssetsDefinition:
    """The effect of each augmentation."""

    def make(step: Step) -> Artifact:
        from dl_pipelines.evaluation.ablation import make_augmentation_ablation

        seen = step.brief
        return make_augmentation_ablation(
            step.workspace, step.partition, seen.architecture, seen.training, seen.distributed, seen.evaluation,
            seen.data, step.task,
        )  # fmt: skip

    return stage_asset(
        brief,
        "augmentation_ablation",
        make,
        partitions=partitions.models,
        deps=("training_window",),
        kinds={"pytorch"},
        description="What each augmentation is worth, by trainings without it, with intervals; only when asked for.",
    )
