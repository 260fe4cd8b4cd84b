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

LEDGERS = (served_ledger.name, promotion_evidence.name, test_reads.name)
"""Tables to which rows are only ever added."""
