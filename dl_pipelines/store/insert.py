"""Insert-or-ignore, in either dialect: what is there already under the same key stays as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sqlalchemy as sa

BATCH = 1000
"""Ids of one question."""


def insert_new(
    connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]], told: sa.Column[Any]
) -> list[Any]:
    """Insert the rows whose key is not there, all in one statement's worth; the column `told` of those inserted."""
    from sqlalchemy.dialects import postgresql, sqlite

    if not rows:
        return []
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table).on_conflict_do_nothing().returning(told)
    return list(connection.execute(statement, list(rows)).scalars())
