"""One body for SQLite and a real PostgreSQL: migration, append-only ledgers, once, order, errors without passwords."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from dl_pipelines.store import tables
from dl_pipelines.store.database import HEAD, Database, DatabaseError, patiently
from dl_pipelines.store.home import DATABASE_URL, Home

ROOT = Path(__file__).parent.parent.parent
SERVED = {
    "project": "p", "event": "champion", "model": "p__1", "digest": "d", "partition": "2026-01-01|base",
    "reason": "first", "evidence": {"rows": 3},
}  # fmt: skip
READ = {"project": "p", "reader": "evaluation", "partition": "2026-01-01|base", "rows": 3}
EVIDENCE = {
    "project": "p", "champion": "a", "challenger": "b", "partition": "2026-01-01|base", "metric": "accuracy",
    "rows": 3, "difference": 0.1, "low": 0.0, "high": 0.2, "decision": "promote", "reason": "better",
}  # fmt: skip
ALERT = {"project": "p", "kind": "drift", "subject": "s", "body": {"a": [1, None]}, "delivered": "log"}
MOVE = {
    "project": "p", "experiment": "b@1", "event": "stage", "stage": 0, "share": 0.0, "champion": "a",
    "challenger": "b", "partition": "2026-01-01|base", "decision": {}, "reason": "begins", "actor": "sensor",
}  # fmt: skip
LOOK = {"project": "p", "experiment": "b@1", "stage": 0, "evidence": {"units": 3}, "decision": {"action": "wait"}}
LEDGERS = [
    (tables.served_ledger, SERVED), (tables.test_reads, READ), (tables.promotion_evidence, EVIDENCE),
    (tables.rollout_looks, LOOK),
]  # fmt: skip


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'below' / 'dlp.sqlite'}"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = Database(url)
    yield opened
    opened.close()


def schema_of(database: Database) -> str | None:
    return tables.SCHEMA if database.engine.dialect.name == "postgresql" else None


def test_the_migration_makes_what_the_code_expects(database: Database):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    found = sa.inspect(database.engine)
    expected = {*tables.metadata.tables, tables.VERSION_TABLE}
    assert set(found.get_table_names(schema=schema_of(database))) == expected
    with database.engine.connect() as connection:
        if schema_of(database):
            connection.exec_driver_sql(f"SET search_path TO {tables.SCHEMA}")
        context = MigrationContext.configure(connection, opts={"version_table": tables.VERSION_TABLE})
        assert compare_metadata(context, tables.metadata) == []
        (version,) = connection.exec_driver_sql(f"SELECT version_num FROM {tables.VERSION_TABLE}").one()
        assert version == HEAD


@pytest.mark.postgres
def test_postgres_keeps_out_of_the_schema_of_others(postgres_url: str):
    database = Database(postgres_url)
    found = sa.inspect(database.engine)
    assert found.get_table_names(schema="public") == []
    assert tables.SCHEMA in found.get_schema_names()
    database.close()


def test_a_version_table_of_dagster_or_optuna_is_left_alone(url: str):
    plain = sa.create_engine(Database(url).url)
    if plain.dialect.name == "sqlite":
        Path(plain.url.database or "").parent.mkdir()
    with plain.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('theirs')")
    database = Database(url)
    database.append(tables.test_reads, **READ)
    assert len(database.rows(tables.test_reads)) == 1
    with plain.connect() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalars().all() == ["theirs"]
    database.close()
    plain.dispose()


OPEN = """
from dl_pipelines.store.database import Database
from dl_pipelines.store.tables import test_reads
database = Database({url!r})
print(len(database.rows(test_reads)))
database.close()
"""


def test_the_second_opening_needs_no_alembic(url: str, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "alembic", None)
        with pytest.raises(DatabaseError, match="import of alembic halted"):
            Database(url).rows(tables.test_reads)
    first = Database(url)
    first.append(tables.test_reads, **READ)
    first.close()
    monkeypatch.setitem(sys.modules, "alembic", None)
    second = Database(url)
    assert len(second.rows(tables.test_reads)) == 1
    second.close()


def test_two_processes_open_a_new_database_at_once(url: str):
    together = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN.format(url=url)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    for process in together:
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, output.strip()) == (0, "0"), errors


def test_a_migration_that_broke_off_is_made_whole(url: str, monkeypatch: pytest.MonkeyPatch):
    import alembic.operations.ops as ops

    broken, run = Database(url), ops.ExecuteSQLOp.execute

    def stop(operations: object, statement: str, **options: object) -> object:
        if "promotion_evidence" in str(statement):
            raise KeyboardInterrupt
        return run(operations, statement, **options)  # pyright: ignore[reportArgumentType]

    with monkeypatch.context() as patch:
        patch.setattr(ops.ExecuteSQLOp, "execute", stop)
        from alembic import op

        patch.setattr(op, "execute", lambda statement: stop(op._proxy, statement))  # pyright: ignore
        with pytest.raises(KeyboardInterrupt):
            broken.rows(tables.test_reads)
    whole = Database(url)
    whole.append(tables.promotion_evidence, **EVIDENCE)
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), whole.begin() as connection:
        connection.execute(tables.promotion_evidence.delete())
    whole.close()


@pytest.mark.parametrize(("table", "values"), LEDGERS, ids=lambda item: getattr(item, "name", None))
def test_a_ledger_is_append_only(database: Database, table: sa.Table, values: dict[str, object]):
    assert database.append(table, **values) == 1
    before = database.rows(table)
    refused = [table.update().values(project="other"), table.delete()]
    if database.engine.dialect.name == "postgresql":
        refused.append(sa.text(f"TRUNCATE {tables.SCHEMA}.{table.name}"))
    else:
        refused.append(table.insert().prefix_with("OR REPLACE").values(**before[0] | {"project": "other"}))
    for statement in refused:
        with (
            pytest.raises(sa.exc.DBAPIError, match=f"{table.name} is append-only"),
            database.begin() as connection,
        ):
            connection.execute(statement)
    assert database.rows(table) == before
    assert database.append(table, **values) == 2


def test_the_moves_of_a_rollout_are_append_only_and_each_key_moves_once(database: Database):
    assert database.append_once(tables.rollouts, key="b@1:0", **MOVE)
    assert not database.append_once(tables.rollouts, key="b@1:0", **MOVE)
    before = database.rows(tables.rollouts)
    for statement in (tables.rollouts.update().values(project="other"), tables.rollouts.delete()):
        with pytest.raises(sa.exc.DBAPIError, match="rollouts is append-only"), database.begin() as connection:
            connection.execute(statement)
    assert database.rows(tables.rollouts) == before and len(before) == 1


def test_every_ledger_is_tested():
    assert {table.name for table, _ in LEDGERS} | {tables.rollouts.name} == set(tables.LEDGERS)


def test_once_is_once(database: Database):
    results = [database.append_once(tables.alerts, key="k", **ALERT) for _ in range(3)]
    assert results == [True, False, False]
    assert database.append_once(tables.alerts, key="other", **ALERT)
    rows = database.rows(tables.alerts)
    assert [row["key"] for row in rows] == ["k", "other"]
    assert rows[0]["body"] == {"a": [1, None]}


def test_once_is_once_from_many_threads(database: Database):
    results, barrier = [], threading.Barrier(8)
    database.rows(tables.labels)

    def add(number: int) -> None:
        barrier.wait()
        results.append(database.append_once(tables.labels, project="p", request_id="r", label=number))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False] * 7 + [True]
    assert len(database.rows(tables.labels, project="p")) == 1


def test_what_is_refused_for_another_reason_is_not_taken_for_known(database: Database):
    incomplete = {name: value for name, value in ALERT.items() if name != "subject"}
    with pytest.raises(sa.exc.IntegrityError, match="subject"):
        database.append_once(tables.alerts, key="k", **incomplete)
    assert database.rows(tables.alerts) == []


def test_rows_come_oldest_first_and_by_value(database: Database):
    for number in (3, 1, 2):
        database.append(tables.test_reads, **READ | {"rows": number, "project": "q" if number == 1 else "p"})
    assert [row["rows"] for row in database.rows(tables.test_reads)] == [3, 1, 2]
    assert [row["rows"] for row in database.rows(tables.test_reads, project="p")] == [3, 2]
    for moment in ("2026-01-03", "2026-01-01", "2026-01-02"):
        database.append(tables.labels, project="p", request_id=moment, label=1, at=moment)
    assert [row["request_id"][-1] for row in database.rows(tables.labels)] == ["1", "2", "3"]


def test_a_failed_transaction_leaves_nothing(database: Database):
    with pytest.raises(RuntimeError, match="mid-way"), database.begin() as connection:
        connection.execute(tables.test_reads.insert().values(at="now", **READ))
        raise RuntimeError("mid-way")
    assert database.rows(tables.test_reads) == []


def test_a_newer_database_is_left_alone(url: str):
    old = Database(url)
    table = f"{schema_of(old)}.{tables.VERSION_TABLE}" if schema_of(old) else tables.VERSION_TABLE
    with old.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {table} SET version_num = '9999'")
    old.close()
    with pytest.raises(DatabaseError) as caught:
        Database(url).rows(tables.alerts)
    assert "that this version doesn't know (Can't locate revision identified by '9999'); " in str(caught.value)
    assert "expected migration 0003 or older; use the version that wrote it" in str(caught.value)


def test_a_server_that_does_not_answer():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with pytest.raises(DatabaseError) as caught:
            Database(f"postgres://me:hunter2@127.0.0.1:{port}/db").rows(tables.alerts)
    message = str(caught.value)
    assert message.startswith(f"found no usable database at postgresql+psycopg2://me:***@127.0.0.1:{port}/db (")
    assert "Connection refused" in message
    assert message.endswith("expected a SQLAlchemy URL of SQLite or Postgres in DLP_DATABASE_URL")
    assert "hunter2" not in message


@pytest.mark.postgres
def test_a_database_that_is_not_there(postgres_url: str):
    with pytest.raises(DatabaseError, match='database "missing" does not exist') as caught:
        Database(postgres_url.replace("dlp@", "dlp:hunter2@").rpartition("/")[0] + "/missing").rows(tables.alerts)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("hunter2", "at DLP_DATABASE_URL (not a URL) ("),
        ("oracle9://me:hunter2@host/db", "at oracle9://me:***@host/db (Can't load plugin"),
        ("postgresql+asyncpg://me:hunter2@host/db", "at postgresql+asyncpg://me:***@host/db (No module named"),
        (
            "postgresql://me:hunter2@host:port/db",
            "at DLP_DATABASE_URL (not a URL) (invalid literal for int()",
        ),
    ],
)
def test_a_url_that_is_none(url: str, found: str):
    with pytest.raises(DatabaseError) as caught:
        Database(url).rows(tables.alerts)
    assert found in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_sqlite_where_nothing_can_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DatabaseError, match=r"Not a directory|File exists"):
        Database(f"sqlite:///{tmp_path / 'file' / 'below' / 'dlp.sqlite'}").rows(tables.alerts)
    (tmp_path / "other.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(DatabaseError, match="file is not a database"):
        Database(f"sqlite:///{tmp_path / 'other.sqlite'}").rows(tables.alerts)


def test_the_homes_database_is_a_file_in_it_or_the_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(DATABASE_URL, raising=False)
    assert Database.of(Home(tmp_path)).url == f"sqlite:///{tmp_path}/dlp.sqlite"
    monkeypatch.setenv(DATABASE_URL, "postgres://u@h/d")
    assert Database.of(Home(tmp_path)).url == "postgresql+psycopg2://u@h/d"


def test_what_a_database_that_is_away_is_asked_is_asked_again(monkeypatch):
    monkeypatch.setattr("dl_pipelines.store.database.PATIENCE_S", (0.0, 0.0))
    away = sa.exc.OperationalError("INSERT", {}, sqlite3.OperationalError("database is locked"))
    wrapped = DatabaseError("found no usable database")
    wrapped.__cause__ = away
    answers = iter([away, wrapped, 7])

    def step():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert patiently(step, "count") == 7
    answers = iter([away] * 3 + [8])
    told = r"found the database unable to count \(database is locked\); expected it to answer; run it again when it"
    with pytest.raises(DatabaseError, match=told):
        patiently(step, "count")
    assert next(answers) == 8, "no more than three tries"
    answers = iter([sa.exc.IntegrityError("INSERT", {}, sqlite3.IntegrityError("twice"))])
    with pytest.raises(sa.exc.IntegrityError):
        patiently(step, "count")
