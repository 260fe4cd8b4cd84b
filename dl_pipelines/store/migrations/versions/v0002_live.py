"""Tables of live traffic and rollouts; who moved the traffic, in the ledger of what served."""

import sqlalchemy as sa
from alembic import context, op

from dl_pipelines.store.append_only import guard
from dl_pipelines.store.tables import SCHEMA, metadata

revision = "0002"
down_revision = "0001"

TABLES = (
    "predictions", "shadow_predictions", "router_events", "carried_segments", "label_inbox", "rollouts",
    "rollout_looks",
)  # fmt: skip
LEDGERS = ("rollouts", "rollout_looks")


def upgrade() -> None:
    """Create the tables of version 2."""
    bind = op.get_bind()
    schema = SCHEMA if context.config.attributes["schema"] else None
    if "actor" not in {column["name"] for column in sa.inspect(bind).get_columns("served_ledger", schema=schema)}:
        column = sa.Column("actor", sa.String(80), nullable=False, server_default="")
        op.add_column("served_ledger", column, schema=schema)
    metadata.create_all(bind, tables=[metadata.tables[name] for name in TABLES])
    for table in LEDGERS:
        guard(op, context, table)
