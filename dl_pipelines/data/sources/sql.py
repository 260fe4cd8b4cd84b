"""Records of series from a database: the rows of one SELECT, read through SQLAlchemy; nothing is ever written.

The database's URL is a secret: it is read from the environment here, and no error, snapshot or log shows any of it.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from dl_pipelines.brief.references import Secret
from dl_pipelines.data.sources.base import SourceError
from dl_pipelines.data.sources.raw_series import ColumnParams, RawSource
from dl_pipelines.data.sources.series_parse import RawSeries
from dl_pipelines.data.sources.series_table import remembered
from dl_pipelines.data.sources.series_values import Reading
from dl_pipelines.store.database import with_driver

if TYPE_CHECKING:
    import pyarrow as pa
    import sqlalchemy as sa

CONNECT_SECONDS = 10
HIDDEN = "***"
_ASIDE = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|\"[^\"]*\"", re.DOTALL)
"""Comments and quoted text of a query."""


class Sql(RawSource):
    """The rows of a query, one a record. It is run once, and again when 20 times as long has passed as it took."""

    name = "sql"

    class Params(ColumnParams):
        """Which database, what is asked, and what the columns mean."""

        url: Secret = Field(description="a SQLAlchemy URL, as ${NAME}: the environment variable that holds it")
        query: str = Field(min_length=1, description="one SELECT with a column for the time, the item and each value")

        @field_validator("query")
        @classmethod
        def _only_reads(cls, value: str) -> str:
            text = _ASIDE.sub(" ", value).strip().rstrip("; \n")
            if (text.split() or [""])[0].upper() not in ("SELECT", "WITH", "VALUES") or ";" in text:
                raise ValueError("one SELECT (or WITH ... SELECT): nothing is written to the database")
            return value.strip().rstrip(";")

    def __init__(self, params: Params):
        self.params = params

    def describe(self) -> dict[str, Any]:
        """See Source.describe."""
        return {
            "update_frequency": "as the database changes; a record's day is that of its time",
            "access": f"a read-only query of the database in {self.params.url}",
            "types": "numbers and words by item and day",
            "format": "Lance",
        }

    @property
    def raw(self) -> RawSeries:
        """See RawSource.raw."""
        return remembered(("sql", self.params, self._url), self._read)

    @property
    def _url(self) -> str:
        """The secret's value. Raises SourceError."""
        name = self.params.url.removeprefix("${").removesuffix("}")
        url = os.environ.get(name, "")
        if not url:
            raise SourceError(
                f"found no environment variable {name}; expected the database's SQLAlchemy URL "
                "(data.source.params.url); set it"
            )
        return with_driver(url)

    def _read(self) -> RawSeries:
        import numpy as np

        given, where = self.params, f"the query's result ({self.params.url})"
        table = self._query()
        reading = Reading(given.time, given.item, given.series, given.timezone, given.time_format)
        return RawSeries(
            table=table,
            files=np.full(table.num_rows, f"sql:{given.url}", object),
            numbers=np.arange(1, table.num_rows + 1),
            columns={where: table.column_names},
            reading=reading,
            where=where,
        )

    def _query(self) -> pa.Table:
        """The rows, in a transaction that only reads and is rolled back. Raises SourceError without the URL."""
        import sqlalchemy as sa
        import sqlalchemy.exc

        url = self._parsed()
        try:
            engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args=_connecting(url))
            with engine.connect() as connection:
                _only_read(connection)
                result = connection.execution_options(no_parameters=True).exec_driver_sql(self.params.query)
                names, rows = list(result.keys()), result.fetchall()
        except (sqlalchemy.exc.SQLAlchemyError, ImportError, OSError, ValueError) as error:
            # Not chained: the cause holds the URL.
            raise SourceError(
                f"found no answer from the database in {self.params.url} ({_masked(error, url)}); expected a database "
                "that answers data.source.params.query; mend the query or the environment variable, or start the "
                "database"
            ) from None
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SourceError(f"found the column {twice[0]} twice in the result; expected each once; rename one")
        return _table(names, [tuple(row) for row in rows])

    def _parsed(self) -> sa.URL:
        import sqlalchemy as sa
        import sqlalchemy.exc

        try:
            url = sa.make_url(self._url)
        except (sqlalchemy.exc.ArgumentError, ValueError):
            raise SourceError(
                f"found no SQLAlchemy URL in {self.params.url}; expected one such as postgresql://USER@HOST/NAME or "
                "sqlite:////PATH; mend the environment variable"
            ) from None
        if url.get_backend_name() == "sqlite" and url.database and not os.path.exists(url.database):  # noqa: PTH110
            raise SourceError(
                f"found no file at the path of the database in {self.params.url}; expected an SQLite database; mend "
                "the environment variable"
            )
        return url


def _connecting(url: sa.URL) -> dict[str, Any]:
    return {"connect_timeout": CONNECT_SECONDS} if url.get_backend_name() == "postgresql" else {}


def _only_read(connection: sa.Connection) -> None:
    """Where the database can promise it."""
    promise = {"postgresql": "SET TRANSACTION READ ONLY", "sqlite": "PRAGMA query_only = ON"}
    if connection.dialect.name in promise:
        connection.exec_driver_sql(promise[connection.dialect.name])


def _masked(error: Exception, url: sa.URL) -> str:
    """What the driver says, without the URL and its parts; without the statement, which the brief holds."""
    text = " ".join(str(getattr(error, "orig", None) or error).split())
    secrets = [url.render_as_string(hide_password=False), url.password, url.username, url.host, url.database]
    for secret in sorted({str(item) for item in secrets if item}, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return re.sub(r"\b\d{1,3}(\.\d{1,3}){3}\b", HIDDEN, text)


def _table(names: list[str], rows: list[tuple[Any, ...]]) -> pa.Table:
    """Rows as columns; one whose values have several types becomes text."""
    import pyarrow as pa

    columns = []
    for place in range(len(names)):
        values = [row[place] for row in rows]
        try:
            columns.append(pa.array(values))
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
            columns.append(pa.array([None if value is None else str(value) for value in values], pa.string()))
    return pa.table(columns, names=names)
