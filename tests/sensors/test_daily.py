from datetime import UTC, datetime

import dagster as dg
import pytest

from resources.workspaces import RESOURCE, WorkspaceResource
from sensors.daily import retraining_schedule
from sensors.jobs import PROJECT, RANGE, REASON, RETRAIN

from .conftest import day, put


@pytest.fixture
def at(workspace, instance):
    """A function: what a schedule says at a time."""

    def do(brief, moment):
        context = dg.build_schedule_context(
            instance=instance, scheduled_execution_time=moment,
            resources={RESOURCE: WorkspaceResource(home=str(workspace.home.root))},
        )  # fmt: skip
        return retraining_schedule(brief)(context)

    return do


def test_when_it_runs(brief, make_brief):
    schedule = retraining_schedule(make_brief(lifecycle={"retrain_hour": 5}, data={"timezone": "Asia/Tokyo"}))
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 5 * * *", "Asia/Tokyo")
    assert (schedule.name, schedule.job_name) == ("digits_retraining", "digits_daily")
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING
    assert retraining_schedule(brief).cron_schedule == "0 3 * * *"


def test_it_asks_for_yesterday(brief, at, workspace):
    request = at(brief, datetime(2026, 1, 5, 3, tzinfo=UTC))
    assert request.run_key == "schedule:2026-01-04"
    assert request.job_name == "digits_daily"
    assert request.tags.items() >= {
        RETRAIN: "2026-01-04|base", REASON: "daily retraining of 2026-01-04", PROJECT: "digits",
        RANGE[0]: "2026-01-01", RANGE[1]: "2026-01-04",
    }.items()  # fmt: skip
    for number in range(1, 4):
        put(workspace, "augmented_dataset", day(number))
    request = at(brief, datetime(2026, 1, 5, 3, tzinfo=UTC))
    assert request.partition_key == "2026-01-04"
    assert RANGE[0] not in request.tags


def test_yesterday_is_that_of_the_time_zone(make_brief, at):
    moment = datetime(2026, 1, 4, 18, tzinfo=UTC)  # the 5th, 3 o'clock in Tokyo
    assert at(make_brief(data={"timezone": "Asia/Tokyo"}), moment).run_key == "schedule:2026-01-04"
    assert at(make_brief(data={"timezone": "UTC"}), moment).run_key == "schedule:2026-01-03"


def test_a_day_without_records_is_skipped_with_that_reason(brief, make_brief, at):
    skipped = at(brief, datetime(2026, 1, 10, 3, tzinfo=UTC))
    assert skipped.skip_message == "no records arrived on 2026-01-09; the last day with records is 2026-01-08"
    later = make_brief(data={"start": "2026-03-01"})
    assert at(later, datetime(2026, 1, 5, 3, tzinfo=UTC)).skip_message == "no records arrived on 2026-01-04"
