"""Each look at the test rows is appended and counted, by project and partition."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
import sqlalchemy as sa

from dl_pipelines.evaluation.test_reads import count_test_reads, record_test_read
from dl_pipelines.store.database import Database
from dl_pipelines.store.home import DATABASE_URL, Home
from dl_pipelines.store.tables import test_reads as reads
from dl_pipelines.store.workspace import Partition, Workspace

BASE = Partition(date(2026, 1, 1), "base")
LONGER = Partition(date(2026, 1, 1), "longer")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.delenv(DATABASE_URL, raising=False)
    return Home(tmp_path)


def test_reads_are_counted(home: Home):
    workspace, other = Workspace(home, "p"), Workspace(home, "q")
    assert count_test_reads(workspace) == 0
    record_test_read(workspace, "evaluation", BASE, 150)
    record_test_read(workspace, "verdict", BASE, 150)
    record_test_read(workspace, "evaluation", LONGER, 150)
    record_test_read(other, "evaluation", BASE, 7)
    assert (count_test_reads(workspace), count_test_reads(other)) == (3, 1)
    assert [count_test_reads(workspace, partition) for partition in (BASE, LONGER)] == [2, 1]


def test_a_read_cant_be_taken_back(home: Home):
    workspace = Workspace(home, "p")
    record_test_read(workspace, "evaluation", BASE, 150)
    database = Database.of(home)
    with pytest.raises(sa.exc.DBAPIError, match="test_reads is append-only"), database.begin() as connection:
        connection.execute(reads.delete())
    (row,) = database.rows(reads)
    assert {name: row[name] for name in ("project", "reader", "partition", "rows")} == {
        "project": "p", "reader": "evaluation", "partition": "2026-01-01|base", "rows": 150,
    }  # fmt: skip
    database.close()
