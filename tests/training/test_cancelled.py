"""A training in a real Dagster run in a process of its own: what it records, and what is left when it is cancelled."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from dl_pipelines.store import durable
from dl_pipelines.store.digest import digest_file
from tests.training.conftest import wait_for

SECRET = "hunter2secret"
PROGRAM = """
import sys
from pathlib import Path
import dagster as dg
from dl_pipelines.training.launch import LaunchFailed, worker_environment
from resources.pipes import PipesLauncher

@dg.asset
def trained(context: dg.AssetExecutionContext):
    command = [sys.executable, "-m", "dl_pipelines.training.supervise", "--job", sys.argv[1]]
    try:
        PipesLauncher(context)(command, worker_environment(1))
    except LaunchFailed as error:
        raise dg.Failure(f"launch failed with {error.code}") from error
    yield dg.MaterializeResult(metadata={"done": True})

job = dg.Definitions([trained]).resolve_implicit_global_asset_job_def()
with dg.DagsterInstance.local_temp() as instance:
    result = job.execute_in_process(instance=instance, raise_on_error=False)
    print("MATERIALIZED", len(result.get_asset_materialization_events()), "SUCCESS", result.success)
"""


@pytest.fixture
def run(tmp_path):
    """A function: a Dagster run of a job, what it prints in `out`; ended with the test."""
    with contextlib.ExitStack() as stack:

        def begin(job):
            out = stack.enter_context((tmp_path / "out").open("wb"))
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(job.folder / "job.json")],
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, "DLP_DATABASE_URL": f"postgresql://dlp:{SECRET}@127.0.0.1/dlp"},
                start_new_session=True,
            )
            stack.callback(end, process)
            return process

        yield begin


def end(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def alive(processes):
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()[:4]))
    return found


def test_a_failed_training_fails_its_run_with_the_reason(make_job, run, tmp_path):
    process = run(make_job("single", statistics={"mean": [0.3], "std": [1e-40]}))
    process.wait(200)
    said = (tmp_path / "out").read_text()
    assert "1 worker(s) started, communicator single" in said
    assert "attempt 1: found a training loss of nan in step 1 of epoch 1" in said
    assert "launch failed with 1" in said
    assert "MATERIALIZED 0 SUCCESS False" in said


@pytest.mark.slow
@pytest.mark.parametrize(("number", "group"), [(signal.SIGINT, True), (signal.SIGTERM, False)], ids=["ctrl-c", "term"])
def test_a_run_that_is_cancelled_leaves_no_worker(make_job, run, number, group):
    job = make_job("horovod", 2, training={"epochs": 500, "compile": "off"})
    process = run(job)
    progress = job.folder / "progress.jsonl"
    wait_for(lambda: progress.exists() and "train_loss" in progress.read_text())
    seen = psutil.Process(process.pid).children(recursive=True)
    (supervisor,) = (child for child in seen if "dl_pipelines.training.supervise" in child.cmdline())
    training = [supervisor, *supervisor.children(recursive=True)]  # Dagster has children of its own
    assert sum("dl_pipelines.training.worker" in child.cmdline() for child in training) >= 2
    for child in training:
        assert SECRET not in " ".join(child.cmdline())
        assert SECRET.encode() not in Path(f"/proc/{child.pid}/environ").read_bytes(), child.cmdline()
    (os.killpg if group else os.kill)(process.pid, number)
    process.wait(60)
    with contextlib.suppress(TimeoutError):
        wait_for(lambda: not alive(seen), 15)
    assert alive(seen) == []
    assert not (job.folder / "result.json").exists()
    checkpoints = list((job.folder / "checkpoints").glob("epoch-*.json"))
    assert checkpoints, "at least one epoch was finished"
    for state in checkpoints:  # a worker that died while it wrote leaves a temporary name, which nobody reads
        assert digest_file(state.with_suffix(".safetensors")) == durable.read_json(state)["sha256"], "half-written"
