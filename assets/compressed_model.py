"""`compressed_model`: the best artifact for the objective of the brief, and the ledger of what was tried."""

import dagster as dg

from assets.partitions import Partitions
from assets.stage import Step, stage_asset
from dl_pipelines.brief import Brief
from dl_pipelines.store.artifacts import Artifact
from resources.pipes import PipesLauncher


def compressed_model(brief: Brief, partitions: Partitions) -> dg.AssetsDefinition:
    """What may serve."""

    def make(step: Step) -> Artifact:
        from dl_pipelines.compression.compress import make_compressed_model

        seen, launcher = step.brief, PipesLauncher(step.context)
        return make_compressed_model(
            step.workspace, step.partition, seen.problem, seen.training, seen.distributed, seen.compression,
            seen.serving, seen.data, step.task, launcher,
        )  # fmt: skip

    return stage_asset(
        brief,
        "compressed_model",
        make,
        partitions=partitions.models,
        deps=("trained_model", "training_window"),
        blocking={"parity": "the exported and the compressed model answer as the trained one, on validation rows"},
        warning={"accuracy_budget": "what serves loses no more than compression.max_loss, paired, with its interval"},
        kinds={"onnx"},
        description="The best variant for the objective within the accuracy budget, and every one that was tried.",
    )
