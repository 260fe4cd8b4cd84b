"""Carries what routers logged into the project's tables, exactly once, whoever is killed or restarted meanwhile.

The rows of a piece of a segment and the offset behind it are one transaction that begins by moving the offset: of two
carriers that have read the same piece, one finds it moved. What a segment holds is in carried_rows.py.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

from dl_pipelines.serving.carried_rows import EVENTS, PREDICTIONS, SHADOWS, Row, event, rows_of
from dl_pipelines.store.database import Database, now, patiently
from dl_pipelines.store.insert import insert_new
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.wire.log_format import LogError, has_writer
from dl_pipelines.wire.log_reading import read_chunk, read_file, segments, writer_of
from dl_pipelines.wire.records import ANSWERED, ASSIGNED, FAILED, Record, row_id

if TYPE_CHECKING:
    import sqlalchemy as sa

_CARRY = "take what was logged"
"""For the message, should the database stay away."""
STAGE = "prediction_log"
SETTLED_S = 3600.0
"""So long after a segment was followed by the next one, all of its requests are over."""


def carry_log(workspace: Workspace) -> int:
    """Bring what the segments have into `predictions`, `shadow_predictions` and `router_events`; returns the new rows.

    A request id that is there keeps its first answer. A request that was assigned and then neither answered nor failed
    by a router that is gone becomes an event `unanswered`. Raises LogError when a segment is damaged elsewhere than at
    its end, after all others were carried, and DatabaseError; what was carried stays so.
    """
    folder = workspace.home.predictions / workspace.project
    if not segments(folder):
        return 0
    with contextlib.closing(Database.of(workspace.home, workspace.project)) as database:
        return _Carrier(workspace, database, folder).carry()


class _Carrier:
    def __init__(self, workspace: Workspace, database: Database, folder: Path):
        self._workspace, self._database, self._folder = workspace, database, folder

    def carry(self) -> int:
        places = patiently(self._places, _CARRY)
        left = [path for path in segments(self._folder) if not _is_done(path, places)]
        # Asked before anything is read: what has no writer now is whole. A writer that went on to a segment which is
        # not in the list yet had made it by the time that the old one was let go.
        written = {path for path in left if _is_written(path)}
        living = written | (set(segments(self._folder)) - set(left) - {self._folder / name for name in places})
        writers = {writer_of(path.name)[0] for path in living}
        total, damaged = 0, list[LogError]()
        sizes = [_size(path) - places.get(path.name, (0, False))[0] for path in left]
        for number, path in enumerate(left):
            self._workspace.progress(STAGE, "carrying the log into the tables", sum(sizes[:number]), sum(sizes))
            try:
                end, added = self._segment(path, places.get(path.name, (0, False))[0])
                total += added
                if path not in written and (writer_of(path.name)[0] not in writers or _is_settled(path)):
                    total += self._finish(path, end)
            except LogError as error:
                damaged.append(error)
            except FileNotFoundError:
                continue  # an empty one that its writer took back, or one that retention removed
        if damaged:
            raise LogError("; ".join(map(str, damaged)))
        return total

    def _places(self) -> dict[str, tuple[int, bool]]:
        """How far each segment is carried, and whether it is finished."""
        import sqlalchemy as sa

        from dl_pipelines.store.tables import carried_segments as table

        query = sa.select(table.c.segment, table.c.offset, table.c.finished)
        with self._database.begin() as connection:
            found = connection.execute(query.where(table.c.project == self._workspace.project))
            return {row.segment: (row.offset, row.finished) for row in found}

    def _segment(self, path: Path, at: int) -> tuple[int, int]:
        """Carry what follows an offset: where it ends, and how many rows are new."""
        added = 0
        while True:
            chunk = read_chunk(path, at)
            if chunk.end > at:
                rows = self._rows(path, chunk.records)
                stored = patiently(lambda rows=rows, at=at, end=chunk.end: self._store(path, at, end, rows), _CARRY)
                if stored is None:  # another carrier was first
                    at = self._moved(path)
                else:
                    at, added = chunk.end, added + stored
            elif chunk.damage:
                raise chunk.damage
            else:
                return at, added

    def _moved(self, path: Path) -> int:
        """Where a segment is carried to by now. Raises FileNotFoundError when retention removed it."""
        place = patiently(self._places, _CARRY).get(path.name)
        if place is None:
            raise FileNotFoundError(path)
        return place[0]

    def _rows(self, path: Path, records: list[Record]) -> dict[str, list[Row]]:
        try:
            return rows_of(self._workspace.project, records)
        except (KeyError, TypeError, ValueError) as error:
            raise LogError(
                f"found a record in {path} that this version can't read ({type(error).__name__}: {error}); expected "
                "what a router wrote; use the version that wrote it, or move the file away to go on without it"
            ) from error

    def _store(self, path: Path, at: int, end: int, rows: dict[str, list[Row]], finished: bool = False) -> int | None:
        """Rows and offset at once: how many rows are new, None when another carrier was first."""
        from dl_pipelines.store import tables

        with self._database.begin() as connection:
            if not self._move(connection, path.name, at, end, finished):
                return None
            new = len(insert_new(connection, tables.predictions, rows[PREDICTIONS], tables.predictions.c.request_id))
            shadows = tables.shadow_predictions
            new += len(insert_new(connection, shadows, rows[SHADOWS], shadows.c.request_id))
            if rows[EVENTS]:
                connection.execute(tables.router_events.insert(), rows[EVENTS])
            return new + len(rows[EVENTS])

    def _move(self, connection: sa.Connection, segment: str, at: int, end: int, finished: bool) -> bool:
        """Move the offset from `at`, where nobody else did: from then on until the commit, nobody else can."""
        import sqlalchemy as sa

        from dl_pipelines.store.tables import carried_segments as table

        if at == 0:
            row = {"project": self._workspace.project, "segment": segment, "offset": 0, "finished": False, "at": now()}
            insert_new(connection, table, [row], table.c.segment)
        mine = sa.and_(table.c.project == self._workspace.project, table.c.segment == segment, table.c.offset == at)
        if finished:
            mine = sa.and_(mine, table.c.finished == sa.false())
        moved = table.update().where(mine).values(offset=end, finished=finished, at=now())
        return connection.execute(moved).rowcount == 1

    def _finish(self, path: Path, end: int) -> int:
        """Nothing will be added to it, but perhaps a torn tail that nobody got an answer for."""
        writer, number = writer_of(path.name)
        own = [(writer_of(other.name), other) for other in segments(self._folder)]
        later = [other for (name, place), other in own if name == writer and place > number]
        project = self._workspace.project
        rows = {PREDICTIONS: [], SHADOWS: [], EVENTS: [event(project, record) for record in unanswered(path, later)]}
        return patiently(lambda: self._store(path, end, _size(path), rows, finished=True), _CARRY) or 0


def unanswered(segment: Path, later: list[Path]) -> list[Record]:
    """Assignments of a segment that neither it nor its writer's later ones tell the end of. Raises LogError."""
    waiting: dict[str, Record] = {}
    for path in (segment, *later):
        for record in read_file(path):
            kind = record.get("k")
            if kind == ASSIGNED and path is segment:
                waiting[row_id(record["id"], 0, record["n"])] = record
            elif kind == ANSWERED:
                waiting.pop(record["id"], None)
            elif kind == FAILED:
                waiting.pop(record["id"], None)
                waiting.pop(row_id(record["id"], 0, 2), None)
        if not waiting:
            break
    return list(waiting.values())


def _is_done(path: Path, places: dict[str, tuple[int, bool]]) -> bool:
    offset, finished = places.get(path.name, (0, False))
    return finished and offset == _size(path)


def _is_written(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return has_writer(path)
    return False


def _is_settled(path: Path) -> bool:
    return time.time() - path.stat().st_mtime > SETTLED_S


def _size(path: Path) -> int:
    """Bytes; 0 where it is gone."""
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0
