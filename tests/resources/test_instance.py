"""Dagster's own storage: SQLite in the home, or a real PostgreSQL that no file of the home knows the password of."""

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import dagster as dg
import psycopg2
import pytest
import yaml

from dl_pipelines.store.database import Database, DatabaseError
from dl_pipelines.store.home import Home
from dl_pipelines.store.tables import test_reads as reads
from resources.instance import DAGSTER_URL, POOL, open_instance, prepare

PASSWORD = "hunter2/ %@:#?"
"""With everything that a URL has to quote."""


@pytest.fixture
def home(tmp_path, monkeypatch) -> Home:
    monkeypatch.delenv("DLP_DATABASE_URL", raising=False)
    for name in (DAGSTER_URL, "DAGSTER_HOME"):
        monkeypatch.setenv(name, "set by us, taken back after the test")
    return Home(tmp_path / "home")


@pytest.fixture
def guarded_url(postgres_url: str) -> Iterator[str]:
    """An empty database whose owner has to give a password; the server trusts everybody else."""
    connection = psycopg2.connect(postgres_url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_database(), current_setting('hba_file')")
        database, rules = cursor.fetchone()
        owner = f"owner_{time.monotonic_ns()}"
        cursor.execute(f"CREATE ROLE {owner} LOGIN PASSWORD %s", (PASSWORD,))
        cursor.execute(f"ALTER DATABASE {database} OWNER TO {owner}")
        before = Path(rules).read_text()
        Path(rules).write_text(f"host all {owner} 127.0.0.1/32 scram-sha-256\n{before}")
        cursor.execute("SELECT pg_reload_conf()")
    url = postgres_url.replace("dlp@", f"{owner}:{quote(PASSWORD, safe='')}@")
    wait_until_asked(url.replace(quote(PASSWORD, safe=""), "wrong"))
    yield url
    with connection.cursor() as cursor:
        cursor.execute(f"REASSIGN OWNED BY {owner} TO dlp")
        cursor.execute(f"DROP OWNED BY {owner}")
        cursor.execute(f"DROP ROLE {owner}")
        Path(rules).write_text(before)
        cursor.execute("SELECT pg_reload_conf()")
    connection.close()


def wait_until_asked(wrong: str) -> None:
    """The server reads its rules again when it gets to it."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            psycopg2.connect(wrong).close()
        except psycopg2.OperationalError:
            return
        time.sleep(0.05)
    raise AssertionError("the server still trusts a wrong password")


@dg.asset(pool=POOL)
def counted(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"rows": 7})


JOB = dg.Definitions(assets=[counted], executor=dg.in_process_executor).resolve_implicit_global_asset_job_def()


def configuration(home: Home) -> dict:
    return yaml.safe_load((home.dagster / "dagster.yaml").read_text())


def holds(home: Home, secret: str) -> list[Path]:
    """Files below a home in which a text stands, in any encoding of ours."""
    spelled = [form.encode() for form in (secret, quote(secret, safe=""), yaml.safe_dump(secret).strip())]
    files = [path for path in home.root.rglob("*") if path.is_file()]
    assert files
    return [path for path in files if any(form in path.read_bytes() for form in spelled)]


def test_by_default_everything_is_in_the_home(home):
    with open_instance(home) as instance:
        assert JOB.execute_in_process(instance=instance).success
        assert instance.root_directory == str(home.dagster)
    assert "storage" not in configuration(home)
    assert configuration(home)["telemetry"] == {"enabled": False}
    assert list(home.dagster.rglob("*.db"))


def test_what_ran_is_seen_by_the_next_command(home):
    with open_instance(home) as instance:
        run = JOB.execute_in_process(instance=instance).run_id
    with open_instance(home) as instance:
        assert [record.run_id for record in instance.get_runs()] == [run]
        event = instance.get_latest_materialization_event(dg.AssetKey("counted"))
        assert event.asset_materialization.metadata["rows"].value == 7


def test_one_run_and_one_step_of_the_machine_at_a_time(home):
    with open_instance(home) as instance:
        assert JOB.execute_in_process(instance=instance).success
        assert instance.get_concurrency_config().run_queue_config.max_concurrent_runs == 1
        pools = instance.event_log_storage.get_concurrency_info(POOL)
        assert (pools.slot_count, pools.active_slot_count) == (1, 0)
        claims = [instance.event_log_storage.claim_concurrency_slot(POOL, "run", step) for step in ("first", "second")]
        assert [claim.is_claimed for claim in claims] == [True, False]


def test_a_run_that_ended_keeps_no_slot(home):
    """A run that was killed gives nothing back by itself; one that goes on keeps what it has."""
    with open_instance(home) as instance:
        ended = JOB.execute_in_process(instance=instance).run_id
        goes_on = instance.create_run_for_job(JOB, status=dg.DagsterRunStatus.STARTED).run_id
        storage = instance.event_log_storage
        assert storage.claim_concurrency_slot(POOL, ended, "counted").is_claimed
        assert not storage.claim_concurrency_slot(POOL, goes_on, "counted").is_claimed
    with open_instance(home) as instance:
        storage = instance.event_log_storage
        assert storage.claim_concurrency_slot(POOL, goes_on, "counted").is_claimed
    with open_instance(home) as instance:
        assert instance.event_log_storage.get_concurrency_info(POOL).active_run_ids == {goes_on}


def test_the_daemon_gives_slots_back_too(home):
    with open_instance(home) as instance:
        assert "MONITORING" in instance.get_required_daemon_types()
        assert instance.run_monitoring_poll_interval_seconds == 15
        assert instance.run_monitoring_settings["free_slots_after_run_end_seconds"] == 15


def test_settings_that_did_not_change_are_not_written_again(home):
    prepare(home)
    path = home.dagster / "dagster.yaml"
    before = path.stat().st_ino
    prepare(home)
    assert path.stat().st_ino == before
    path.write_text("telemetry: {enabled: true}\n")
    prepare(home)
    assert configuration(home)["telemetry"] == {"enabled": False}


def test_our_sqlite_url_leaves_dagster_in_the_home(home, monkeypatch, tmp_path):
    monkeypatch.setenv("DLP_DATABASE_URL", f"sqlite:///{tmp_path / 'ours.sqlite'}")
    prepare(home)
    assert "storage" not in configuration(home)


@pytest.mark.postgres
def test_postgres_holds_dagsters_tables_beside_ours(home, monkeypatch, postgres_url):
    monkeypatch.setenv("DLP_DATABASE_URL", postgres_url)
    with open_instance(home) as instance:
        run = JOB.execute_in_process(instance=instance).run_id
    Database.of(home).append(reads, project="little", reader="evaluation", partition="2026-01-01", rows=7)

    with psycopg2.connect(postgres_url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT status FROM public.runs WHERE run_id = %s", (run,))
        assert cursor.fetchall() == [("SUCCESS",)]
        cursor.execute("SELECT asset_key FROM public.event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION'")
        assert cursor.fetchall() == [('["counted"]',)]
        cursor.execute("SELECT project, rows FROM dlp.test_reads")
        assert cursor.fetchall() == [("little", 7)]
        cursor.execute(
            "SELECT table_schema, table_name FROM information_schema.tables WHERE table_name LIKE '%alembic%'"
        )
        assert sorted(cursor.fetchall()) == [("dlp", "dlp_alembic_version"), ("public", "alembic_version")]
    connection.close()
    assert not list(home.root.rglob("*.db"))
    assert not list(home.root.rglob("*.sqlite"))


@pytest.mark.postgres
def test_dagster_finds_its_tables_again_whatever_the_user_is_called(home, monkeypatch, postgres_url):
    """The tests' user is called as our schema, which Postgres then looks into first, once it is there."""
    assert postgres_url.startswith("postgresql://dlp@")
    monkeypatch.setenv("DLP_DATABASE_URL", postgres_url)
    with open_instance(home) as instance:
        run = JOB.execute_in_process(instance=instance).run_id
    with open_instance(home) as instance:
        assert [record.run_id for record in instance.get_runs()] == [run]
    monkeypatch.setenv("DLP_DATABASE_URL", f"{postgres_url}?options=-csearch_path%3Dpublic")
    with open_instance(home) as instance:
        assert [record.run_id for record in instance.get_runs()] == [run]


@pytest.mark.postgres
def test_the_password_is_in_no_file(home, monkeypatch, guarded_url):
    monkeypatch.setenv("DLP_DATABASE_URL", guarded_url)
    with open_instance(home) as instance:
        assert JOB.execute_in_process(instance=instance, tags={"dlp/project": "little"}).success
        assert PASSWORD not in str(instance.get_ref())
    assert configuration(home)["storage"] == {"postgres": {"postgres_url": {"env": DAGSTER_URL}}}
    assert holds(home, PASSWORD) == []
    (home.logs / "leak").write_text(guarded_url)
    assert holds(home, PASSWORD) == [home.logs / "leak"], "the search finds what it looks for"


@pytest.mark.postgres
def test_a_wrong_password_is_told_at_once_and_not_shown(home, monkeypatch, guarded_url):
    monkeypatch.setenv("DLP_DATABASE_URL", guarded_url.replace(quote(PASSWORD, safe=""), "swordfish"))
    started = time.monotonic()
    with pytest.raises(DatabaseError) as refused, open_instance(home):
        pass
    assert time.monotonic() - started < 10, "Dagster itself tries for 20 seconds"
    words = str(refused.value)
    assert words.startswith("found no usable database at postgresql+psycopg2://owner_")
    assert "password authentication failed" in words
    assert words.endswith("; expected a SQLAlchemy URL of SQLite or Postgres in DLP_DATABASE_URL")
    assert "swordfish" not in words
    assert not [path for path in home.root.rglob("*") if path.is_file()], "nothing is written before it answers"


def test_a_server_that_is_not_there_is_told_at_once(home, monkeypatch):
    monkeypatch.setenv("DLP_DATABASE_URL", "postgresql://user:swordfish@127.0.0.1:1/ledger")
    with pytest.raises(
        DatabaseError, match=r"found no usable database at .*127\.0\.0\.1:1/ledger .*Connection refused"
    ):
        prepare(home)
