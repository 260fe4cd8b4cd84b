import dagster as dg
import pytest

from dl_pipelines.lifecycle.retraining import requested, settle_retraining
from dl_pipelines.store import durable
from sensors.drift import drift_sensor
from sensors.jobs import PROJECT, RANGE, REASON, RETRAIN, daily_job

from .conftest import NEWEST, day, materialise, put


def window(name, decision):
    return {"name": name, "decision": decision, "features": [{"name": "mean", "drifted": decision == "alarm"}]}


QUIET = {"windows": [window("calm", "quiet")]}
ALARM = {"windows": [window("calm", "quiet"), window("shifted", "alarm")]}


@pytest.fixture
def sensor(brief):
    return drift_sensor(brief, daily_job(brief))


@pytest.fixture
def report(workspace, instance, brief):
    """A function: a drift report that was made and materialised."""

    def do(partition, content, made=0):
        artifact = put(workspace, "drift_report", partition, content, made)
        materialise(instance, brief, artifact, partition)
        return artifact

    return do


def test_it_is_on_by_default(sensor):
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING


def test_without_a_report_nothing_happens(sensor, tick):
    assert tick(sensor).skip_message == "no new drift report"


def test_a_quiet_report_is_skipped_with_its_reason_and_not_read_twice(sensor, tick, report):
    report(day(4, "base"), QUIET)
    result = tick(sensor)
    assert result.skip_reason.skip_message == "2026-01-04|base: no window alarms (calm quiet)"
    assert result.run_requests == []
    assert tick(sensor, result.cursor).skip_message == "no new drift report"


def test_an_alarm_requests_the_days_up_to_the_newest(sensor, tick, report, workspace):
    made = report(day(4, "base"), ALARM)
    result = tick(sensor)
    (request,) = result.run_requests
    assert request.run_key == f"drift:{made.short}:base"
    assert request.job_name == "digits_daily"
    assert request.partition_key is None
    assert request.tags == {
        RETRAIN: "2026-01-08|base", REASON: "drift in shifted (mean)", PROJECT: "digits",
        RANGE[0]: "2026-01-01", RANGE[1]: "2026-01-08",
    }  # fmt: skip
    (stored,) = requested(workspace).values()
    assert (stored.key, stored.day, stored.report) == (request.run_key, NEWEST, made.digest)
    assert tick(sensor, result.cursor).skip_message == "no new drift report"


def test_days_that_are_there_are_not_asked_for(sensor, tick, report, workspace):
    for number in range(1, 7):
        put(workspace, "augmented_dataset", day(number))
    report(day(4, "base"), ALARM)
    (request,) = tick(sensor).run_requests
    assert (request.tags[RANGE[0]], request.tags[RANGE[1]]) == ("2026-01-07", "2026-01-08")
    for number in (7, 8):
        put(workspace, "augmented_dataset", day(number))
    (request,) = tick(sensor).run_requests
    assert request.partition_key == "2026-01-08"
    assert RANGE[0] not in request.tags


def test_days_before_the_window_are_not_asked_for(make_brief, tick, report):
    brief = make_brief(data={"window_days": 3})
    report(day(4, "base"), ALARM)
    (request,) = tick(drift_sensor(brief, daily_job(brief))).run_requests
    assert (request.tags[RANGE[0]], request.tags[RANGE[1]]) == ("2026-01-06", "2026-01-08")


def test_the_same_report_twice_is_one_request(sensor, tick, report, instance):
    made = report(day(4, "base"), ALARM)
    report(day(4, "base"), ALARM)
    first = tick(sensor)
    assert [request.run_key for request in first.run_requests] == [f"drift:{made.short}:base"]
    instance.create_run_for_job(_empty, tags={"dagster/run_key": f"drift:{made.short}:base"})
    report(day(4, "base"), ALARM)
    second = tick(sensor, first.cursor)
    assert second.run_requests == []
    assert second.skip_reason.skip_message == (
        f"2026-01-04|base: drift in shifted (mean), and drift:{made.short}:base was requested already"
    )


@dg.job
def _empty():
    pass


def test_what_the_command_line_stored_is_executed(sensor, tick, report, workspace, brief):
    made = report(day(4, "base"), ALARM)
    asked = settle_retraining(workspace, made, day(4, "base"), [day(5).day, day(6).day], True)
    (request,) = tick(sensor).run_requests
    assert request.run_key == asked.key
    assert request.tags[RETRAIN] == "2026-01-06|base", "the day that was told to the user"


def test_two_reports_ask_for_one_model(sensor, tick, report):
    made = report(day(4, "base"), ALARM)
    report(day(5, "base"), ALARM)
    report(day(6, "base"), QUIET)
    result = tick(sensor)
    assert [request.run_key for request in result.run_requests] == [f"drift:{made.short}:base"]


def test_the_model_of_the_newest_day_asks_for_none(sensor, tick, report, workspace):
    report(day(8, "base"), ALARM)
    assert tick(sensor).skip_reason.skip_message == (
        "2026-01-08|base: drift in shifted (mean), but no records have arrived since the model's day"
    )
    assert requested(workspace) == {}


def test_experiments_and_briefs_that_say_no_ask_for_none(make_brief, tick, report, sensor):
    report(day(4, "wide"), ALARM)
    assert tick(sensor).skip_reason.skip_message == (
        "2026-01-04|wide: drift in shifted (mean), but wide is an experiment: only base is retrained"
    )
    brief = make_brief(lifecycle={"retrain_on_drift": False})
    report(day(5, "base"), ALARM)
    assert tick(drift_sensor(brief, daily_job(brief))).skip_reason.skip_message.endswith(
        "2026-01-05|base: drift in shifted (mean), but lifecycle.retrain_on_drift is off"
    )


def test_a_report_that_was_collected_does_not_stop_the_next(sensor, tick, report):
    durable.remove_tree(report(day(3, "base"), ALARM).path)
    assert "2026-01-03|base: found no manifest.json" in tick(sensor).skip_reason.skip_message
    made = report(day(4, "base"), ALARM)
    assert [request.run_key for request in tick(sensor).run_requests] == [f"drift:{made.short}:base"]
