"""`drift_report`: live windows against the training reference; each window's alarm is a check."""

import dagster as dg

from assets.partitions import Partitions
from assets.stage import Step, stage_asset
from dl_pipelines.brief import Brief
from dl_pipelines.monitoring.registry import TRAFFIC
from dl_pipelines.store.artifacts import Artifact


def drift_report(brief: Brief, partitions: Partitions) -> dg.AssetsDefinition:
    """Alarm, quiet or undecided."""

    def make(step: Step) -> Artifact:
        from dl_pipelines.monitoring.drift import make_drift_report

        return make_drift_report(step.workspace, step.partition, step.brief.monitoring, step.brief.data, step.task)

    return stage_asset(
        brief,
        "drift_report",
        make,
        partitions=partitions.models,
        deps=("prediction_log", "training_window", "compressed_model"),
        warning={
            f"drift_{window}": f"the live window {window} is like the rows that the model was made from"
            for window in TRAFFIC.make(brief.monitoring.traffic).windows
        },
        kinds={"evidently"},
        description="Each live window against the rows that the model was trained on: alarm, quiet or undecided.",
    )
