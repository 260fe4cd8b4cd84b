"""Migrations from 0001 on, of a database with rows, made as version 0001 made it: its DDL is written out here."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from dl_pipelines.store import tables
from dl_pipelines.store.database import HEAD, Database
from dl_pipelines.store.insert import insert_new

COLUMNS = {
    "served_ledger": "event VARCHAR(20) NOT NULL, model VARCHAR(80) NOT NULL, digest VARCHAR(64) NOT NULL, "
    "partition VARCHAR(80) NOT NULL, reason TEXT NOT NULL, evidence JSON NOT NULL",
    "promotion_evidence": "champion VARCHAR(80) NOT NULL, challenger VARCHAR(80) NOT NULL, "
    "partition VARCHAR(80) NOT NULL, metric VARCHAR(40) NOT NULL, rows INTEGER NOT NULL, difference FLOAT NOT NULL, "
    "low FLOAT NOT NULL, high FLOAT NOT NULL, decision VARCHAR(20) NOT NULL, reason TEXT NOT NULL",
    "test_reads": "reader VARCHAR(40) NOT NULL, partition VARCHAR(80) NOT NULL, rows INTEGER NOT NULL",
    "alerts": '"key" VARCHAR(160) NOT NULL, kind VARCHAR(40) NOT NULL, subject TEXT NOT NULL, '
    "body JSON NOT NULL, delivered VARCHAR(20) NOT NULL",
    "retraining_requests": '"key" VARCHAR(160) NOT NULL, partition VARCHAR(80) NOT NULL, '
    "reason TEXT NOT NULL, report VARCHAR(64) NOT NULL",
}
LEDGERS = ("served_ledger", "promotion_evidence", "test_reads")
AT = "2026-01-01T00:00:00.000+00:00"
ROWS = (
    ("served_ledger", "project, event, model, digest, partition, reason, evidence, at",
     f"'p', 'champion', 'p__1', 'd1', '2026-01-01|base', 'first', '{{\"rows\": 3}}', '{AT}'"),
    ("served_ledger", "project, event, model, digest, partition, reason, evidence, at",
     f"'p', 'rollback', 'p__0', 'd0', '2026-01-01|base', 'worse', '{{}}', '{AT}'"),
    ("promotion_evidence", "project, champion, challenger, partition, metric, rows, difference, low, high, decision, "
     "reason, at", f"'p', 'a', 'b', '2026-01-01|base', 'accuracy', 3, 0.1, 0.0, 0.2, 'promote', 'better', '{AT}'"),
    ("labels", "project, request_id, label, at", f"'p', 'r/1', '[1.5, null]', '{AT}'"),
    ("alerts", 'project, "key", kind, subject, body, delivered, at', f"'p', 'k', 'drift', 's', '{{}}', 'log', '{AT}'"),
)  # fmt: skip


def ddl(postgres: bool) -> Iterator[str]:
    """What version 0001 executed."""
    schema, number = ("dlp.", "SERIAL") if postgres else ("", "INTEGER")
    if postgres:
        yield "CREATE SCHEMA dlp"
        yield (
            "CREATE FUNCTION dlp.append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION '%% is append-only', TG_TABLE_NAME; END $$"
        )
    yield (
        f"CREATE TABLE {schema}dlp_alembic_version (version_num VARCHAR(32) NOT NULL, "
        "CONSTRAINT dlp_alembic_version_pkc PRIMARY KEY (version_num))"
    )
    yield f"INSERT INTO {schema}dlp_alembic_version VALUES ('0001')"
    for name, columns in COLUMNS.items():
        unique = ', UNIQUE ("key")' if '"key"' in columns else ""
        yield (
            f"CREATE TABLE {schema}{name} (id {number} NOT NULL, project VARCHAR(40) NOT NULL, {columns}, "
            f"at VARCHAR(40) NOT NULL, PRIMARY KEY (id){unique})"
        )
        yield f"CREATE INDEX ix_{name}_project ON {schema}{name} (project)"
    yield (
        f"CREATE TABLE {schema}labels (project VARCHAR(40) NOT NULL, request_id VARCHAR(80) NOT NULL, "
        "label JSON NOT NULL, at VARCHAR(40) NOT NULL, PRIMARY KEY (project, request_id))"
    )
    for name in LEDGERS:
        if postgres:
            for kind, actions, each in (
                ("append_only", "UPDATE OR DELETE", "ROW"), ("no_truncate", "TRUNCATE", "STATEMENT"),
            ):  # fmt: skip
                yield (
                    f"CREATE TRIGGER {name}_{kind} BEFORE {actions} ON dlp.{name} FOR EACH {each} "
                    "EXECUTE FUNCTION dlp.append_only()"
                )
            continue
        refuse = f"BEGIN SELECT RAISE(ABORT, '{name} is append-only'); END"
        yield f"CREATE TRIGGER {name}_no_update BEFORE UPDATE ON {name} {refuse}"
        yield f"CREATE TRIGGER {name}_no_delete BEFORE DELETE ON {name} {refuse}"
        yield (
            f"CREATE TRIGGER {name}_no_replace BEFORE INSERT ON {name} "
            f"WHEN EXISTS (SELECT 1 FROM {name} WHERE id = NEW.id) {refuse}"
        )
    for name, columns, values in ROWS:
        yield f"INSERT INTO {schema}{name} ({columns}) VALUES ({values})"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database as version 0001 left it."""
    postgres = request.param == "postgres"
    url = request.getfixturevalue("postgres_url") if postgres else f"sqlite:///{tmp_path / 'dlp.sqlite'}"
    engine = sa.create_engine(Database(url).url)
    with engine.begin() as connection:
        for statement in ddl(postgres):
            connection.exec_driver_sql(statement)
    engine.dispose()
    return url


