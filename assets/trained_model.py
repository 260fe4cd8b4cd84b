"""`trained_model`: weights, curves and cost, trained in a subprocess through Dagster Pipes."""

import dagster as dg

from assets.partitions import Partitions
from assets.stage import Step, stage_asset
from dl_pipelines.brief import Brief
from dl_pipelines.store.artifacts import Artifact
from resources.pipes import PipesLauncher


def trained_model(brief: Brief, partitions: Partitions) -> dg.AssetsDefinition:
    """A trained model."""

    def make(step: Step) -> Artifact:
        from dl_pipelines.training.train import make_trained_model

        seen, launcher = step.brief, PipesLauncher(step.context)
        return make_trained_model(
            step.workspace, step.partition, seen.architecture, seen.training, seen.distributed, seen.data, step.task,
            launcher,
        )  # fmt: skip

    return stage_asset(
        brief,
        "trained_model",
        make,
        partitions=partitions.models,
        deps=("training_window", "architecture_comparison", "hyperparameter_study"),
        blocking={
            "finite": "no weight is infinite or not a number",
            "reproducible": "every epoch was trained, from the seed and the window that are named",
        },
        kinds={"pytorch"},
        description="Weights, curves and cost of a training on the window of this date, with what was chosen before.",
    )
