import contextlib
from datetime import date

import pytest

from dl_pipelines.lifecycle import promotion
from dl_pipelines.store.database import Database
from dl_pipelines.store.tables import promotion_evidence
from resources.workspaces import RESOURCE, WorkspaceResource
from sensors.jobs import PROJECT, RANGE, REASON, RETRAIN, daily_request, promotion_job

from .conftest import day, put

FOUND = [date(2026, 1, number) for number in (1, 2, 3, 5, 8)]


def ask(brief, workspace, newest):
    return daily_request(brief, workspace, FOUND, newest, "base", "because", "key")


def test_a_daily_request_brings_what_is_missing(brief, workspace):
    request = ask(brief, workspace, date(2026, 1, 5))
    assert (request.run_key, request.job_name, request.partition_key) == ("key", "digits_daily", None)
    assert (request.tags[RANGE[0]], request.tags[RANGE[1]]) == ("2026-01-01", "2026-01-05")
    assert (request.tags[RETRAIN], request.tags[REASON], request.tags[PROJECT]) == (
        "2026-01-05|base", "because", "digits",
    )  # fmt: skip


def test_it_always_brings_the_newest_day(brief, workspace):
    for number in (1, 2, 3, 5):
        put(workspace, "augmented_dataset", day(number))
    request = ask(brief, workspace, date(2026, 1, 5))
    assert request.partition_key == "2026-01-05"
    assert request.tags == {RETRAIN: "2026-01-05|base", REASON: "because", PROJECT: "digits"}


def test_it_begins_at_the_first_gap_and_needs_no_window_of_past_days(brief, workspace):
    for number in (1, 2, 5):
        put(workspace, "augmented_dataset", day(number))
    request = ask(brief, workspace, date(2026, 1, 8))
    assert (request.tags[RANGE[0]], request.tags[RANGE[1]]) == ("2026-01-03", "2026-01-08")


@pytest.fixture
def promote(workspace, instance, brief):
    def do(evidence, brief=brief, tags=None):
        return promotion_job(brief).execute_in_process(
            instance=instance, raise_on_error=False, tags=tags,
            run_config={"ops": {"digits_promote": {"config": {"evidence": evidence}}}},
            resources={RESOURCE: WorkspaceResource(home=str(workspace.home.root))},
        )  # fmt: skip

    return do


def reason(result):
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    return failure.step_failure_data.user_failure_data.description


def test_a_promotion_that_is_refused_fails_in_the_words_of_the_library(promote, workspace, make_brief):
    assert reason(promote(7)).startswith("found no promotion evidence 7 of digits; expected an id")
    row = {"champion": "old", "challenger": "new", "partition": "2026-01-02|base", "metric": "accuracy", "rows": 100,
           "difference": 0.0, "low": -0.004, "high": 0.004, "decision": "undecided", "reason": "measured"}  # fmt: skip
    with contextlib.closing(Database.of(workspace.home, workspace.project)) as database:
        number = database.append(promotion_evidence, project="digits", **row)
    assert reason(promote(number)).startswith(f"found the decision undecided in evidence {number} (measured); expected")
    allowed = make_brief(lifecycle={"margin": 0.01})
    assert reason(promote(number, allowed)).startswith("found nothing serving digits; expected old, which evidence")


@pytest.mark.parametrize(
    ("tags", "actor"), [({}, "promotion job"), ({"dagster/sensor_name": "digits_promotion_sensor"}, "sensor")]
)
def test_a_promotion_names_who_asked_for_it(promote, monkeypatch, tags, actor):
    asked = []
    monkeypatch.setattr(promotion, "read_evidence", lambda workspace, number: {"id": number})
    monkeypatch.setattr(promotion, "promote", lambda workspace, row, margin, actor: asked.append((row["id"], actor)))
    assert promote(7, tags=tags).success
    assert asked == [(7, actor)]
