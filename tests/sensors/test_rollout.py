"""The sensor asks what is due and requests one run at a time; the job's run does it."""

import dagster as dg
import pytest

from dl_pipelines.lifecycle import experiment, verdict
from dl_pipelines.lifecycle.experiment import Due
from dl_pipelines.lifecycle.promotion import PromotionError
from resources.workspaces import RESOURCE, WorkspaceResource
from sensors.jobs import promotion_job, rollout_job
from sensors.promotion import promotion_sensor
from sensors.rollout import rollout_sensor


@pytest.fixture
def live(make_brief):
    return make_brief(lifecycle={"evidence": "live"})


@pytest.fixture
def sensor(live):
    return rollout_sensor(live, rollout_job(live))


@pytest.fixture
def due(monkeypatch):
    """A function: what is due from now on; returns what was asked."""
    asked = []

    def do(answer):
        def fake(workspace, rules, at, seen=""):
            asked.append((workspace.project, rules.lifecycle.evidence, seen))
            return answer

        monkeypatch.setattr(experiment, "due", fake)
        return asked

    return do


def test_it_is_on_by_default_and_looks_every_half_minute(sensor):
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    assert sensor.minimum_interval_seconds == 30


def test_a_held_out_project_is_told_so(brief, tick):
    result = tick(rollout_sensor(brief, rollout_job(brief)))
    assert result.run_requests == []
    assert result.skip_reason.skip_message == "lifecycle.evidence is held_out: no experiment is run"


def test_nothing_due_is_told_and_what_was_seen_is_the_cursor(sensor, tick, due):
    asked = due(Due(False, "new, stage 1: wait (too few)", "7:..."))
    result = tick(sensor)
    assert (result.run_requests, result.cursor) == ([], "7:...")
    assert result.skip_reason.skip_message == "new, stage 1: wait (too few)"
    tick(sensor, result.cursor)
    assert asked == [("digits", "live", ""), ("digits", "live", "7:...")]


def test_what_is_due_is_requested_again_until_it_is_done(sensor, tick, due):
    due(Due(True, "new, stage 1: roll_back (harmed)"))
    for _ in range(2):
        result = tick(sensor)
        (request,) = result.run_requests
        assert (request.run_key, result.cursor) == (None, ""), "a key would hold back a second try for ever"


def test_one_run_at_a_time(sensor, tick, due, live, instance):
    due(Due(True, "something"))
    run = instance.create_run_for_job(rollout_job(live), status=dg.DagsterRunStatus.STARTED)
    assert tick(sensor).skip_message == "a step is being carried out"
    instance.report_run_failed(run)
    assert len(tick(sensor).run_requests) == 1


def execute(job, workspace, instance, **config):
    resources = {RESOURCE: WorkspaceResource(home=str(workspace.home.root))}
    return job.execute_in_process(
        instance=instance, resources=resources, raise_on_error=False, run_config=config or None
    )


def test_the_run_does_a_step_and_says_what_went_wrong(live, workspace, instance, monkeypatch):
    done = []
    monkeypatch.setattr(experiment, "step", lambda workspace, rules, at: done.append((workspace.project, at > 1e9)))
    job = rollout_job(live)
    assert execute(job, workspace, instance).success and done == [("digits", True)]

    def fail(*given):
        raise PromotionError("found this; expected that")

    monkeypatch.setattr(experiment, "step", fail)
    result = execute(job, workspace, instance)
    (event,) = [event for event in result.all_events if event.is_step_failure]
    assert event.step_failure_data.user_failure_data.description == "found this; expected that"


def test_the_promotion_sensor_leaves_live_projects_alone(live, tick):
    told = "lifecycle.evidence is live: the rollout sensor decides"
    assert tick(promotion_sensor(live, promotion_job(live))).skip_message == told


def test_the_promotion_job_of_a_live_project_accepts_what_was_proposed(live, workspace, instance, monkeypatch):
    asked = []
    monkeypatch.setattr(verdict, "accept", lambda workspace, rules, actor, proposal: asked.append((actor, proposal)))
    config = {"ops": {"digits_promote": {"config": {"evidence": 7}}}}
    assert execute(promotion_job(live), workspace, instance, **config).success
    assert asked == [("promotion job", 7)]
