"""A query as records, from SQLite and a real PostgreSQL; what is wrong is told without the secret."""

from __future__ import annotations

import sqlite3
import traceback
from datetime import date
from pathlib import Path

import pytest

from dl_pipelines.data.sources import series_table
from dl_pipelines.data.sources.base import SourceError
from dl_pipelines.data.sources.sql import Sql
from dl_pipelines.tasks.forecasting import Forecasting

TASK = Forecasting(Forecasting.Params(target="sold", known=("price",), categories=("kind",)))
DAY = date(2024, 3, 31)
QUERY = "SELECT day, shop, sold, price, kind FROM sales"


def source(**params) -> Sql:
    return Sql(Sql.Params(**({"url": "${SALES_URL}", "query": QUERY, "time": "day", "item": "shop"} | params)))


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch):
    monkeypatch.setattr(series_table, "_REMEMBERED", {})


@pytest.fixture
def sqlite(tmp_path: Path, monkeypatch) -> Path:
    """A database with three sales, named by the environment."""
    file = tmp_path / "secret-folder" / "sales.db"
    file.parent.mkdir()
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE sales (day TEXT, shop TEXT, sold REAL, price, kind TEXT)")
        rows = [("2024-03-31", "north", 5, 1.5, "tea"), ("2024-03-31", "south", None, "2.5", "coffee"),
                ("2024-04-01", "north", 6, None, None)]  # fmt: skip
        connection.executemany("INSERT INTO sales VALUES (?, ?, ?, ?, ?)", rows)
    connection.close()
    monkeypatch.setenv("SALES_URL", f"sqlite:///{file}")
    return file


def refusal(found: Sql) -> str:
    """The error's text; no line of its traceback, causes included, tells any of the secret."""
    with pytest.raises(SourceError) as caught:
        found.read_day(found.days()[0], TASK)
    told = "".join(traceback.format_exception(caught.value))
    assert not any(secret in told for secret in ("secret-folder", "hunter2", "10.9.8.7", "spy", "vault"))
    return str(caught.value)


def test_a_row_is_a_record(sqlite):
    found = source()
    assert found.days() == [DAY, date(2024, 4, 1)] and found.default_day() == date(2024, 4, 1)
    table, quarantined = found.read_day(DAY, TASK)
    assert table.schema.equals(TASK.arrow_schema()) and not quarantined
    seen = [[record[name] for name in ("id", "sold", "price", "kind", "uri")] for record in table.to_pylist()]
    assert seen == [["north|2024-03-31", 5.0, 1.5, "tea", "sql:${SALES_URL}"],
                    ["south|2024-03-31", None, 2.5, "coffee", "sql:${SALES_URL}"]]  # fmt: skip


def test_a_query_may_compute_and_be_commented(sqlite):
    days = "SELECT day, SUM(sold) AS sold, 0 price, ':x; %' kind FROM sales GROUP BY day"
    query = f"-- by day; all shops\nWITH s AS ({days}) SELECT * FROM s;\n"
    (record,) = source(query=query, item=None, series="all").read_day(DAY, TASK)[0].to_pylist()
    assert (record["id"], record["sold"], record["kind"]) == ("all|2024-03-31", 5.0, ":x; %")


def test_only_reading_is_allowed(sqlite):
    for query in ("DELETE FROM sales", "/* SELECT */ DROP TABLE sales", "SELECT 1; COMMIT; DROP TABLE sales", "--"):
        with pytest.raises(ValueError, match=r"one SELECT \(or WITH ... SELECT\): nothing is written to the database"):
            source(query=query)
    assert "attempt to write a readonly database" in refusal(
        source(query="WITH s AS (SELECT 1) DELETE FROM sales RETURNING *")
    )
    assert len(source().read_day(DAY, TASK)[0]) == 2


def test_a_secret_is_never_in_a_brief():
    with pytest.raises(ValueError, match="a reference to an environment variable, written") as caught:
        source(url="postgresql://spy:hunter2@10.9.8.7/vault")
    assert "secrets are never in a brief" in str(caught.value)


def test_nothing_told_holds_the_secret(sqlite):
    found = source()
    assert "secret-folder" not in f"{found.describe()} {found.params} {found.read_day(DAY, TASK)}"
    assert found.describe()["access"] == "a read-only query of the database in ${SALES_URL}"


def test_a_missing_variable_is_named(monkeypatch):
    monkeypatch.delenv("SALES_URL", raising=False)
    assert refusal(source()) == (
        "found no environment variable SALES_URL; expected the database's SQLAlchemy URL (data.source.params.url); "
        "set it"
    )