def version(database: Database) -> str:
    schema = f"{tables.SCHEMA}." if database.engine.dialect.name == "postgresql" else ""
    with database.begin() as connection:
        return connection.exec_driver_sql(f"SELECT version_num FROM {schema}{tables.VERSION_TABLE}").scalar_one()


def test_rows_are_kept_and_nobody_is_named_as_their_actor(old: str):
    database = Database(old)
    first, second = database.rows(tables.served_ledger)
    assert first == {
        "id": 1, "project": "p", "event": "champion", "model": "p__1", "digest": "d1", "partition": "2026-01-01|base",
        "reason": "first", "evidence": {"rows": 3}, "at": AT, "actor": "",
    }  # fmt: skip
    assert (second["event"], second["actor"]) == ("rollback", "")
    assert database.rows(tables.labels)[0]["label"] == [1.5, None]
    assert [len(database.rows(table)) for table in (tables.promotion_evidence, tables.alerts)] == [1, 1]
    assert version(database) == HEAD
    database.append(tables.served_ledger, **{**dict(first), "id": 3, "actor": "ann"})
    assert [row["actor"] for row in database.rows(tables.served_ledger)] == ["", "", "ann"]
    database.close()


def test_it_is_then_what_a_new_one_is(old: str):
    database = Database(old)
    with database.engine.connect() as connection:
        if database.engine.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SET search_path TO {tables.SCHEMA}")
        context = MigrationContext.configure(connection, opts={"version_table": tables.VERSION_TABLE})
        assert compare_metadata(context, tables.metadata) == []
    database.close()


def test_ledgers_old_and_new_refuse_a_change(old: str):
    database = Database(old)
    move = {
        "project": "p", "experiment": "b@1", "event": "stage", "stage": 0, "share": 0.0, "champion": "a",
        "challenger": "b", "partition": "x", "decision": {}, "reason": "begins", "actor": "sensor", "key": "k",
    }  # fmt: skip
    assert database.append(tables.rollouts, **move) == 1
    for table in (tables.served_ledger, tables.rollouts):
        for statement in (table.update().values(reason="other"), table.delete()):
            with pytest.raises(sa.exc.DatabaseError, match="is append-only"), database.begin() as connection:
                connection.execute(statement)
    database.close()


def test_the_new_tables_take_rows(old: str):
    database, place = Database(old), {"project": "p", "segment": "s", "offset": 2**40, "finished": False, "at": AT}
    for _ in range(2):
        with database.begin() as connection:
            insert_new(connection, tables.carried_segments, [place], tables.carried_segments.c.segment)
    assert [row["offset"] for row in database.rows(tables.carried_segments)] == [2**40]
    database.append(tables.label_inbox, project="p", request_id="r", label={"a": 1}, signature="x")
    assert database.rows(tables.label_inbox)[0]["label"] == {"a": 1}
    database.close()


def test_a_migration_that_is_cut_off_leaves_the_old_one_whole(old: str, monkeypatch: pytest.MonkeyPatch):
    import dl_pipelines.store.append_only as guards

    def cut(*_: object) -> None:
        raise RuntimeError("cut off")

    with monkeypatch.context() as patch:
        patch.setattr(guards, "_sqlite", cut)
        patch.setattr(guards, "_postgres", cut)
        with pytest.raises(RuntimeError, match="cut off"):
            Database(old).rows(tables.alerts)
    plain = sa.create_engine(Database(old).url)
    schema = tables.SCHEMA if plain.dialect.name == "postgresql" else None
    found = sa.inspect(plain)
    assert set(found.get_table_names(schema=schema)) == {*COLUMNS, "labels", tables.VERSION_TABLE}
    assert "actor" not in {column["name"] for column in found.get_columns("served_ledger", schema=schema)}
    plain.dispose()
    database = Database(old)
    assert len(database.rows(tables.served_ledger)) == 2
    assert version(database) == HEAD
    database.close()


def test_two_that_open_it_at_once_migrate_it_once(old: str):
    found: list[int] = []

    def work() -> None:
        database = Database(old)
        found.append(len(database.rows(tables.served_ledger)))
        database.close()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [2, 2]
