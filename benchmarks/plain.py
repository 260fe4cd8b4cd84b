"""The peer of `main_job.overhead`: the same library calls in a plain script, without Dagster or the command line.

Run as `python -m benchmarks.plain BRIEF HOME`; it also serves as the shortest example of the library's use.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dl_pipelines import catalog
from dl_pipelines.compression.compress import make_compressed_model
from dl_pipelines.data.augmentation import make_augmented_dataset
from dl_pipelines.data.raw import make_raw_data
from dl_pipelines.data.registry import SOURCES
from dl_pipelines.data.validation import make_validated_data
from dl_pipelines.data.window import make_training_window
from dl_pipelines.evaluation.evaluate import make_evaluation
from dl_pipelines.evaluation.selection import make_architecture_comparison
from dl_pipelines.monitoring.drift import make_drift_report
from dl_pipelines.monitoring.registry import TRAFFIC
from dl_pipelines.report.make import make_implementation_report
from dl_pipelines.serving.prediction_log import make_prediction_log
from dl_pipelines.serving.publish import make_triton_repository
from dl_pipelines.serving.server import running
from dl_pipelines.serving.traffic import ensure_champion
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.training.scaling import make_scaling_report
from dl_pipelines.training.train import make_trained_model
from dl_pipelines.training.tuning import make_hyperparameter_study


def run(path: Path, root: Path) -> None:
    """The whole line for the brief's default day."""
    brief = catalog.load_brief(path)
    task, home = catalog.task_of(brief), Home(root).prepare()
    workspace, source = Workspace(home, brief.project), SOURCES.make(brief.data.source)
    today = source.default_day()
    for day in source.days(brief.data.start):
        if day <= today:
            for stage in (make_raw_data, make_validated_data, make_augmented_dataset):
                stage(workspace, Partition(day), brief.data, task)
    make_training_window(workspace, Partition(today), brief.data, task)
    at = Partition(today, "base")
    make_architecture_comparison(
        workspace, at, brief.problem, brief.architecture, brief.training, brief.distributed, brief.evaluation,
        brief.compression, brief.serving, brief.data, task,
    )  # fmt: skip
    given = workspace, at, brief.architecture, brief.training, brief.distributed, brief.data
    make_hyperparameter_study(*given, brief.evaluation, task)
    make_trained_model(*given, task)
    make_scaling_report(*given, task)
    make_evaluation(workspace, at, brief.evaluation, brief.data, task)
    make_compressed_model(
        workspace, at, brief.problem, brief.training, brief.distributed, brief.compression, brief.serving, brief.data,
        task,
    )  # fmt: skip
    with running(home):
        served = make_triton_repository(workspace, at, brief.serving, brief.data, task, brief.evaluation)
        ensure_champion(workspace, at, served)
        traffic = TRAFFIC.make(brief.monitoring.traffic)
        make_prediction_log(workspace, at, brief.monitoring, brief.data, task, traffic)
    make_drift_report(workspace, at, brief.monitoring, brief.data, task)
    make_implementation_report(workspace, at, brief, task)


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]))
