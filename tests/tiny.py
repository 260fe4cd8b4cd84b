"""Fixtures around the tiny models of benchmarks/tiny.py; the conftest of a room that uses them imports them."""

from __future__ import annotations

import pytest

from benchmarks.tiny import FIRST, SECOND, THIRD, make_compressed, make_window
from dl_pipelines.brief.live import Serving
from dl_pipelines.brief.references import SourceRef
from dl_pipelines.brief.sections import Data, Evaluation
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.tasks.image_classification import ImageClassification


@pytest.fixture(scope="session")
def task() -> ImageClassification:
    """Two classes, 8 x 8 pixels, grey."""
    return ImageClassification(ImageClassification.Params(classes=("dark", "bright")))


@pytest.fixture(scope="session")
def data() -> Data:
    """Any source: the records are made here."""
    return Data(source=SourceRef(name="digits"))


@pytest.fixture(scope="session")
def serving() -> Serving:
    """A short load test."""
    return Serving(load_seconds=0.3, load_clients=2, max_batch=8, queue_delay_ms=0)


@pytest.fixture(scope="session")
def evaluation() -> Evaluation:
    """Few resamples."""
    return Evaluation(resamples=100)


@pytest.fixture(scope="session")
def make_workspace(tmp_path_factory, task):
    """A function: a workspace of its own home, with records and with a model for each day."""

    def make(project: str = "tiny") -> Workspace:
        workspace = Workspace(Home(tmp_path_factory.mktemp("home")).prepare(), project)
        make_window(workspace, task)
        for number, partition in enumerate((FIRST, SECOND)):
            make_compressed(workspace, partition, task, number, "onnxruntime")
        make_compressed(workspace, THIRD, task, 2, "openvino")
        return workspace

    return make
