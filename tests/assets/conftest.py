"""A little brief whose three days of digits take seconds, and its assets run in this process on a home of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from dl_pipelines import catalog
from dl_pipelines.brief import Brief
from dl_pipelines.cli.run import Line, line
from dl_pipelines.store.home import Home
from resources.workspaces import Nobody

ARRIVALS = {"name": "digits", "params": {"first_records": 60, "per_day": 20, "live_records": 1697}}


@pytest.fixture(scope="session")
def little() -> Callable[..., Brief]:
    """A function: a brief of three days of digits (60 records, then 20 a day); `data` replaces fields of the section."""

    def make(**data: Any) -> Brief:
        task = {"name": "image_classification", "params": {"classes": list(range(10))}}
        given = {"project": "little", "problem": {"task": task}, "data": {"source": ARRIVALS, **data}}
        return catalog.read_brief(yaml.safe_dump(given), "little.yaml")

    return make


@pytest.fixture
def home(tmp_path, monkeypatch) -> Home:
    monkeypatch.delenv("DLP_DATABASE_URL", raising=False)
    monkeypatch.setenv("DAGSTER_HOME", "set by open_instance, taken back after the test")
    return Home(tmp_path / "home").prepare()


@pytest.fixture
def open_line(home) -> Iterator[Callable[[Brief], Line]]:
    """A function: the line of a brief on the test's home; a later brief finds what an earlier one left."""
    opened: list[Any] = []

    def start(brief: Brief) -> Line:
        opened.append(line(home, brief, Nobody(), [], keep=False))
        return opened[-1].__enter__()

    yield start
    for one in reversed(opened):
        one.__exit__(None, None, None)
