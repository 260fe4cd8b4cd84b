"""`serving_benchmark`: how the model is best run on this machine and which rate it carries, when it is asked for."""

import dagster as dg

from assets.partitions import Partitions
from assets.stage import Step, stage_asset
from dl_pipelines.brief import Brief
from dl_pipelines.store.artifacts import Artifact


def serving_benchmark(brief: Brief, partitions: Partitions) -> dg.AssetsDefinition:
    """Queue delay, instances and threads by measurement."""

    def make(step: Step) -> Artifact:
        from dl_pipelines.serving.benchmark import make_serving_benchmark

        seen = step.brief
        return make_serving_benchmark(step.workspace, step.partition, seen.serving, seen.problem, seen.data, step.task)

    return stage_asset(
        brief,
        "serving_benchmark",
        make,
        partitions=partitions.models,
        deps=("compressed_model", "training_window"),
        kinds={"triton"},
        description="Rising rates by gRPC, HTTP and shared memory, and the settings that carry most; when asked for.",
    )
