"""Our own database tables. Ledger tables are append-only: the database itself refuses UPDATE and DELETE on them."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

SCHEMA = "dlp"
"""Schema on Postgres; SQLite has none."""

VERSION_TABLE = "dlp_alembic_version"
"""Alembic's version table: Dagster and Optuna each keep one of the default name."""


def _now() -> sa.Column:
    return sa.Column("at", sa.String(40), nullable=False)  # ISO 8601 with offset: the same text in both databases


def _asked() -> tuple[sa.Column, ...]:
    """Of one row of a request."""
    return (
        sa.Column("project", sa.String(40), primary_key=True),
        sa.Column("request_id", sa.String(80), primary_key=True),
        sa.Column("asked_at", sa.Float, nullable=False, index=True),  # seconds since 1970, UTC
    )


def _answered() -> tuple[sa.Column, ...]:
    """What a model made of it."""
    return (
        sa.Column("revision", sa.Integer, nullable=False, index=True),
        sa.Column("latency_ms", sa.Float, nullable=False),  # what was spent in models
        sa.Column("failure", sa.Text),  # why the assigned arm, or the shadow, did not answer
        sa.Column("outputs", sa.LargeBinary),  # raw, little-endian; none outside of the sample
        sa.Column("dtype", sa.String(10), nullable=False),  # numpy's
        sa.Column("shape", sa.JSON, nullable=False),  # of one row's outputs
    )


served_ledger = sa.Table(
    "served_ledger",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("project", sa.String(40), nullable=False, index=True),
    sa.Column("event", sa.String(20), nullable=False),  # published, champion, rollback, unloaded
    sa.Column("model", sa.String(80), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("partition", sa.String(80), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("evidence", sa.JSON, nullable=False),
    _now(),
    sa.Column("actor", sa.String(80), nullable=False, server_default=""),  # sensor, run, or the person's name
)

promotion_evidence = sa.Table(
    "promotion_evidence",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("project", sa.String(40), nullable=False, index=True),
    sa.Column("champion", sa.String(80), nullable=False),
    sa.Column("challenger", sa.String(80), nullable=False),
    sa.Column("partition", sa.String(80), nullable=False),
    sa.Column("metric", sa.String(40), nullable=False),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("difference", sa.Float, nullable=False),
    sa.Column("low", sa.Float, nullable=False),
    sa.Column("high", sa.Float, nullable=False),
    sa.Column("decision", sa.String(20), nullable=False),  # promote, keep, undecided
    sa.Column("reason", sa.Text, nullable=False),
    _now(),
)

test_reads = sa.Table(
    "test_reads",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("project", sa.String(40), nullable=False, index=True),
    sa.Column("reader", sa.String(40), nullable=False),
    sa.Column("partition", sa.String(80), nullable=False),
    sa.Column("rows", sa.Integer, nullable=False),
    _now(),
)

labels = sa.Table(
    "labels",
    metadata,
    sa.Column("project", sa.String(40), primary_key=True),
    sa.Column("request_id", sa.String(80), primary_key=True),
    sa.Column("label", sa.JSON, nullable=False),
    _now(),
)

alerts = sa.Table(
    "alerts",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("project", sa.String(40), nullable=False, index=True),
    sa.Column("key", sa.String(160), nullable=False, unique=True),
    sa.Column("kind", sa.String(40), nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
    sa.Column("delivered", sa.String(20), nullable=False),  # log, webhook, failed
    _now(),
)

retraining_requests = sa.Table(
    "retraining_requests",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("project", sa.String(40), nullable=False, index=True),
    sa.Column("key", sa.String(160), nullable=False, unique=True),
    sa.Column("partition", sa.String(80), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("report", sa.String(64), nullable=False),
    _now(),
)

predictions = sa.Table(
    "predictions",
    metadata,
    *_asked(),
    sa.Column("unit", sa.String(32), nullable=False),  # hashed: what the arm was assigned by
    sa.Column("arm", sa.String(20), nullable=False),  # assigned
    sa.Column("answered_by", sa.String(20), nullable=False),  # the champion, where a challenger failed
    sa.Column("model", sa.String(80), nullable=False),  # whose answer was given
    *_answered(),
    sa.Column("summary", sa.JSON, nullable=False),
    sa.Column("columns", sa.JSON, nullable=False),  # the request parameters that the brief lists
)

shadow_predictions = sa.Table(
    "shadow_predictions",
    metadata,
    *_asked(),
    sa.Column("model", sa.String(80), primary_key=True),  # one request may have been shown to several
    *_answered(),
)

router_events = sa.Table(
    "router_events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("project", sa.String(40), nullable=False, index=True),
    sa.Column("kind", sa.String(20), nullable=False),  # failed, unanswered, breaker
    sa.Column("request_id", sa.String(80), nullable=False),  # empty for a breaker
    sa.Column("unit", sa.String(32), nullable=False),
    sa.Column("arm", sa.String(20), nullable=False),
    sa.Column("model", sa.String(80), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False, index=True),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("asked_at", sa.Float, nullable=False),
)

carried_segments = sa.Table(
    "carried_segments",
    metadata,
    sa.Column("project", sa.String(40), primary_key=True),
    sa.Column("segment", sa.String(120), primary_key=True),  # the file's name
    sa.Column("offset", sa.BigInteger, nullable=False),  # bytes of it that the tables have
    sa.Column("finished", sa.Boolean, nullable=False),  # its writer is gone, and all of it is carried
    _now(),
)

label_inbox = sa.Table(
    "label_inbox",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("project", sa.String(40), nullable=False, index=True),
    sa.Column("request_id", sa.String(80), nullable=False),
    sa.Column("label", sa.JSON, nullable=False),
    sa.Column("signature", sa.String(64), nullable=False),  # HMAC-SHA256 by the label key
    _now(),
)

rollouts = sa.Table(
    "rollouts",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),  # a routing table's revision
    sa.Column("project", sa.String(40), nullable=False, index=True),
    sa.Column("experiment", sa.String(120), nullable=False, index=True),  # the same for all rows of one
    sa.Column("event", sa.String(20), nullable=False),  # stage, proposed, promoted, rolled_back, stopped
    sa.Column("stage", sa.Integer, nullable=False),
    sa.Column("share", sa.Float, nullable=False),
    sa.Column("champion", sa.String(80), nullable=False),
    sa.Column("challenger", sa.String(80), nullable=False),
    sa.Column("partition", sa.String(80), nullable=False),  # the challenger's
    sa.Column("decision", sa.JSON, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("actor", sa.String(80), nullable=False),
    sa.Column("key", sa.String(160), nullable=False, unique=True),  # the same evidence twice moves once
    _now(),
)

rollout_looks = sa.Table(
    "rollout_looks",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("project", sa.String(40), nullable=False, index=True),
    sa.Column("experiment", sa.String(120), nullable=False, index=True),
    sa.Column("stage", sa.Integer, nullable=False),
    sa.Column("evidence", sa.JSON, nullable=False),
    sa.Column("decision", sa.JSON, nullable=False),
    _now(),
)

project_homes = sa.Table(
    "project_homes",
    metadata,
    sa.Column("project", sa.String(40), primary_key=True),
    sa.Column("home", sa.String(32), nullable=False),  # its identity: see owner.py
    sa.Column("root", sa.Text, nullable=False),  # where it was then, for people
    _now(),
)

LEDGERS = (served_ledger.name, promotion_evidence.name, test_reads.name, rollouts.name, rollout_looks.name)
"""Tables to which rows are only ever added."""
