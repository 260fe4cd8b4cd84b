"""What a stage of a live experiment has shown so far, counted from the tables; `rollout` decides on it.

Everything is by the arm that a unit was assigned to, whoever answered in the end. A unit counts once, by the mean of
its requests; a request of several rows is one request. Rows are read in the order of units, so that memory does not
grow with traffic.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dl_pipelines.lifecycle.judged import CHUNK, Stage, of_stage, scores
from dl_pipelines.lifecycle.rollout import ArmEvidence, Evidence, latency_bin
from dl_pipelines.store.database import Database
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.tasks.base import Task
from dl_pipelines.wire.routing import CHALLENGER, CHAMPION

if TYPE_CHECKING:
    import sqlalchemy as sa

HOUR = 3600.0
BREAKER = "breaker"
"""The kind of a router's event that is about no request."""


@dataclass
class _Requests:
    """Counted requests of one arm."""

    units: int = 0
    requests: int = 0
    failed: int = 0
    latency: Counter[int] = field(default_factory=Counter)

    def add(self, milliseconds: float, failed: bool, answered: bool = True) -> None:
        self.requests += 1
        self.failed += failed
        if answered:
            self.latency[latency_bin(milliseconds)] += 1


def gather(workspace: Workspace, task: Task, stage: Stage, label_hours: float, at: float) -> Evidence:
    """The evidence of a stage at the time `at`; only requests `label_hours` older than it are judged by their labels.

    `matured` and `labelled` count units: of those with an answer that is old enough, those with a label. What lies
    outside of the log's sample can't be judged and is in neither. In a shadow stage the challenger's figures are of the
    answers that nobody got, and `paired` of units that both answered.
    """
    database = Database.of(workspace.home)
    with contextlib.closing(database), database.begin() as connection:
        counted = {name: _Requests() for name in (CHAMPION, CHALLENGER)}
        _count_answers(connection, stage, counted)
        _count_events(connection, stage, counted)
        _count_units(connection, stage, counted)
        if stage.shadow:
            counted[CHALLENGER] = _count_shadow(connection, stage)
        found, paired = scores(connection, stage, task, at - label_hours * HOUR)
        breaker = _breaker(connection, stage)
    arms = {
        name: ArmEvidence(
            of.units, of.requests, of.failed, dict(sorted(of.latency.items())),
            found[name].units, found[name].moments.count, found[name].moments,
        )
        for name, of in counted.items()
    }  # fmt: skip
    hours = max(0.0, at - stage.since) / HOUR
    return Evidence(stage.number, hours, arms[CHAMPION], arms[CHALLENGER], paired, breaker)


def counts(workspace: Workspace, stage: Stage) -> dict[str, int]:
    """How many rows there are that `gather` would look at: as long as they stay the same, only time has passed."""
    import sqlalchemy as sa

    from dl_pipelines.store import tables

    database = Database.of(workspace.home)
    with contextlib.closing(database), database.begin() as connection:
        found: dict[str, int] = {}
        for table in (tables.predictions, tables.shadow_predictions, tables.router_events):
            query = sa.select(sa.func.count()).select_from(table).where(*of_stage(table, stage))
            found[table.name] = connection.execute(query).scalar_one()
        labels, answers = tables.labels, tables.predictions
        same = (labels.c.project == answers.c.project) & (labels.c.request_id == answers.c.request_id)
        query = sa.select(sa.func.count()).select_from(answers.join(labels, same)).where(*of_stage(answers, stage))
        return {**found, "labels": connection.execute(query).scalar_one()}


def _request(column: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
    """A row's request: `ID#0`, `ID#1`, ... are of one (see records.row_id)."""
    import sqlalchemy as sa

    stem = sa.func.rtrim(column, "0123456789")
    return sa.case((stem.endswith("#"), stem), else_=column)


def _stream(connection: sa.Connection, query: Any) -> Iterator[Sequence[Any]]:
    """Rows in chunks; neither side holds them all."""
    yield from connection.execute(query, execution_options={"yield_per": CHUNK}).partitions()


def _count_answers(connection: sa.Connection, stage: Stage, counted: Mapping[str, _Requests]) -> None:
    import sqlalchemy as sa

    from dl_pipelines.store.tables import predictions as table

    request, failed = _request(table.c.request_id), sa.case((table.c.failure.is_not(None), 1), else_=0)
    query = (
        sa.select(table.c.arm, sa.func.max(table.c.latency_ms), sa.func.max(failed))
        .where(*of_stage(table, stage))
        .group_by(table.c.arm, table.c.unit, request)
    )
    for chunk in _stream(connection, query):
        for arm, milliseconds, fell_back in chunk:
            if arm in counted:
                counted[arm].add(milliseconds, bool(fell_back))


def _count_events(connection: sa.Connection, stage: Stage, counted: Mapping[str, _Requests]) -> None:
    """Requests that got an error, or were never answered."""
    import sqlalchemy as sa

    from dl_pipelines.store.tables import router_events as table

    query = (
        sa.select(table.c.arm, sa.func.count(sa.distinct(table.c.request_id)))
        .where(*of_stage(table, stage), table.c.kind != BREAKER)
        .group_by(table.c.arm)
    )
    for arm, count in connection.execute(query):
        if arm in counted:
            counted[arm].requests += count
            counted[arm].failed += count


def _count_units(connection: sa.Connection, stage: Stage, counted: Mapping[str, _Requests]) -> None:
    import sqlalchemy as sa

    from dl_pipelines.store.tables import predictions, router_events

    both = sa.union(
        sa.select(predictions.c.arm, predictions.c.unit).where(*of_stage(predictions, stage)),
        sa.select(router_events.c.arm, router_events.c.unit).where(
            *of_stage(router_events, stage), router_events.c.kind != BREAKER
        ),
    ).subquery()
    for arm, count in connection.execute(sa.select(both.c.arm, sa.func.count()).group_by(both.c.arm)):
        if arm in counted:
            counted[arm].units = count


def _count_shadow(connection: sa.Connection, stage: Stage) -> _Requests:
    import sqlalchemy as sa

    from dl_pipelines.store.tables import predictions, shadow_predictions

    table, found = shadow_predictions, _Requests()
    mine = (*of_stage(table, stage), table.c.model == stage.challenger)
    failed = sa.case((table.c.failure.is_not(None), 1), else_=0)
    query = sa.select(sa.func.max(table.c.latency_ms), sa.func.max(failed)).where(*mine)
    for chunk in _stream(connection, query.group_by(_request(table.c.request_id))):
        for milliseconds, broken in chunk:
            found.add(milliseconds, bool(broken), answered=not broken)
    same = (predictions.c.project == table.c.project) & (predictions.c.request_id == table.c.request_id)
    units = sa.select(sa.func.count(sa.distinct(predictions.c.unit))).select_from(table.join(predictions, same))
    found.units = connection.execute(units.where(*mine)).scalar_one()
    return found


def _breaker(connection: sa.Connection, stage: Stage) -> str:
    import sqlalchemy as sa

    from dl_pipelines.store.tables import router_events as table

    query = (
        sa.select(table.c.detail).where(*of_stage(table, stage), table.c.kind == BREAKER).order_by(table.c.id).limit(1)
    )
    return connection.execute(query).scalar() or ""
