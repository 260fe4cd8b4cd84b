"""The first tables, and triggers that keep the ledgers append-only."""

from alembic import context, op

from dl_pipelines.store.append_only import guard, prepare
from dl_pipelines.store.tables import metadata

revision = "0001"
down_revision = None

TABLES = ("served_ledger", "promotion_evidence", "test_reads", "labels", "alerts", "retraining_requests")
LEDGERS = ("served_ledger", "promotion_evidence", "test_reads")


def upgrade() -> None:
    """Create the tables of version 1."""
    metadata.create_all(op.get_bind(), tables=[metadata.tables[name] for name in TABLES])
    prepare(context)
    for table in LEDGERS:
        guard(op, context, table)
