"""`evaluation`: metrics with intervals, slices, calibration; thresholds of the brief and baselines as checks."""

import dagster as dg

from assets.partitions import Partitions
from assets.stage import Step, stage_asset
from dl_pipelines.brief import Brief
from dl_pipelines.catalog import task_of
from dl_pipelines.store.artifacts import Artifact


def evaluation(brief: Brief, partitions: Partitions) -> dg.AssetsDefinition:
    """Metrics of a trained model."""

    def make(step: Step) -> Artifact:
        from dl_pipelines.evaluation.evaluate import make_evaluation

        return make_evaluation(step.workspace, step.partition, step.brief.evaluation, step.brief.data, step.task)

    return stage_asset(
        brief,
        "evaluation",
        make,
        partitions=partitions.models,
        deps=("trained_model", "training_window", "baselines"),
        blocking={"finite_outputs": "no answer is infinite or not a number"},
        warning={
            **{
                f"threshold_{metric}": f"{metric} on the test rows against {bound:g}, the threshold of the brief"
                for metric, bound in brief.evaluation.thresholds.items()
            },
            **{
                f"beats_{name}": f"better than {name.replace('_', ' ')} on the same test rows, by the whole interval"
                for name in task_of(brief).baselines
            },
        },
        kinds={"pytorch"},
        description="Metrics with intervals on train, validation and test rows, slices, calibration.",
    )
