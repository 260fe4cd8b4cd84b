"""One SQLAlchemy engine for our tables: SQLite in the home, or Postgres by `DLP_DATABASE_URL`, migrated by Alembic."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dl_pipelines.store.home import DATABASE_URL, Home

if TYPE_CHECKING:
    import sqlalchemy as sa

HEAD = "0003"
"""The newest migration; a database at it needs no Alembic import."""

PATIENCE_S = (0.2, 1.0, 3.0)
"""How long a database that restarts, or is locked, is waited for before each new try."""

Value = TypeVar("Value")

_MIGRATIONS = Path(__file__).parent / "migrations"


class DatabaseError(ValueError):
    """The database can't be reached or used; says what to do. The URL's password is never shown."""


def now() -> str:
    """The present time, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def with_driver(url: str) -> str:
    """SQLAlchemy 2.1 maps a bare postgresql:// to psycopg 3, which isn't installed."""
    for prefix in ("postgresql://", "postgres://"):
        if url.startswith(prefix):
            return "postgresql+psycopg2://" + url.removeprefix(prefix)
    return url


class Database:
    """Opens lazily and migrates once; `begin()` is a transaction. With a home's project, it must be its `own` there."""

    def __init__(self, url: str, own: tuple[Home, str] | None = None):
        self.url, self._own = with_driver(url), own

    @classmethod
    def of(cls, home: Home, project: str | None = None) -> Database:
        """The database of a home. Whoever reads or writes rows of a project names it: it may be another home's."""
        return cls(home.database_url, (home, project) if project and os.environ.get(DATABASE_URL) else None)

    @classmethod
    def claim(cls, home: Home, project: str) -> None:
        """Before any work: refuse a project that is another home's in a shared database. Raises DatabaseError.

        Nothing is opened where the tables are in the home.
        """
        if os.environ.get(DATABASE_URL):
            with contextlib.closing(cls.of(home, project)) as database:
                patiently(lambda: database.engine, f"tell whose {project} is")

    @cached_property
    def engine(self) -> sa.Engine:
        """The engine, after migration. Raises DatabaseError, of which OtherHomeError is one."""
        import sqlalchemy as sa
        import sqlalchemy.exc

        from dl_pipelines.store.tables import SCHEMA

        try:
            url = sa.make_url(self.url)
            if url.get_backend_name() == "sqlite":
                if url.database:
                    Path(url.database).parent.mkdir(parents=True, exist_ok=True)
                engine = sa.create_engine(url, connect_args={"timeout": 30})
            else:
                engine = sa.create_engine(
                    url, pool_pre_ping=True, execution_options={"schema_translate_map": {None: SCHEMA}}
                )
            self._migrate(engine)
            if self._own:
                self._require_own(engine, *self._own)
        except DatabaseError:
            raise
        except (sqlalchemy.exc.SQLAlchemyError, ImportError, OSError, ValueError) as error:
            cause = getattr(error, "orig", None) or error
            raise DatabaseError(
                f"found no usable database at {_without_password(self.url)} ({str(cause).strip()}); expected a "
                "SQLAlchemy URL of SQLite or Postgres in DLP_DATABASE_URL"
            ) from error
        return engine

    def _require_own(self, engine: sa.Engine, home: Home, project: str) -> None:
        from dl_pipelines.store.owner import require_own

        try:
            with engine.begin() as connection:
                require_own(connection, home, project)
        except DatabaseError:
            engine.dispose()
            raise

    def _migrate(self, engine: sa.Engine) -> None:
        import sqlalchemy as sa

        from dl_pipelines.store.tables import SCHEMA, VERSION_TABLE

        schema = SCHEMA if engine.dialect.name == "postgresql" else None
        if sa.inspect(engine).has_table(VERSION_TABLE, schema=schema):
            table = f"{schema}.{VERSION_TABLE}" if schema else VERSION_TABLE
            with engine.connect() as connection:
                version = connection.execute(sa.text(f"SELECT version_num FROM {table}")).scalar()
            if version == HEAD:
                return
        from alembic import command
        from alembic.config import Config
        from alembic.util import CommandError

        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        with engine.begin() as connection:
            if schema:
                connection.execute(sa.text(f"SELECT pg_advisory_xact_lock(hashtext('{SCHEMA}'))"))
                connection.execute(sa.text(f"CREATE SCHEMA IF NOT EXISTS {schema}"))
            else:
                # SQLite's driver opens no transaction for DDL: a crash would leave half the tables, and two clash.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            config.attributes.update(connection=connection, schema=schema)
            try:
                command.upgrade(config, HEAD)
            except CommandError as error:
                raise DatabaseError(
                    f"found a database at {_without_password(self.url)} that this version doesn't know ({error}); "
                    f"expected migration {HEAD} or older; use the version that wrote it, or another DLP_DATABASE_URL"
                ) from error

    @contextlib.contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """A transaction: committed at the end, rolled back on an exception."""
        with self.engine.begin() as connection:
            yield connection

    def append(self, table: sa.Table, **values: Any) -> int:
        """Insert one row with `at` = now (unless given); returns its id."""
        with self.begin() as connection:
            result = connection.execute(table.insert().values(**{"at": now(), **values}))
            key = result.inserted_primary_key
            return int(key[0]) if key is not None and "id" in table.c else 0

    def append_once(self, table: sa.Table, **values: Any) -> bool:
        """Insert one row unless its unique `key` is there; True when it was inserted."""
        import sqlalchemy.exc

        try:
            self.append(table, **values)
        except sqlalchemy.exc.IntegrityError:
            keys = {c.name: values[c.name] for c in table.c if c.name in values and (c.unique or c.primary_key)}
            if not keys or not self.rows(table, **keys):
                raise  # refused for another reason: a value that is missing
            return False
        return True

    def rows(self, table: sa.Table, **equal: Any) -> list[Mapping[str, Any]]:
        """Rows whose columns equal these values, oldest first."""
        query = table.select().where(*[table.c[name] == value for name, value in equal.items()])
        query = query.order_by(next(table.c[name] for name in ("id", "at", "asked_at") if name in table.c))
        with self.begin() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def close(self) -> None:
        """Give every connection back."""
        if "engine" in self.__dict__:
            self.engine.dispose()


def patiently(step: Callable[[], Value], what: str) -> Value:
    """The value of `step`, done again while the database restarts or is locked. Raises DatabaseError in the end.

    `step` may be done twice although it succeeded the first time: its answer can be lost. `what` is for the message.
    """
    from sqlalchemy.exc import InterfaceError, OperationalError

    away = OperationalError, InterfaceError
    for wait in (*PATIENCE_S, None):
        try:
            return step()
        except (*away, DatabaseError) as error:
            cause = error.__cause__ if isinstance(error, DatabaseError) else error
            if not isinstance(cause, away):
                raise
            if wait is None:
                raise DatabaseError(
                    f"found the database unable to {what} ({str(cause.orig).strip()}); expected it to answer; run it "
                    "again when it does: nothing is lost"
                ) from error
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _without_password(url: str) -> str:
    import sqlalchemy as sa
    import sqlalchemy.exc

    try:
        return sa.make_url(url).render_as_string(hide_password=True)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return "DLP_DATABASE_URL (not a URL)"
