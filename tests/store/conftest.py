"""A workspace of the test's own, and a process that ends where a test wants it to."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import date
from itertools import count
from pathlib import Path

import pytest

from dl_pipelines.store import durable
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Partition, Workspace

DIED = 17


@pytest.fixture
def own(tmp_path: Path) -> Workspace:
    """An empty home."""
    return Workspace(Home(tmp_path / "home"), "p")


@pytest.fixture
def base() -> Partition:
    """A day and the base experiment."""
    return Partition(date(2026, 1, 31), "base")


@pytest.fixture(scope="session")
def dies_before() -> Callable[[int, Callable[[], object]], bool]:
    """Run an action in a process that ends at its durable operation of that number, counted from 0.

    False when there are fewer. Nothing is cleaned up there, as by `kill -9`.
    """

    def run(number: int, action: Callable[[], object]) -> bool:
        child = os.fork()
        if child == 0:
            seen, code = count(), 1

            def end(operation: str, path: Path) -> None:
                if next(seen) == number:
                    os._exit(DIED)

            try:
                with durable.inject(end):
                    action()
                code = 0
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, DIED)
        return code == DIED

    return run
