"""Faults of real Horovod workers: each training ends with the weights of the undisturbed one, or says why it can't."""

import json
import os
import random
import re
import resource
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from dl_pipelines.store import durable
from dl_pipelines.training import supervise
from dl_pipelines.training.job import FINAL, RESULT
from dl_pipelines.training.launch import sandbox_prefix
from tests.training.conftest import supervise as start_supervisor
from tests.training.conftest import wait_for, write_job
from tests.training.sockets import LISTENS, sockets

SECRETS = {"DLP_DATABASE_URL": "postgresql://dlp:hunter2secret@127.0.0.1/dlp", "SOME_TOKEN": "token-0badc0de"}
HOROVOD = {"communicator": "horovod", "workers": 2, "training": {"epochs": 6}}
DONE = {"attempts": ["done"], "failure": None, "faults": [], "sandboxed": False}
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1", "::ffff:7f00:1"}


class Seen:
    """What is seen of a training without sandbox: addresses its processes listen on, secrets they hold, workers."""

    def __init__(self, running):
        self.running = running
        self.listening, self.secrets, self.workers = set(), set(), set()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def all(self):
        """Everything, when the training has ended."""
        self._thread.join()
        return self

    def _watch(self):
        known, rounds = {inode for _, _, inode in sockets(LISTENS)}, 0
        while self.running.process.poll() is None:
            for _, address, inode in sockets(LISTENS):
                if inode not in known:  # gloo's listeners live for milliseconds: the owner is sought at once
                    known.add(inode)
                    if any(holds(process, inode) for process in self.running.look()):
                        self.listening.add(address)
            if rounds % 50 == 0:
                below = self.running.look()
                self.secrets |= set(secrets_in(below))
                self.workers |= {item.pid for item in below if "dl_pipelines.training.worker" in line_of(item)}
            rounds += 1
            time.sleep(0.003)


def holds(process, inode):
    """Whether a process has a socket open."""
    try:
        return any(str(entry.readlink()) == f"socket:[{inode}]" for entry in Path(f"/proc/{process.pid}/fd").iterdir())
    except OSError:
        return False


def line_of(process):
    """Its command line; empty when it is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def secrets_in(processes):
    """Processes whose command line or environment holds a secret."""
    holding = []
    for process in processes:
        for name in ("cmdline", "environ"):
            try:
                data = Path(f"/proc/{process.pid}/{name}").read_bytes()
            except OSError:
                continue
            holding += [f"{name} of {process.pid}" for secret in SECRETS.values() if secret.encode() in data]
    return holding


def without_sandbox(folder):
    """A PATH on which a system refuses namespaces: what is bound to is what counts there."""
    refusing = folder / "bin" / "unshare"
    refusing.parent.mkdir()
    refusing.write_text("#!/bin/sh\nexit 1\n")
    refusing.chmod(0o755)
    return {"PATH": f"{refusing.parent}:{os.environ['PATH']}", **SECRETS}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Two Horovod workers that nobody disturbs, where no sandbox is allowed: their weights, and what was seen."""
    folder = tmp_path_factory.mktemp("undisturbed")
    running = start_supervisor(write_job(folder / "job", **HOROVOD), **without_sandbox(folder))
    seen = Seen(running)
    assert running.end() == DONE
    assert running.left() == []
    return running.weights, seen.all()


@pytest.mark.slow
def test_horovod_listens_on_loopback_only(undisturbed):
    _, seen = undisturbed
    assert seen.listening, "the rendezvous was seen"
    assert seen.listening <= LOOPBACK


def test_horovods_workers_hold_no_secret(undisturbed):
    _, seen = undisturbed
    assert len(seen.workers) >= 2
    assert seen.secrets == set()


@pytest.mark.slow
def test_torch_listens_on_loopback_only_and_gives_horovods_weights(undisturbed, make_job, start, tmp_path):
    running = start(make_job("torch", 2, training={"epochs": 6}), **without_sandbox(tmp_path))
    seen = Seen(running)
    assert running.end() == DONE
    assert len(seen.all().workers) >= 2
    assert seen.listening, "gloo was seen"
    assert seen.listening <= LOOPBACK
    assert seen.secrets == set()
    assert running.weights == undisturbed[0], "the same sums in the same order"


