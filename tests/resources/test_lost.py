import os
import signal
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from dl_pipelines.serving.process import birth
from dl_pipelines.store.home import Home
from resources.instance import open_instance
from resources.lost import BORN, PID, mark, process_tags, reap
from sensors.failures import lost_runs

ROOT = Path(__file__).parent.parent.parent
PROGRAM = """
import sys
from pathlib import Path
import dagster as dg
from dl_pipelines.store.home import Home
from resources.instance import open_instance
from resources.lost import mark

@dg.op
def wait(context):
    mark(context.instance, context.run)
    print(context.run_id, flush=True)
    sys.stdin.readline()

@dg.job
def slow():
    wait()

with open_instance(Home(Path(sys.argv[1]))) as instance:
    slow.execute_in_process(instance=instance)
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", "")
    return Home(tmp_path / "home")


@pytest.fixture
def elsewhere(home):
    """A run in another process: the process and the run's id, read when the run is under way."""
    command = [sys.executable, "-c", PROGRAM, str(home.root)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout
    run_id = process.stdout.readline().decode().strip()
    assert run_id, "the run did not start"
    yield process, run_id
    process.kill()
    process.communicate()


def status(instance, run_id):
    run = instance.get_run_by_id(run_id)
    assert run
    return run.status


def test_a_run_that_goes_on_is_left_alone(home, elsewhere):
    process, run_id = elsewhere
    with open_instance(home) as instance:
        assert reap(instance) == []
        assert status(instance, run_id) == dg.DagsterRunStatus.STARTED
        process.communicate(b"\n", timeout=60)
        assert reap(instance) == []
        assert status(instance, run_id) == dg.DagsterRunStatus.SUCCESS


def test_a_killed_run_is_marked_as_failed_once(home, elsewhere):
    process, run_id = elsewhere
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with open_instance(home) as instance:
        assert status(instance, run_id) == dg.DagsterRunStatus.STARTED, "Dagster itself does not notice"
        told = lost_runs(dg.build_sensor_context(instance=instance))
        assert told.skip_message == f"marked as failed: {run_id}"
        assert status(instance, run_id) == dg.DagsterRunStatus.FAILURE
        events = [event.message for event in instance.all_logs(run_id)]
        assert any(f"its process {process.pid} is gone" in message for message in events)
        assert lost_runs(dg.build_sensor_context(instance=instance)).skip_message == "no run has lost its process"


def test_a_number_that_another_process_has_now_does_not_count(home):
    with open_instance(home) as instance:
        run = instance.create_run_for_job(dg.JobDefinition(name="empty", graph_def=dg.GraphDefinition(name="g")))
        instance.report_engine_event("x", run)
        instance.add_run_tags(run.run_id, {PID: str(os.getppid()), BORN: "another boot:1"})
        assert reap(instance) == [run.run_id]


def test_the_first_mark_stays():
    added = []

    class Instance:
        def add_run_tags(self, run_id, tags):
            added.append((run_id, tags))

    mark(Instance(), dg.DagsterRun(job_name="a", run_id="1"))  # type: ignore[arg-type]
    mark(Instance(), dg.DagsterRun(job_name="a", run_id="2", tags={PID: "7", BORN: "x"}))  # type: ignore[arg-type]
    assert added == [("1", {PID: str(os.getpid()), BORN: birth(os.getpid())})]
    assert process_tags() == added[0][1]
