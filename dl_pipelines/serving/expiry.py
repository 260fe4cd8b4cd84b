"""Retention of live data: answers older than the brief's `serving.log.keep_days` go, and their labels with them.

What an experiment that is under way counts stays until it has ended: bounds that hold at every look are of all that
a stage saw, not of its last days.
"""

from __future__ import annotations

import contextlib
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from dl_pipelines.serving.carried_rows import fitting
from dl_pipelines.serving.client import acknowledged_folder
from dl_pipelines.serving.rollouts import OPEN
from dl_pipelines.store import durable
from dl_pipelines.store.database import Database, patiently
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.wire.log_format import UNBORN, LogError, has_writer
from dl_pipelines.wire.log_reading import read_file, segments

if TYPE_CHECKING:
    import sqlalchemy as sa

DAY_S, HOUR_S = 86_400, 3600


def expire_log(workspace: Workspace, keep_days: int | None) -> int:
    """Remove answers, shadow answers, events and labels older than `keep_days`, and the segments that held them.

    Rows of the experiment under way stay, whatever their age. A segment goes only when all of it is in the tables and
    nobody writes it. None keeps everything. Returns how many rows and segments were removed. Raises DatabaseError.
    """
    folder = workspace.home.predictions / workspace.project
    _remove_unborn(folder)
    if keep_days is None:
        return 0
    before = time.time() - keep_days * DAY_S
    with contextlib.closing(Database.of(workspace.home, workspace.project)) as database:
        removed = _expire_segments(workspace.project, folder, database, before)
        if noted := segments(acknowledged_folder(workspace.home, workspace.project)):
            going = patiently(lambda: _going(database, workspace.project, before), "tell what is old")
            for path in noted:
                if _written_before(path, before) or _names(path, going):
                    durable.remove_file(path)

        def expire() -> int:
            with database.begin() as connection:
                return _expire_rows(connection, workspace.project, before)

        return removed + patiently(expire, "forget what is old")


def _expire_segments(project: str, folder: Path, database: Database, before: float) -> int:
    """The file first: a row without a file does no harm, a file without its row would be carried once more.

    A row whose file is not here may be another home's that shares the database.
    """
    from dl_pipelines.store.tables import carried_segments as table

    finished = [row["segment"] for row in database.rows(table, project=project, finished=True)]
    removed = list[str]()
    for name in finished:
        if _written_before(folder / name, before):
            durable.remove_file(folder / name)
            removed.append(name)

    def forget() -> None:
        with database.begin() as connection:
            for name in removed:
                connection.execute(table.delete().where(table.c.project == project, table.c.segment == name))

    if removed:
        patiently(forget, "forget what is old")
    return len(removed)


def _going(database: Database, project: str, before: float) -> set[str]:
    """The ids of the answers that are about to go."""
    import sqlalchemy as sa

    from dl_pipelines.store.tables import predictions as table

    query = sa.select(table.c.request_id).where(table.c.project == project, table.c.asked_at < before)
    with database.begin() as connection:
        counted = _counted(connection, project)
        return set(connection.execute(query.where(table.c.revision.not_in(counted))).scalars())


def _names(path: Path, ids: set[str]) -> bool:
    """Whether a client noted one of these: that goes no later than the answer it is held against, whenever noted."""
    with contextlib.suppress(LogError, FileNotFoundError):  # a damaged one is told by who reads it
        return bool(ids) and any(fitting(record["id"]) in ids for record in read_file(path))
    return False


def _expire_rows(connection: sa.Connection, project: str, before: float) -> int:
    import sqlalchemy as sa

    from dl_pipelines.store import tables

    answers, labels, inbox = tables.predictions, tables.labels, tables.label_inbox
    text = datetime.fromtimestamp(before, UTC).isoformat(timespec="milliseconds")
    mine = sa.select(answers.c.request_id).where(answers.c.project == project)
    counted = _counted(connection, project)
    old = labels.c.request_id.in_(mine.where(answers.c.asked_at < before, answers.c.revision.not_in(counted)))
    orphan = sa.and_(labels.c.at < text, labels.c.request_id.not_in(mine))
    removed = 0
    for statement in (
        labels.delete().where(labels.c.project == project, sa.or_(old, orphan)),
        inbox.delete().where(inbox.c.project == project, inbox.c.at < text),
        *(
            table.delete().where(
                table.c.project == project, table.c.asked_at < before, table.c.revision.not_in(counted)
            )
            for table in (answers, tables.shadow_predictions, tables.router_events)
        ),
    ):
        removed += connection.execute(statement).rowcount
    return removed


def _counted(connection: sa.Connection, project: str) -> list[int]:
    """The revisions of the experiment that is under way: what was answered under them is its evidence."""
    import sqlalchemy as sa

    from dl_pipelines.store.tables import rollouts as table

    query = sa.select(table.c.experiment, table.c.event).where(table.c.project == project)
    last = connection.execute(query.order_by(table.c.id.desc()).limit(1)).first()
    if last is None or last.event not in OPEN:
        return []
    mine = sa.select(table.c.id).where(table.c.project == project, table.c.experiment == last.experiment)
    return list(connection.execute(mine).scalars())


def _remove_unborn(folder: Path) -> None:
    """Segments whose writer died before they had their name: empty."""
    for path in folder.glob(f"*{UNBORN}"):
        with contextlib.suppress(FileNotFoundError):
            if _written_before(path, time.time() - HOUR_S) and not has_writer(path):
                path.unlink()


def _written_before(path: Path, moment: float) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime < moment
    return False
