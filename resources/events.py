"""Dagster's event log in SQLite with many events in one transaction, for runs of many days in a process of ours.

Dagster's own opens and commits two or three connections an event: five years of days are some 35,000 events. The tables
and files are Dagster's, so that the UI reads the same log; a run that the UI starts writes it in Dagster's own way.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, SqlEventLogStorageTable
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from sqlalchemy.dialects.sqlite import insert

EVENTS, CHECK_ROWS = SqlEventLogStorageTable, AssetCheckExecutionsTable
PLANNED_BY = ("asset_key", "check_name", "run_id", "partition")
CHECKS = 1000
"""Evaluations that are written at once."""
COMMIT_SECONDS = 1.0
"""The longest that another process has to wait to write into the same log."""
BATCH = {"DAGSTER_EVENT_BATCH_SIZE": "500"}
"""Dagster hands over this many events at once, where they belong to one range; read from the environment."""


class EventLog(SqliteEventLogStorage):
    """Writes as Dagster's does, except inside `together`."""

    _open: dict[str, Any] | None = None
    _since = 0.0
    _tables: frozenset[str] = frozenset()
    _indexed = False
    _latest: set[int] | None = None
    _checks: list[EventLogEntry]
    """Evaluations of days that wait to be written; they are before anything else is read or written."""

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Any) -> "EventLog":
        """See Dagster's ConfigurableClass."""
        return cls(inst_data=inst_data, **config_value)

    @contextmanager
    def together(self) -> Iterator[None]:
        """While open, events share transactions, each of at most about COMMIT_SECONDS. What was stored stays stored."""
        if self._open is not None:
            yield
            return
        self._open, self._since, self._checks = {}, time.monotonic(), []
        try:
            yield
        finally:
            if self._checks:
                self._store_checks()
            self._commit()
            self._open = None

    def has_table(self, table_name: str) -> bool:
        """Tables don't vanish: Dagster would look for each event."""
        if table_name not in self._tables and super().has_table(table_name):
            self._tables |= {table_name}
        return table_name in self._tables

    def _has_asset_key_index_cols_on_connection(self, conn: Any) -> bool:
        self._indexed = self._indexed or super()._has_asset_key_index_cols_on_connection(conn)
        return self._indexed

    def store_event_batch(self, events: Any) -> None:
        """What Dagster plans and what it records of a range of days comes in batches of BATCH."""
        self._latest = {id(event) for event in {_about(event): event for event in events}.values()}
        try:
            with self.together():
                super().store_event_batch(events)
        finally:
            self._latest = None

    def _store_asset_event(self, conn: Any, event: EventLogEntry, event_id: int) -> None:
        if self._latest is None or id(event) in self._latest:  # an asset remembers the last one only
            super()._store_asset_event(conn, event, event_id)

    def store_event(self, event: EventLogEntry) -> None:
        """What each day's checks came to is most of what a run of many days records."""
        wait = self._open is not None and event.dagster_event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION
        if wait and event.get_dagster_event().asset_check_evaluation_data.partition is not None:
            self._checks.append(event)
            if len(self._checks) >= CHECKS:
                self._store_checks()
            return
        super().store_event(event)

    def _store_checks(self) -> None:
        """As `SqliteEventLogStorage.store_event` does one by one: in the run's log, the index, the checks' table."""
        events, self._checks = self._checks, []
        rows = [self._event_to_row(event) for event in events]
        for run_id in {event.run_id for event in events}:
            with self.run_connection(run_id) as connection:
                connection.execute(EVENTS.insert(), [row for row in rows if row["run_id"] == run_id])
        with self.index_connection() as connection:
            inserted = EVENTS.insert().returning(EVENTS.c.id, sort_by_parameter_order=True)
            ids = connection.execute(inserted, rows).scalars().all()
            found = [_check_row(event, row, place) for event, row, place in zip(events, rows, ids, strict=True)]
            add = insert(CHECK_ROWS)
            changed = {name: add.excluded[name] for name in found[0] if name not in PLANNED_BY}
            connection.execute(add.on_conflict_do_update(index_elements=PLANNED_BY, set_=changed), found)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Any]:
        if self._open is None:
            with super()._connect(shard) as connection:
                yield connection
            return
        if self._checks:
            self._store_checks()
        if time.monotonic() - self._since > COMMIT_SECONDS:
            self._commit()
        if shard not in self._open:
            stack = ExitStack()
            connection = stack.enter_context(super()._connect(shard))
            self._db_lock.release()  # held by what was just entered; taken again before that ends
            self._open[shard] = (stack, connection)
        with self._db_lock:
            yield self._open[shard][1]

    def _commit(self) -> None:
        assert self._open is not None
        for stack, _ in self._open.values():
            self._db_lock.acquire()
            stack.close()
        self._open.clear()
        self._since = time.monotonic()


def _about(event: EventLogEntry) -> tuple[Any, Any]:
    return event.dagster_event_type, event.get_dagster_event().asset_key


def _check_row(event: EventLogEntry, row: Mapping[str, Any], event_id: int) -> dict[str, Any]:
    """What the table of checks holds of an evaluation; it replaces the row that was planned with the run."""
    found = event.get_dagster_event().asset_check_evaluation_data
    status = AssetCheckExecutionRecordStatus.SUCCEEDED if found.passed else AssetCheckExecutionRecordStatus.FAILED
    target = found.target_materialization_data
    return {
        "asset_key": found.asset_key.to_string(),
        "check_name": found.check_name,
        "run_id": event.run_id,
        "partition": found.partition,
        "execution_status": status.value,
        "evaluation_event": row["event"],
        "evaluation_event_timestamp": row["timestamp"],
        "evaluation_event_storage_id": event_id,
        "materialization_event_storage_id": target.storage_id if target else None,
    }


def together(instance: dg.DagsterInstance) -> Any:
    """A block in which this process writes events together, where its storage can."""
    storage = instance.event_log_storage
    return storage.together() if isinstance(storage, EventLog) else nullcontext()


def event_log(folder: Path) -> dict[str, Any]:
    """Our event log instead of Dagster's, as an override of the `dagster.yaml` in this folder."""
    config = {"base_dir": str(folder / "history" / "runs")}
    return {"event_log_storage": {"module": EventLog.__module__, "class": EventLog.__name__, "config": config}}