@pytest.mark.slow
def test_two_random_kills_cost_an_epoch_each_and_leave_the_weights_as_they_were(undisturbed, make_job, start):
    """`make soak` has as many as its minutes allow."""
    draw = random.Random(2018)
    running, ranks = start(make_job(restarts=2, **HOROVOD)), []
    for epoch in sorted(draw.sample(range(1, 5), 2)):
        running.until_epoch(epoch)
        time.sleep(draw.uniform(0, 0.1))
        ranks.append(draw.randrange(2))
        running.rank(ranks[-1]).kill()
    ended = running.end()
    assert ended["attempts"][2:] == ["done"]
    for reason, rank in zip(ended["attempts"], ranks, strict=False):
        assert re.match(rf"rank {rank} was killed \(SIGKILL\) (after|in) epoch \d of 6", reason)
    assert [(fault["kind"], fault["rank"]) for fault in ended["faults"]] == [("killed", rank) for rank in ranks]
    assert all(fault["noticed_seconds"] < 10 for fault in ended["faults"])
    assert running.left() == []
    assert running.weights == undisturbed[0]
    starts = [json.loads(line) for line in running.told("").splitlines()]
    epochs = [line["epoch"] for line in starts if "train_loss" in line]
    assert sum("workers" in line for line in starts) == 3
    assert epochs[0] == 1 and epochs[-1] == 6 and len(epochs) <= 8, "at most the epoch of each kill was done again"
    curves = durable.read_json(running.job.folder / RESULT)["curves"]
    assert [line["epoch"] for line in curves] == [1, 2, 3, 4, 5, 6]
    assert ended["sandboxed"] == bool(sandbox_prefix())


