"""The tiny models of benchmarks/tiny.py, and one server for the whole session."""

# ruff: noqa: F811 - pytest hands fixtures over by name
from __future__ import annotations

import numpy as np
import pytest

from dl_pipelines.serving.server import running
from dl_pipelines.store.home import DATABASE_URL, Home
from dl_pipelines.store.workspace import Workspace
from tests.tiny import data, evaluation, make_workspace, serving, task  # noqa: F401 - fixtures


@pytest.fixture(scope="session")
def line(make_workspace):
    """The session's workspace; its server is started by the first test that needs it and ends with the session."""
    workspace = make_workspace()
    with running(workspace.home, lazy=True):
        yield workspace


@pytest.fixture(scope="session")
def inputs() -> np.ndarray:
    """40 images."""
    return np.random.default_rng(1).integers(0, 256, (40, 8, 8, 1)).astype(np.uint8)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def own(request, tmp_path, monkeypatch) -> Workspace:
    """A home of the test's own, on either database."""
    if request.param == "postgres":
        monkeypatch.setenv(DATABASE_URL, request.getfixturevalue("postgres_url"))
    else:
        monkeypatch.delenv(DATABASE_URL, raising=False)
    return Workspace(Home(tmp_path / "home").prepare(), "tiny")
