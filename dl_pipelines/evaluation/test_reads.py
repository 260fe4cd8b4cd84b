"""Counts who looked at the test rows: nothing is chosen from them, and the ledger shows that each look was meant."""

from __future__ import annotations

from dl_pipelines.store.database import Database
from dl_pipelines.store.tables import test_reads
from dl_pipelines.store.workspace import Partition, Workspace


def record_test_read(workspace: Workspace, reader: str, partition: Partition, rows: int) -> None:
    """Append one read: `reader` is evaluation or verdict."""
    database = Database.of(workspace.home, workspace.project)
    database.append(test_reads, project=workspace.project, reader=reader, partition=partition.key, rows=rows)
    database.close()


def count_test_reads(workspace: Workspace, partition: Partition | None = None) -> int:
    """Reads of this project's test rows so far, of one partition or of all."""
    database = Database.of(workspace.home, workspace.project)
    wanted = {"partition": partition.key} if partition else {}
    found = database.rows(test_reads, project=workspace.project, **wanted)
    database.close()
    return len(found)