@pytest.mark.slow
def test_a_lost_worker_without_restarts_is_named_and_a_second_run_goes_on(undisturbed, make_job, start):
    job = make_job(restarts=0, **HOROVOD)
    running = start(job)
    running.until_epoch(2)
    running.rank(0).kill()
    ended = running.end()
    assert running.process.returncode == 1
    assert len(ended["attempts"]) == 1
    assert ended["failure"].startswith("rank 0 was killed (SIGKILL) after epoch 2 of 6:\n")
    # The other rank, waiting for gradients in memory or for Horovod, is ended by the launcher: it may say nothing.
    assert "-- rank.0/stderr" in ended["failure"], "what it said last"
    assert not (job.folder / RESULT).exists()
    newest = max((job.folder / "checkpoints").glob("*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-100])
    again = start(job)
    assert again.end()["failure"] is None
    assert again.weights == undisturbed[0], "from the checkpoint before the damaged one"


@pytest.mark.slow
def test_a_stopped_worker_is_noticed_long_before_the_stall_limit(undisturbed, make_job, start, tmp_path):
    running = start(make_job(**HOROVOD), **without_sandbox(tmp_path))
    seen = Seen(running)
    running.until_epoch(2)
    running.rank(1).suspend()
    ended = running.end()
    assert re.match(r"rank 1 was stopped \(SIGSTOP\) (after|in) epoch 2 of 6.*; the workers were", ended["attempts"][0])
    (fault,) = ended["faults"]
    assert (fault["attempt"], fault["kind"], fault["rank"]) == (1, "stopped", 1)
    assert 4 < fault["noticed_seconds"] < 15
    assert ended["failure"] is None
    assert running.left() == []
    assert running.weights == undisturbed[0]
    assert len(seen.all().workers) >= 4, "those of both attempts"
    assert seen.listening, "the rendezvous was seen"
    assert seen.listening <= LOOPBACK


@pytest.mark.slow
def test_a_worker_without_memory_is_told_and_the_training_started_again(undisturbed, make_job, start, tmp_path):
    environment = without_sandbox(tmp_path)
    for number in range(4):  # a worker whose heap is large enough already asks for no more, and isn't refused any
        running = start(make_job("torch", 2, name=f"job-{number}", training={"epochs": 6}), **environment)
        seen = Seen(running)
        running.until_epoch(1 + number % 2)
        worker = running.rank(1)
        resource.prlimit(worker.pid, resource.RLIMIT_AS, (worker.memory_info().vms, resource.RLIM_INFINITY))
        ended = running.end()
        if ended["attempts"][0] != "done":
            break
    assert re.match(r"rank 1 ran out of memory \(.*\) (after|in) epoch \d of 6", ended["attempts"][0])
    (fault,) = ended["faults"]
    assert (fault["attempt"], fault["kind"], fault["rank"]) == (1, "out of memory", 1)
    assert ended["failure"] is None
    assert running.weights == undisturbed[0]
    assert seen.all().listening, "gloo was seen"
    assert seen.listening <= LOOPBACK


@pytest.mark.parametrize(("communicator", "which"), [("horovod", "supervisor"), ("torch", "launcher")])
def test_no_worker_outlives_a_killed_parent(make_job, start, communicator, which):
    running = start(make_job(communicator, 2, training={"epochs": 500, "compile": "off"}, restarts=0))
    running.until_epoch(1)
    workers = {running.rank(0).pid, running.rank(1).pid}
    assert workers <= set(running.seen)
    (running.process if which == "supervisor" else running.launcher()).kill()
    running.process.wait(60)
    assert running.left() == []
    if which == "launcher":
        assert running.end()["failure"].startswith("the launcher of the workers was killed (SIGKILL) after")


def test_a_supervisor_that_is_asked_to_end_ends_every_worker(make_job, start):
    running = start(make_job("torch", 2, training={"epochs": 500, "compile": "off"}))
    running.until_epoch(1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
        running.process.send_signal(number)
    assert running.process.wait(60) == 143
    assert running.left() == []
    assert not (running.job.folder / FINAL).exists()


def test_an_exception_of_one_rank_ends_all_and_is_shown(make_job, start):
    job = make_job("torch", 2, restarts=0)
    path = job.folder / "train_targets.npy"
    targets = np.load(path)
    targets[17] = 10
    np.save(path, targets)
    running = start(job)
    ended = running.end()
    assert len(ended["attempts"]) == 1
    assert ended["faults"][0]["kind"] == "failed"
    assert re.match(r"rank [01] failed \(exit code 1\) (in epoch 1 of 3|before its first step).*:\n", ended["failure"])
    assert "IndexError: Target 10 is out of bounds" in ended["failure"]
    assert running.left() == []


def test_a_loss_that_is_not_finite_is_not_tried_again(make_job, start):
    running = start(make_job(statistics={"mean": [0.3], "std": [1e-40]}, restarts=2))
    ended = running.end()
    assert running.process.returncode == 1
    assert len(ended["attempts"]) == 1
    assert ended["failure"].startswith("found a training loss of nan in step 1 of epoch 1; expected a finite one")
    assert not (running.job.folder / RESULT).exists()
    assert not (running.job.folder / FINAL).exists()


def test_a_missing_launcher_is_told_with_its_remedy(make_job, monkeypatch, tmp_path):
    job, said = make_job("horovod", 2), []
    monkeypatch.setattr("sys.executable", str(tmp_path / "bin" / "python"))
    assert not supervise.supervise(job.folder / "job.json", said.append)
    message = f"found no {tmp_path}/bin/horovodrun; expected Horovod's launcher; run `make setup`, then `dlp doctor`"
    assert durable.read_json(job.folder / "supervised.json")["failure"].startswith(message)
    assert len(said) == 1 and said[0].startswith(f"attempt 1: {message}")


def test_workers_that_never_start_are_given_up(make_job, monkeypatch):
    job = make_job(restarts=1, stall_seconds=0.2)
    monkeypatch.setattr(supervise, "START_SECONDS", 0.3)
    monkeypatch.setattr(supervise, "worker_command", lambda *_: ["sleep", "600"])
    before = psutil.Process().children()
    assert not supervise.supervise(job.folder / "job.json", lambda _: None)
    ended = durable.read_json(job.folder / "supervised.json")
    assert ended["attempts"] == ["no progress for 0.2 s before its first step; the workers were ended"] * 2
    assert ended["sandboxed"] == bool(sandbox_prefix())
    wait_for(lambda: psutil.Process().children() == before, 5)


def test_a_child_that_ignores_the_request_is_killed(monkeypatch):
    monkeypatch.setattr(supervise, "GRACE_SECONDS", 0.3)
    script = "trap '' TERM; sleep 600 & trap '' TERM; echo ready; wait; sleep 600"
    process = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE)
    assert process.stdout
    with process.stdout:
        process.stdout.readline()
        children = psutil.Process(process.pid).children()
        supervise.end_tree(process)
    assert process.returncode == -signal.SIGKILL
    assert children
    wait_for(lambda: not any(child.is_running() for child in children), 5)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"workers": 2, "communicator": "horovod"}, "2 worker(s) started, communicator horovod"),
        ({"epoch": 1, "epochs": 3, "step": 4, "steps": 9}, "epoch 1 of 3: step 4 of 9"),
        (
            {"epoch": 1, "epochs": 3, "train_loss": 0.51234, "validation": {"accuracy": 0.9, "loss": 0.4}},
            "epoch 1 of 3: train loss 0.5123, validation accuracy 0.9, loss 0.4",
        ),
    ],
)
def test_a_line_of_progress_reads_well(line, told):
    assert supervise.describe(line) == told
