"""The requests of a stage of a live experiment, by arm: how many, how many failed, how long they took.

A request of several rows is one request. Times are those that models took, of both arms. Rows are read in chunks, so
that memory does not grow with traffic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dl_pipelines.lifecycle.judged import CHUNK, Stage, of_stage
from dl_pipelines.lifecycle.rollout import latency_bin
from dl_pipelines.wire.routing import CHALLENGER, CHAMPION

if TYPE_CHECKING:
    import sqlalchemy as sa

BREAKER = "breaker"
"""The kind of a router's event that is about no request."""
ROUNDED = 1e-3
"""Milliseconds that a time in the log may be off by."""


@dataclass
class Requests:
    """Counted requests of one arm; an answer that took longer than `limit_ms` is none."""

    limit_ms: float
    units: int = 0
    requests: int = 0
    failed: int = 0
    latency: Counter[int] = field(default_factory=Counter)

    def add(self, milliseconds: float, failed: bool, timed: bool = True) -> None:
        """One more; `timed`: its time is that of an answer, or of waiting for one in vain."""
        self.requests += 1
        self.failed += failed or milliseconds > self.limit_ms
        if timed:
            self.latency[latency_bin(min(milliseconds, self.limit_ms))] += 1


def of_arms(connection: sa.Connection, stage: Stage, limit_ms: float) -> dict[str, Requests]:
    """Of a stage whose units are split: each arm by the requests that were assigned to it."""
    counted = {name: Requests(limit_ms) for name in (CHAMPION, CHALLENGER)}
    _count_answers(connection, stage, counted)
    for arm, count in _events(connection, stage).items():
        if arm in counted:
            counted[arm].requests += count
            counted[arm].failed += count
    _count_units(connection, stage, counted)
    return counted


def of_shadow(connection: sa.Connection, stage: Stage, limit_ms: float) -> dict[str, Requests]:
    """Of a shadow stage: both models by the requests that the champion answered and the shadow was shown.

    A shadow that can't keep up is not shown all, and least where the load is highest. The champion's errors, which no
    shadow is shown, count in the proportion in which its answers were. Where the shadow failed before the limit there
    is no time of it, so the champion's is left out too.
    """
    import sqlalchemy as sa

    from dl_pipelines.store.tables import predictions, shadow_predictions

    its, ours, answered = Requests(limit_ms), Requests(limit_ms), 0
    table, other = predictions, shadow_predictions
    same = (other.c.project == table.c.project) & (other.c.request_id == table.c.request_id)
    mine = same & (other.c.revision == stage.revision) & (other.c.model == stage.challenger)
    failed = sa.case((other.c.failure.is_not(None), 1), else_=0)
    both = table.outerjoin(other, mine)
    query = (
        sa.select(sa.func.max(table.c.latency_ms), sa.func.max(other.c.latency_ms), sa.func.max(failed))
        .select_from(both)
        .where(*of_stage(table, stage))
        .group_by(table.c.unit, _request(table.c.request_id))
    )
    for chunk in _stream(connection, query):
        for first, second, broken in chunk:
            answered += 1
            if second is not None:
                timed = not broken or second >= limit_ms - ROUNDED
                its.add(first, False, timed)
                ours.add(second, bool(broken), timed)
    errors = _events(connection, stage).get(CHAMPION, 0) * its.requests // max(1, answered)
    its.requests, its.failed = its.requests + errors, its.failed + errors
    units = sa.select(sa.func.count(sa.distinct(table.c.unit))).select_from(table.join(other, mine))
    its.units = ours.units = connection.execute(units.where(*of_stage(table, stage))).scalar_one()
    return {CHAMPION: its, CHALLENGER: ours}


def breaker(connection: sa.Connection, stage: Stage) -> str:
    """Why the router gave the challenger up, or empty."""
    import sqlalchemy as sa

    from dl_pipelines.store.tables import router_events as table

    query = (
        sa.select(table.c.detail).where(*of_stage(table, stage), table.c.kind == BREAKER).order_by(table.c.id).limit(1)
    )
    return connection.execute(query).scalar() or ""


def _request(column: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
    """A row's request: `ID#0`, `ID#1`, ... are of one (see records.row_id)."""
    import sqlalchemy as sa

    stem = sa.func.rtrim(column, "0123456789")
    return sa.case((stem.endswith("#"), stem), else_=column)


def _stream(connection: sa.Connection, query: Any) -> Iterator[Sequence[Any]]:
    """Rows in chunks; neither side holds them all."""
    yield from connection.execute(query, execution_options={"yield_per": CHUNK}).partitions()


def _count_answers(connection: sa.Connection, stage: Stage, counted: Mapping[str, Requests]) -> None:
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


def _events(connection: sa.Connection, stage: Stage) -> dict[str, int]:
    """By arm, the requests that got an error, or were never answered."""
    import sqlalchemy as sa

    from dl_pipelines.store.tables import router_events as table

    query = (
        sa.select(table.c.arm, sa.func.count(sa.distinct(table.c.request_id)).label("requests"))
        .where(*of_stage(table, stage), table.c.kind != BREAKER)
        .group_by(table.c.arm)
    )
    return {row.arm: row.requests for row in connection.execute(query)}


def _count_units(connection: sa.Connection, stage: Stage, counted: Mapping[str, Requests]) -> None:
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
