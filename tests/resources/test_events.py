"""Events that are written together are those that Dagster writes one by one, and others can write meanwhile."""

import sqlite3
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage

from dl_pipelines.store.home import Home
from resources import events
from resources.events import EventLog, together
from resources.instance import open_instance

DAYS = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-01-13")
RANGE = {"dagster/asset_partition_range_start": "2026-01-02", "dagster/asset_partition_range_end": "2026-01-11"}
CHECK = dg.AssetCheckKey(dg.AssetKey("stage"), "sound")


@dg.asset(
    name="stage",
    partitions_def=DAYS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    check_specs=[dg.AssetCheckSpec("sound", asset="stage", partitions_def=DAYS)],
    output_required=False,
)
def stage(context: dg.AssetExecutionContext):
    """Ten days in one run, one of which is not sound."""
    yield dg.Output(None, context.assets_def.get_output_name_for_asset_check_key(CHECK))
    with together(context.instance):
        yield dg.MaterializeResult(asset_key="stage")
        for day in context.partition_keys:
            yield dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey("stage"), check_name="sound", passed=day != "2026-01-05", partition=day,
                metadata={"day": day}, severity=dg.AssetCheckSeverity.WARN,
            )  # fmt: skip


def stored(folder: Path) -> dict[str, list[tuple]]:
    """What the index of a home's event log holds of the stage, without times and ids of runs."""
    connection = sqlite3.connect(folder / "history" / "runs" / "index.db")
    try:
        checks = connection.execute(
            "select check_name, partition, execution_status, evaluation_event_storage_id > 0 "
            "from asset_check_executions order by partition"
        ).fetchall()
        log = connection.execute(
            "select dagster_event_type, asset_key, partition from event_logs order by dagster_event_type, partition"
        ).fetchall()
        links = connection.execute(
            "select count(*) from asset_check_executions c join event_logs e on c.evaluation_event_storage_id = e.id "
            "and e.dagster_event_type = 'ASSET_CHECK_EVALUATION' and e.event like '%' || c.partition || '%'"
        ).fetchall()
        last = connection.execute(
            "select asset_key, last_materialization like '%2026-01-11%', last_run_id is null from asset_keys"
        ).fetchall()
    finally:
        connection.close()
    return {"checks": checks, "log": log, "links": links, "last": last}


def ran(folder: Path, patch: pytest.MonkeyPatch, ours: bool) -> dict[str, list[tuple]]:
    patch.delenv("DLP_DATABASE_URL", raising=False)
    for name in ("DAGSTER_HOME", *events.BATCH):
        patch.setenv(name, "")
    with open_instance(Home(folder)) as instance:
        assert isinstance(instance.event_log_storage, EventLog)
        if not ours:
            patch.setattr(EventLog, "store_event", SqliteEventLogStorage.store_event)
            patch.setattr(EventLog, "store_event_batch", SqliteEventLogStorage.store_event_batch)
            patch.setattr(events, "COMMIT_SECONDS", -1)
        job = dg.Definitions(assets=[stage]).resolve_implicit_global_asset_job_def()
        result = job.execute_in_process(instance=instance, tags=RANGE)
        assert result.success and len(result.get_asset_check_evaluations()) == 10
        assert len(instance.all_logs(result.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)) == 10
        assert instance.get_materialized_partitions(dg.AssetKey("stage")) == {
            f"2026-01-{day:02d}" for day in range(2, 12)
        }
    return stored(Home(folder).dagster)


@pytest.mark.parametrize("at_once", [1000, 3])
def test_what_is_stored_is_what_dagster_stores(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(events, "CHECKS", at_once)
    ours = ran(tmp_path / "ours", monkeypatch, True)
    with pytest.MonkeyPatch.context() as patch:
        assert ours == ran(tmp_path / "theirs", patch, False)
    assert ours["checks"] == [
        ("sound", f"2026-01-{day:02d}", "FAILED" if day == 5 else "SUCCEEDED", 1) for day in range(2, 12)
    ]
    assert ours["links"] == [(10,)]
    assert ours["last"] == [('["stage"]', 1, 0)]


def test_another_process_can_write_when_a_second_is_over(tmp_path, monkeypatch):
    log = EventLog(str(tmp_path))
    monkeypatch.setattr(events, "COMMIT_SECONDS", 0)
    with log.together():
        log.store_event(_said("one"))
        other = SqliteEventLogStorage(str(tmp_path))
        with log.run_connection("run") as connection:  # what was open is given back first
            assert connection.in_transaction()
        assert [record.event_log_entry.user_message for record in other.get_records_for_run("run").records] == ["one"]


def test_what_was_stored_stays_when_the_block_fails(tmp_path):
    log = EventLog(str(tmp_path))
    with pytest.raises(RuntimeError), log.together(), log.together():
        log.store_event(_said("one"))
        raise RuntimeError
    assert len(SqliteEventLogStorage(str(tmp_path)).get_records_for_run("run").records) == 1


def _said(message: str) -> dg.EventLogEntry:
    return dg.EventLogEntry(
        error_info=None, level=20, user_message=message, run_id="run", timestamp=1.0, step_key=None, job_name=None,
        dagster_event=None,
    )  # fmt: skip
