"""The pool: jobs are trained as a worker trains them, in few processes; lost ones are replaced; all end with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from dl_pipelines.store.digest import digest_file
from dl_pipelines.training import pool
from dl_pipelines.training.job import FINAL, Job
from dl_pipelines.training.pool import LOST, Pool
from dl_pipelines.training.worker import run
from tests.training.conftest import wait_for, write_job


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Job:
    """A job of two epochs, and the rows that all read."""
    return write_job(tmp_path_factory.mktemp("pool") / "rows", records=200, training={"epochs": 2})


def other(job: Job, name: str, **changed) -> Job:
    return replace(job, folder=job.folder.parent / name, training=job.training.model_copy(update=changed))


def gone(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


def test_jobs_are_trained_as_a_worker_trains_them_and_end_with_the_pool(given):
    names = ("a", "b", "bad")
    with Pool(side=1) as some:
        for name in names:
            job = other(given, name)
            some.submit(replace(job, statistics={"mean": [0.3], "std": [1e-40]}) if name == "bad" else job)
        assert some.waiting == 3
        ended = {}
        while some.waiting:
            ended |= {one.job.folder.name: one for one in some.wait()}
            (pid,) = some.pids
        assert some.wait() == []
        # Bitwise the same after it was paused, beside others, in a process that has trained before.
        paused = other(given, "paused")
        some.submit(paused, until=1)
        (one,) = some.wait()
        assert one.error is None and [line["epoch"] for line in one.curves] == [1]
        some.submit(paused)
        (two,) = some.wait()
        assert some.pids == [pid], "the same process all along"
    assert gone(pid)
    assert [line["epoch"] for line in two.curves] == [1, 2] and two.curves[0] == one.curves[0]
    assert 0 < two.seconds < 30
    assert ended["bad"].curves == [] and "lower training.learning_rate" in (ended["bad"].error or "")
    alone = other(given, "alone")
    alone.folder.mkdir()
    run(alone)
    assert len({digest_file(given.folder.parent / name / FINAL) for name in ("a", "b", "paused", "alone")}) == 1


def test_a_lost_process_is_replaced_and_its_job_goes_on(given):
    long = other(given, "long", epochs=15)
    with Pool(side=1) as some:
        some.submit(long)
        (pid,) = some.pids
        wait_for(lambda: len(list((long.folder / "checkpoints").glob("*.json"))) > 1)
        os.kill(pid, signal.SIGKILL)
        (one,) = some.wait()
        assert one.error is None and [line["epoch"] for line in one.curves] == list(range(1, 16))
        assert some.pids != [pid]
        assert (long.folder / "progress.jsonl").read_text().count('"communicator"') == 2


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A function: processes of the pool are this shell script from now on."""

    def script(text):
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        monkeypatch.setattr(pool.sys, "executable", str(path))

    return script


def test_what_loses_its_process_again_and_again_has_failed(given, fake):
    fake('read line; echo "no memory" >&2; exit 7')
    with Pool(side=2) as some:
        some.submit(other(given, "hopeless"))
        (one,) = some.wait()
    assert one.error == f"its process was lost {LOST} times: exit code 7\nno memory"


def test_a_process_that_is_lost_while_it_is_idle_costs_nothing(given, fake):
    fake("""while read line; do echo '{"error": "no"}'; done""")
    with Pool(side=1) as some:
        pids = []
        for _ in range(2):
            some.submit(other(given, "idle"))
            (one,) = some.wait()
            assert one.error == "no"
            pids += some.pids
            os.kill(pids[-1], signal.SIGKILL)
            wait_for(lambda pid=pids[-1]: gone(pid))
    assert len(set(pids)) == 2


def test_processes_end_with_a_killed_parent(given):
    program = (
        "import sys; from pathlib import Path\n"
        "from dl_pipelines.training.job import Job\n"
        "from dl_pipelines.training.pool import Pool\n"
        "with Pool(1) as pool:\n"
        "    pool.submit(Job.read(Path(sys.argv[1])))\n"
        "    print(pool.pids[0], flush=True)\n"
        "    pool.wait()\n"
    )
    slow = other(given, "slow", epochs=9000)
    slow.folder.mkdir()
    for how in (signal.SIGKILL, signal.SIGINT):
        parent = subprocess.Popen(
            [sys.executable, "-c", program, str(slow.write())], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert not gone(child)
        os.kill(parent.pid, how)
        parent.wait()
        parent.stdout.close()
        wait_for(lambda child=child: gone(child), 10)
