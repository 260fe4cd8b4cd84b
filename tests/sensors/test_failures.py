import contextlib
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import dagster as dg
import pytest

from dl_pipelines.store.database import Database
from dl_pipelines.store.tables import alerts
from resources.workspaces import RESOURCE, WorkspaceResource
from sensors.failures import failure_sensor
from sensors.jobs import PROJECT


@pytest.fixture
def failed(instance, workspace):
    """A function: what a sensor says after a run of this job failed."""

    def do(sensor, job, **tags):
        ran = job.execute_in_process(instance=instance, tags=tags, raise_on_error=False)
        assert not ran.success
        context = dg.build_run_status_sensor_context(
            sensor_name=sensor.name, dagster_event=ran.get_run_failure_event(), dagster_instance=instance,
            dagster_run=ran.dagster_run, resources={RESOURCE: WorkspaceResource(home=str(workspace.home.root))},
        ).for_run_failure()  # fmt: skip
        return ran.run_id, sensor(context)

    return do


def told(workspace):
    with contextlib.closing(Database.of(workspace.home, workspace.project)) as database:
        return database.rows(alerts)


@dg.op
def train():
    raise dg.Failure("found 3 train records; expected at least 4", allow_retries=False)


@dg.job
def model():
    train()


@dg.op
def crash():
    raise RuntimeError("boom")


@dg.job
def broken():
    crash()


def test_it_is_on_by_default_and_sees_runs_of_our_own_process(brief):
    sensor = failure_sensor({"digits": brief})
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    assert sensor.name == "run_failure_alert"


def test_a_failed_run_is_told_once_in_the_words_of_the_library(brief, failed, workspace, caplog):
    sensor = failure_sensor({"digits": brief})
    run_id, result = failed(sensor, model, **{PROJECT: "digits"})
    assert result is None
    (row,) = told(workspace)
    assert row["subject"] == f"digits: the run {run_id[:8]} failed in train"
    assert (row["project"], row["kind"], row["key"], row["delivered"]) == (
        "digits",
        "run_failure",
        f"run:{run_id}",
        "log",
    )
    assert row["body"] == {
        "run": run_id, "job": "model", "steps": ["train"], "message": "found 3 train records; expected at least 4",
    }  # fmt: skip
    assert f"digits: the run {run_id[:8]} failed in train" in caplog.text


def test_a_crash_is_told_by_the_event(brief, failed, workspace):
    failed(failure_sensor({"digits": brief}), broken, **{PROJECT: "digits"})
    (row,) = told(workspace)
    assert row["body"]["steps"] == ["crash"]
    assert "crash" in row["body"]["message"]


def test_a_run_of_another_project_is_left_alone(brief, failed, workspace):
    run_id, result = failed(failure_sensor({"digits": brief}), model, **{PROJECT: "other"})
    assert result.skip_message == f"run {run_id} is of no project of ours"
    assert told(workspace) == []


def test_the_webhook_of_the_brief_is_posted_to(make_brief, failed, workspace, monkeypatch):
    posted = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self):
            posted.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            monkeypatch.setenv("ALERTS", f"http://127.0.0.1:{server.server_port}/")
            brief = make_brief(monitoring={"webhook": "${ALERTS}"})
            run_id, _ = failed(failure_sensor({"digits": brief}), model, **{PROJECT: "digits"})
        finally:
            server.shutdown()
            thread.join()
    assert len(posted) == 1
    assert run_id in posted[0]
    assert told(workspace)[0]["delivered"] == "webhook"
