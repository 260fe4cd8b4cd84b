"""`prediction_log`: what was asked and answered, by which model, and the labels that came later."""

import dagster as dg

from assets.partitions import Partitions
from assets.stage import Step, stage_asset
from dl_pipelines.brief import Brief
from dl_pipelines.store.artifacts import Artifact


def prediction_log(brief: Brief, partitions: Partitions) -> dg.AssetsDefinition:
    """What the model of a partition answered."""

    def make(step: Step) -> Artifact:
        from dl_pipelines.monitoring.registry import TRAFFIC
        from dl_pipelines.serving.prediction_log import make_prediction_log

        traffic = TRAFFIC.make(step.brief.monitoring.traffic) if step.moves_traffic else None
        return make_prediction_log(
            step.workspace, step.partition, step.brief.monitoring, step.brief.data, step.task, traffic,
            step.brief.serving.log.keep_days,
        )  # fmt: skip

    return stage_asset(
        brief,
        "prediction_log",
        make,
        partitions=partitions.models,
        deps=("triton_repository",),
        blocking={"nothing_missing": "every answer that a client got is in the log"},
        kinds={"lance"},
        description="What the router answered by this model, written before it was acknowledged, with later labels.",
    )
