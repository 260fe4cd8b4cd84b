"""`implementation_report`: the filled template and the verdict."""

import dagster as dg

from assets.partitions import Partitions
from assets.stage import Step, stage_asset
from dl_pipelines.brief import Brief
from dl_pipelines.store.artifacts import Artifact


def implementation_report(brief: Brief, partitions: Partitions) -> dg.AssetsDefinition:
    """The report of a partition."""

    def make(step: Step) -> Artifact:
        from dl_pipelines.report.make import make_implementation_report

        return make_implementation_report(step.workspace, step.partition, step.brief, step.task)

    return stage_asset(
        brief,
        "implementation_report",
        make,
        partitions=partitions.models,
        deps=(
            "architecture_comparison",
            "hyperparameter_study",
            "scaling_report",
            "serving_benchmark",
            "evaluation",
            "augmentation_ablation",
            "compressed_model",
            "triton_repository",
            "prediction_log",
            "ab_experiment",
            "drift_report",
        ),
        blocking={"complete": "every cell of the template has a value with its source, or a reason"},
        warning={"targets": "the targets of the brief, each on the artifact that it names"},
        kinds={"markdown"},
        description="The ten sections of the template, each value traced to its artifact, and the verdict.",
    )
