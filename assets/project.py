"""All assets of one brief, in the order of the line."""

from collections.abc import Callable

import dagster as dg
from dagster._utils.warnings import disable_dagster_warnings

from assets.ab_experiment import ab_experiment
from assets.architecture_comparison import architecture_comparison
from assets.augmentation_ablation import augmentation_ablation
from assets.augmented_dataset import augmented_dataset
from assets.baselines import baselines
from assets.compressed_model import compressed_model
from assets.drift_report import drift_report
from assets.evaluation import evaluation
from assets.hyperparameter_study import hyperparameter_study
from assets.implementation_report import implementation_report
from assets.partitions import Partitions
from assets.prediction_log import prediction_log
from assets.raw_data import raw_data
from assets.scaling_report import scaling_report
from assets.serving_benchmark import serving_benchmark
from assets.trained_model import trained_model
from assets.training_window import training_window
from assets.triton_repository import triton_repository
from assets.validated_data import validated_data
from dl_pipelines.brief import Brief
from dl_pipelines.catalog import task_of

Stage = Callable[[Brief, Partitions], dg.AssetsDefinition]

DATA: tuple[Stage, ...] = (raw_data, validated_data, augmented_dataset)
WINDOW = (training_window,)
MODEL = (
    architecture_comparison,
    hyperparameter_study,
    trained_model,
    scaling_report,
    baselines,
    evaluation,
    augmentation_ablation,
    compressed_model,
    serving_benchmark,
    triton_repository,
    prediction_log,
    ab_experiment,
    drift_report,
    implementation_report,
)


def names(stages: tuple[Stage, ...]) -> list[str]:
    """Names of stages."""
    return [stage.__name__ for stage in stages]


def stages_of(brief: Brief, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """Those of some stages that the task of a brief has."""
    left_out = task_of(brief).not_applicable
    return tuple(stage for stage in stages if stage.__name__ not in left_out)


def project_assets(brief: Brief) -> list[dg.AssetsDefinition]:
    """The assets of a brief. Dagster warns of features in preview, which the design uses knowingly."""
    with disable_dagster_warnings():
        partitions = Partitions.of(brief)
        return [stage(brief, partitions) for stage in stages_of(brief, (*DATA, *WINDOW, *MODEL))]
