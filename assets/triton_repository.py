"""`triton_repository`: the compressed model in the live server, measured there. The first one gets the traffic."""

import dagster as dg

from assets.partitions import Partitions
from assets.stage import Step, stage_asset
from dl_pipelines.brief import Brief
from dl_pipelines.store.artifacts import Artifact


def triton_repository(brief: Brief, partitions: Partitions) -> dg.AssetsDefinition:
    """A published model."""

    def make(step: Step) -> Artifact:
        from dl_pipelines.serving.publish import make_triton_repository

        seen = step.brief
        artifact = make_triton_repository(
            step.workspace, step.partition, seen.serving, seen.data, step.task, seen.evaluation
        )
        if step.moves_traffic:
            settle(step, artifact)
        return artifact

    return stage_asset(
        brief,
        "triton_repository",
        make,
        partitions=partitions.models,
        deps=("compressed_model", "serving_benchmark", "training_window"),
        blocking={"live_parity": "the live server answers as the compressed model does, on validation rows"},
        warning={"no_failures": "no request of the load test failed"},
        kinds={"triton"},
        description="The artifact as a model in the live repository: loaded, compared, measured through gRPC.",
    )


def settle(step: Step, artifact: Artifact) -> None:
    """The first model becomes the champion; a later one is compared with it, and the evidence stored."""
    from dl_pipelines.lifecycle.promotion import compare_with_champion
    from dl_pipelines.serving.traffic import ensure_champion

    if not ensure_champion(step.workspace, step.partition, artifact):
        seen = step.brief
        compare_with_champion(step.workspace, step.partition, seen.data, step.task, seen.lifecycle, seen.evaluation)
