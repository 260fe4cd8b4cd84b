"""Which model `dlp bundle` and `dlp verify` are about when no date says it."""

from datetime import date
from types import SimpleNamespace
from typing import Any

import pytest

from dl_pipelines.cli.partition import find_partition
from dl_pipelines.store.workspace import Partition

FIRST, SECOND, WIDE = (
    Partition(date(2026, 1, 1), "base"), Partition(date(2026, 1, 2), "base"), Partition(date(2026, 1, 3), "wide"),
)  # fmt: skip


@pytest.fixture
def workspace(monkeypatch):
    """Three models in it; `workspace.serves` has the traffic."""
    given: Any = SimpleNamespace(project="small", partitions=lambda stage: [FIRST, SECOND, WIDE], serves=None)

    def champion(workspace):
        return SimpleNamespace(partition=workspace.serves.key) if workspace.serves else None

    monkeypatch.setattr("dl_pipelines.serving.champion.champion", champion)
    return given


@pytest.mark.parametrize(
    ("serves", "day", "experiment", "found"),
    [
        (FIRST, None, "base", FIRST),  # what serves, though there is a newer one
        (None, None, "base", SECOND),  # nothing serves: the newest
        (FIRST, SECOND.day, "base", SECOND),
        (FIRST, None, "wide", WIDE),  # what serves is of another experiment
        (WIDE, None, "base", SECOND),
        (WIDE, None, "wide", WIDE),
    ],
)
def test_what_serves_comes_before_the_newest(workspace, serves, day, experiment, found):
    workspace.serves = serves
    assert find_partition(workspace, day, experiment) == found


def test_a_day_without_a_model_is_told(workspace):
    with pytest.raises(
        ValueError,
        match=r"found no compressed model of small for 2026-01-03 and base; expected one of 2026-01-01\|base, "
        r"2026-01-02\|base, 2026-01-03\|wide; run `dlp run` for its brief",
    ):
        find_partition(workspace, WIDE.day, "base")