def test_no_url_is_told(monkeypatch):
    monkeypatch.setenv("SALES_URL", "hunter2@vault")
    assert refusal(source()) == (
        "found no SQLAlchemy URL in ${SALES_URL}; expected one such as postgresql://USER@HOST/NAME or sqlite:////PATH; "
        "mend the environment variable"
    )
    monkeypatch.setenv("SALES_URL", "oracle9://spy:hunter2@10.9.8.7/vault")
    assert "Can't load plugin: sqlalchemy.dialects:oracle9" in refusal(source())


def test_no_database_file_is_made(sqlite, monkeypatch):
    other = sqlite.with_name("other.db")
    monkeypatch.setenv("SALES_URL", f"sqlite:///{other}")
    assert refusal(source()) == (
        "found no file at the path of the database in ${SALES_URL}; expected an SQLite database; mend the environment "
        "variable"
    )
    assert not other.exists()


def test_a_wrong_query_is_told(sqlite):
    assert refusal(source(query="SELECT day FROM sails")) == (
        "found no answer from the database in ${SALES_URL} (no such table: sails); expected a database that answers "
        "data.source.params.query; mend the query or the environment variable, or start the database"
    )
    assert refusal(source(query="SELECT day, day FROM sales")).startswith("found the column day twice in the result")


def test_a_missing_column_is_told(sqlite):
    assert refusal(source(query="SELECT day, shop, sold, price AS prize, kind FROM sales")) == (
        "found the columns day, shop, sold, prize, kind in the query's result (${SALES_URL}); expected sold, price, "
        "kind: no price; mend problem.task.params (is price called prize?)"
    )
    assert "expected date, the time of a record; mend data.source.params.time" in refusal(source(time="date"))


def test_no_row_is_told(sqlite):
    assert refusal(source(query=QUERY + " WHERE sold > 99")).startswith("found no record in the query's result")


def test_a_time_that_cannot_be_read_is_overlooked(sqlite):
    found = source(query=f"{QUERY} UNION ALL SELECT 'soon', 'west', 1, 1, 'tea'")
    assert found.overlooked()[0].uri == "sql:${SALES_URL}, record 4"


@pytest.mark.postgres
def test_postgresql_for_real(postgres_url, monkeypatch):
    import sqlalchemy as sa

    monkeypatch.setenv("SALES_URL", postgres_url)
    engine = sa.create_engine(postgres_url.replace("postgresql://", "postgresql+psycopg2://"))
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE sales (day timestamptz, shop text, sold numeric(9, 2), price float, kind text)"
        )
        connection.exec_driver_sql(  # the second is 1 April in Berlin, and summer time began that day
            "INSERT INTO sales VALUES ('2024-03-30 23:00Z', 'north', 5.25, 1.5, 'tea'), "
            "('2024-03-31 22:00Z', 'north', 6, NULL, NULL), ('2024-03-31 21:59:59Z', 'south', 7, 'Infinity', 'x')"
        )
    engine.dispose()
    found = source(timezone="Europe/Berlin")
    assert found.days() == [DAY, date(2024, 4, 1)]
    table, quarantined = found.read_day(DAY, TASK)
    (record,) = table.to_pylist()
    assert (record["id"], record["sold"], record["price"], record["kind"]) == ("north|2024-03-31", 5.25, 1.5, "tea")
    assert [item.reason for item in quarantined] == ["price is infinite"]
    writing = "WITH gone AS (DELETE FROM sales RETURNING *) SELECT * FROM gone"
    assert "in a read-only transaction" in refusal(source(query=writing))
    assert 'relation "sails" does not exist' in refusal(source(query="SELECT * FROM sails"))
    monkeypatch.setattr(series_table, "_REMEMBERED", {})
    assert len(source(timezone="Europe/Berlin").read_day(DAY, TASK)[0]) == 1, "nothing was deleted"


@pytest.mark.postgres
def test_a_database_that_is_not_there_is_told(postgres_url, monkeypatch):
    port = postgres_url.rpartition(":")[2].partition("/")[0]
    monkeypatch.setenv("SALES_URL", f"postgresql://spy:hunter2@127.0.0.1:{port}/vault")
    assert 'FATAL: role "***" does not exist' in refusal(source())
    monkeypatch.setenv("SALES_URL", "postgresql://spy:hunter2@127.0.0.1:1/vault")
    message = refusal(source())
    assert "Connection refused" in message and "127.0.0.1" not in message
