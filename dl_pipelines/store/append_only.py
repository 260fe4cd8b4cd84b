"""Triggers that have the database refuse to change or remove rows of a ledger; for migrations."""

from __future__ import annotations

from typing import Any

from dl_pipelines.store.tables import SCHEMA


def prepare(context: Any) -> None:
    """The function that the triggers of Postgres call; once a database."""
    if context.config.attributes["schema"]:
        context.config.attributes["connection"].exec_driver_sql(
            f"CREATE FUNCTION {SCHEMA}.append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION '%% is append-only', TG_TABLE_NAME; END $$"
        )


def guard(op: Any, context: Any, table: str) -> None:
    """Make a table append-only."""
    (_postgres if context.config.attributes["schema"] else _sqlite)(op, table)


def _sqlite(op: Any, table: str) -> None:
    for action in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER {table}_no_{action.lower()} BEFORE {action} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        )
    # INSERT OR REPLACE deletes the old row without a DELETE that a trigger sees.
    op.execute(
        f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} "
        f"WHEN EXISTS (SELECT 1 FROM {table} WHERE id = NEW.id) "
        f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
    )


def _postgres(op: Any, table: str) -> None:
    op.execute(
        f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {SCHEMA}.{table} "
        f"FOR EACH ROW EXECUTE FUNCTION {SCHEMA}.append_only()"
    )
    op.execute(
        f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {SCHEMA}.{table} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {SCHEMA}.append_only()"
    )
