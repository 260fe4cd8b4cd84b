"""`architecture_comparison`: families trained alike and measured, when the brief or an experiment names candidates."""

import dagster as dg

from assets.partitions import Partitions
from assets.stage import Step, stage_asset
from dl_pipelines.brief import Brief
from dl_pipelines.store.artifacts import Artifact


def architecture_comparison(brief: Brief, partitions: Partitions) -> dg.AssetsDefinition:
    """Which family to train, and why."""

    def make(step: Step) -> Artifact:
        from dl_pipelines.evaluation.selection import make_architecture_comparison

        seen = step.brief
        return make_architecture_comparison(
            step.workspace, step.partition, seen.problem, seen.architecture, seen.training, seen.distributed,
            seen.evaluation, seen.compression, seen.serving, seen.data, step.task,
        )  # fmt: skip

    return stage_asset(
        brief,
        "architecture_comparison",
        make,
        partitions=partitions.models,
        deps=("training_window",),
        kinds={"pytorch", "onnx"},
        description="Families trained alike and measured on validation rows, and which is trained; when asked for.",
    )
