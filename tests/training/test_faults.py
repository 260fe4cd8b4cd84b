"""What is made of exit codes, output and counters; real workers are in test_supervise.py."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from dl_pipelines.training import faults
from dl_pipelines.training.faults import Fault, Watch
from tests.training.conftest import wait_for

HOROVOD = "Process name: {rank}\nExit code: {code}\n"
TORCH = "Root Cause (first observed failure):\n  rank      : {rank} (local_rank: {rank})\n  exitcode  : {code} (pid)\n"
PEER = "Traceback (most recent call last):\nHorovodInternalError: [...] Connection closed by peer [127.0.0.1]:3\n"


def write(folder, launcher="", **ranks):
    """Logs as the launchers leave them: `rank_1="..."` is Horovod's, `torch_1` torch's."""
    (folder / "stderr").write_text(launcher)
    for name, text in ranks.items():
        kind, rank = name.split("_")
        path = (
            folder / f"rank.{rank}" / "stderr" if kind == "rank" else folder / "t" / "attempt_0" / rank / "stderr.log"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def lost(logs, code=1, workers=2, kernel=False):
    fault = faults.lost(logs, code, workers, Watch(os.getpid()), kernel)
    return fault.kind, fault.rank, fault.words


@pytest.mark.parametrize("said", [HOROVOD.format(rank=1, code=137), TORCH.format(rank=1, code=-9)])
def test_a_killed_rank_is_named_by_its_launcher(tmp_path, said):
    assert lost(write(tmp_path, said)) == ("killed", 1, "rank 1 was killed (SIGKILL)")
    assert lost(tmp_path, kernel=True) == ("out of memory", 1, "rank 1 ran out of memory (the kernel killed it)")


def test_a_rank_that_only_tells_of_its_lost_peer_is_not_the_one(tmp_path):
    logs = write(tmp_path, HOROVOD.format(rank=0, code=1), rank_0=PEER, rank_1="a warning\n")
    assert lost(logs) == ("killed", 1, "rank 1 was killed (SIGKILL)")


def test_a_rank_that_failed_by_itself_is_the_one(tmp_path):
    logs = write(tmp_path, HOROVOD.format(rank=1, code=1), rank_0=PEER, rank_1="Traceback\nIndexError: 7\n")
    assert lost(logs) == ("failed", 1, "rank 1 failed (exit code 1)")


@pytest.mark.parametrize(
    "text",
    [
        "MemoryError",
        "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 3. GiB for an array",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: tried 9",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "OSError: [Errno 12] Cannot allocate memory",
    ],
)
def test_want_of_memory_is_known_by_its_words(tmp_path, text):
    logs = write(tmp_path, TORCH.format(rank=0, code=1), torch_0=PEER, torch_1=f"Traceback\n{text}\n")
    assert lost(logs) == ("out of memory", 1, f"rank 1 ran out of memory ({text})")


def test_the_only_worker_is_rank_0_and_the_launcher_is_none(tmp_path):
    logs = write(tmp_path, "Traceback\nMemoryError\n")
    assert lost(logs, workers=1) == ("out of memory", 0, "rank 0 ran out of memory (MemoryError)")
    write(tmp_path)
    assert lost(logs, -15, workers=1) == ("killed", 0, "rank 0 was killed (SIGTERM)")
    assert lost(logs, -9) == ("killed", None, "the launcher of the workers was killed (SIGKILL)")
    assert lost(logs, 3) == ("failed", None, "the launcher of the workers failed (exit code 3)")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (None, "before its first step"),
        ({"workers": 2}, "before its first step"),
        ({"epoch": 2, "epochs": 6, "train_loss": 0.5}, "after epoch 2 of 6"),
        ({"epoch": 3, "epochs": 6, "step": 4, "steps": 9}, "in epoch 3 of 6, at step 4 of 9 or soon after"),
    ],
)
def test_how_far_it_had_got(line, told):
    assert faults.reached(line) == told


def test_the_kernels_counter_is_read_where_it_is(tmp_path, monkeypatch):
    assert faults.memory_kills() >= 0
    monkeypatch.setattr(faults, "CGROUPS", tmp_path)
    monkeypatch.setattr(faults, "STATISTICS", tmp_path / "vmstat")
    assert faults.memory_kills() == 0
    (tmp_path / "vmstat").write_text("nr_free_pages 7\noom_kill 2\n")
    assert faults.memory_kills() == 2
    monkeypatch.setattr(faults, "_counters", lambda: [tmp_path / "none", tmp_path / "events", tmp_path / "vmstat"])
    (tmp_path / "events").write_text("low 0\noom 4\noom_kill 3\noom_group_kill 0\n")
    assert faults.memory_kills() == 3


def test_a_process_that_stays_stopped_is_a_fault_and_a_short_stop_is_none(monkeypatch):
    monkeypatch.setattr(faults, "LOOK_SECONDS", 0.02)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        watch, below = Watch(os.getpid()), psutil.Process(process.pid)
        below.suspend()
        wait_for(lambda: below.status() == psutil.STATUS_STOPPED, 10)
        assert [watch.look() for _ in range(3)] == [None] * 3
        below.resume()
        wait_for(lambda: below.status() != psutil.STATUS_STOPPED, 10)
        time.sleep(0.03)
        assert watch.look() is None
        below.suspend()
        found: list[Fault] = []
        wait_for(lambda: bool(found) or bool((fault := watch.look()) and found.append(fault)), 10)
        assert found[0].words == "the launcher was stopped (SIGSTOP)"
        assert found[0].noticed_seconds is not None and 0 <= found[0].noticed_seconds < 5
        process.kill()
    assert not faults.alive(below)
    assert process.returncode == -signal.SIGKILL
