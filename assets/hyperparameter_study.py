"""`hyperparameter_study`: which settings a model is trained with, when the brief or an experiment asks for a search."""

import dagster as dg

from assets.partitions import Partitions
from assets.stage import Step, stage_asset
from dl_pipelines.brief import Brief
from dl_pipelines.store.artifacts import Artifact


def hyperparameter_study(brief: Brief, partitions: Partitions) -> dg.AssetsDefinition:
    """The best settings of the brief's search space."""

    def make(step: Step) -> Artifact:
        from dl_pipelines.training.tuning import make_hyperparameter_study

        seen = step.brief
        return make_hyperparameter_study(
            step.workspace, step.partition, seen.architecture, seen.training, seen.distributed, seen.data,
            seen.evaluation, step.task,
        )  # fmt: skip

    return stage_asset(
        brief,
        "hyperparameter_study",
        make,
        partitions=partitions.models,
        deps=("training_window", "architecture_comparison"),
        kinds={"pytorch", "optuna"},
        description="The best settings that a search finds, with what each is worth; only when asked for.",
    )
