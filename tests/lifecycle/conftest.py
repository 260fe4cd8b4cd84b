"""Homes with published tiny models and a real server."""

# ruff: noqa: F811 - pytest hands fixtures over by name
from __future__ import annotations

import shutil
from datetime import date

import pytest

from benchmarks.tiny import make_compressed, make_window
from dl_pipelines.brief.live import Lifecycle
from dl_pipelines.serving.publish import make_triton_repository
from dl_pipelines.serving.server import running
from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Partition, Workspace
from tests.tiny import data, evaluation, serving, task  # noqa: F401 - fixtures

from .worlds import make_world, world  # noqa: F401 - fixtures

WORSE, BETTER, ALIKE, LATER, RENAMED = (Partition(date(2026, 1, day), "base") for day in (1, 2, 3, 4, 5))


@pytest.fixture(scope="session")
def lifecycle() -> Lifecycle:
    """The defaults: 95 %, no margin."""
    return Lifecycle()


@pytest.fixture(scope="session")
def publish(task, data, serving, evaluation):
    """A function: make and publish a tiny model; one with another `middle` than 128 is mistaken about some images."""

    def do(
        workspace: Workspace, partition: Partition, seed: int = 0, middle: float = 128, runtime: str = "onnxruntime"
    ):
        make_compressed(workspace, partition, task, seed, runtime, middle)
        return make_triton_repository(workspace, partition, serving, data, task, evaluation)

    return do


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A home whose server is started by the first who needs it, and ends with the session."""
    home = Home(tmp_path_factory.mktemp("home")).prepare()
    with running(home, lazy=True):
        yield home


@pytest.fixture(scope="session")
def project(place, task):
    """A function: a new project in that home, with records and windows of five days."""

    def do(name: str) -> Workspace:
        workspace = Workspace(place, name)
        make_window(workspace, task, (WORSE, BETTER, ALIKE, LATER, RENAMED))
        return workspace

    return do


@pytest.fixture(scope="session")
def never_served(place, project, publish):
    """A project with a poor model, a good one of each runtime, and another poor one; nothing of it ever serves."""
    workspace = project("tiny")
    return workspace, {
        WORSE: publish(workspace, WORSE, 0, 60),
        BETTER: publish(workspace, BETTER, 1),
        ALIKE: publish(workspace, ALIKE, 2, runtime="openvino"),
        LATER: publish(workspace, LATER, 3, 60),
    }


@pytest.fixture(scope="module")
def duel(never_served, tmp_path_factory):
    """A copy of it for each file of tests, which moves its traffic as it likes."""
    original, published = never_served
    home = Home(tmp_path_factory.mktemp("duel") / "home")
    folders = ("artifacts", "index", "briefs", "reports", "dagster", "logs", "work")
    for name in folders:
        shutil.copytree(original.home.root / name, home.root / name, symlinks=True)
    with running(home, lazy=True):
        workspace = Workspace(home, original.project)
        yield workspace, {day: workspace.by_digest("triton_repository", item.digest) for day, item in published.items()}


def model_of(artifact: Artifact) -> str:
    """Name of a published model."""
    return artifact.read_json("model.json")["model"]
