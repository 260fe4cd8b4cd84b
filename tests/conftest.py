"""Fixtures of the whole line on a small slice of the digits: each stage is made once a test session, on demand."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
import yaml

from dl_pipelines import catalog
from dl_pipelines.brief import Brief
from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Task

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def brief() -> Brief:
    """The demo's brief, trained for fewer epochs by one process."""
    data = yaml.safe_load((ROOT / "briefs" / "digits.yaml").read_text())
    data["training"] |= {"epochs": 4}
    data["distributed"] |= {"communicator": "single", "workers": 1}
    data["data"]["augmentation"] |= {"factor": 2}
    data["evaluation"] |= {"resamples": 200}
    data["serving"] = {"load_seconds": 0.5}
    data["compression"] = {"timing_rounds": 5}
    return catalog.read_brief(yaml.safe_dump(data), "digits.yaml")


@pytest.fixture(scope="session")
def task(brief: Brief) -> Task:
    """The brief's task."""
    return catalog.task_of(brief)


@pytest.fixture(scope="session")
def partition() -> Partition:
    """The first day of the digits, base experiment."""
    return Partition(date(2026, 1, 1), "base")


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory, brief: Brief) -> Workspace:
    """A home that the session's line fills; tests that damage something make their own."""
    return Workspace(Home(tmp_path_factory.mktemp("home")).prepare(), brief.project)


@pytest.fixture(scope="session")
def raw_data(workspace: Workspace, partition: Partition, brief: Brief, task: Task) -> Artifact:
    """Records of the first day."""
    from dl_pipelines.data.raw import make_raw_data

    return make_raw_data(workspace, partition.daily, brief.data, task)


@pytest.fixture(scope="session")
def validated_data(
    raw_data: Artifact, workspace: Workspace, partition: Partition, brief: Brief, task: Task
) -> Artifact:
    """Clean records of the first day."""
    from dl_pipelines.data.validation import make_validated_data

    return make_validated_data(workspace, partition.daily, brief.data, task)


@pytest.fixture(scope="session")
def augmented_dataset(
    validated_data: Artifact, workspace: Workspace, partition: Partition, brief: Brief, task: Task
) -> Artifact:
    """Records with their copies."""
    from dl_pipelines.data.augmentation import make_augmented_dataset

    return make_augmented_dataset(workspace, partition.daily, brief.data, task)


@pytest.fixture(scope="session")
def training_window(
    augmented_dataset: Artifact, workspace: Workspace, partition: Partition, brief: Brief, task: Task
) -> Artifact:
    """What a model of the first day sees."""
    from dl_pipelines.data.window import make_training_window

    return make_training_window(workspace, partition.daily, brief.data, task)


@pytest.fixture(scope="session")
def trained_model(
    training_window: Artifact, workspace: Workspace, partition: Partition, brief: Brief, task: Task
) -> Artifact:
    """A model trained by one process."""
    from dl_pipelines.training.train import make_trained_model

    return make_trained_model(
        workspace, partition, brief.architecture, brief.training, brief.distributed, brief.data, task
    )


@pytest.fixture(scope="session")
def evaluation(
    trained_model: Artifact, workspace: Workspace, partition: Partition, brief: Brief, task: Task
) -> Artifact:
    """Its metrics."""
    from dl_pipelines.evaluation.evaluate import make_evaluation

    return make_evaluation(workspace, partition, brief.evaluation, brief.data, task)


@pytest.fixture(scope="session")
def compressed_model(
    evaluation: Artifact, workspace: Workspace, partition: Partition, brief: Brief, task: Task
) -> Artifact:
    """The fastest variant within the budget."""
    from dl_pipelines.compression.compress import make_compressed_model

    return make_compressed_model(workspace, partition, brief.compression, brief.data, task)
