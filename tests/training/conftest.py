"""Jobs on a few digits, their supervisors as real processes, and what those processes are and hold."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from dl_pipelines.brief.references import AugmentationRef, FamilyRef, TaskRef
from dl_pipelines.brief.sections import AugmentationPlan, Distributed, Training
from dl_pipelines.store import durable
from dl_pipelines.store.digest import digest_file
from dl_pipelines.training.job import FINAL, PROGRESS, Job

WAIT = 100.0
"""Seconds after which a test gives up on something that takes two on an idle machine."""


def digits() -> tuple[np.ndarray, np.ndarray]:
    """uint8 [1797, 8, 8, 1] and int64 [1797]."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return (found.images * 15).astype(np.uint8)[..., None], found.target.astype(np.int64)


def device_here() -> str:
    """What `training.device: auto` is on this machine."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def write_job(folder: Path, communicator: str = "single", workers: int = 1, records: int = 400, **changed: Any) -> Job:
    """A job of `records` train rows; `training`, `statistics` and any field of Distributed can be changed."""
    folder.mkdir(parents=True)
    inputs, targets = digits()
    for split, rows in (("train", slice(0, records)), ("validation", slice(records, records + 100))):
        ids = np.array([f"r{place:04d}" for place in range(rows.start, rows.stop)])
        for name, value in (("inputs", inputs[rows]), ("targets", targets[rows]), ("ids", ids)):
            np.save(folder / f"{split}_{name}.npy", value, allow_pickle=False)
    training = {"epochs": 3, "learning_rate": 0.003, **changed.pop("training", {})}
    statistics = changed.pop("statistics", {"mean": [0.3], "std": [0.38]})
    params = {"classes": [str(place) for place in range(10)], "height": 8, "width": 8, "channels": 1}
    job = Job(
        folder, TaskRef(name="image_classification", params=params), FamilyRef(name="cnn", params={"width": 8}),
        Training(**training), Distributed(communicator=communicator, workers=workers, **changed),
        AugmentationPlan(online=(AugmentationRef(name="noise", params={"std": 8}),)), statistics, folder,
    )  # fmt: skip
    job.write()
    return job


@dataclass
class Supervised:
    """A supervisor that runs, and every process that was ever seen below it."""

    job: Job
    process: subprocess.Popen[str]
    seen: dict[int, psutil.Process] = field(default_factory=dict)

    def look(self) -> list[psutil.Process]:
        """Processes below the supervisor now."""
        below: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            below = psutil.Process(self.process.pid).children(recursive=True)
        self.seen |= {process.pid: process for process in below}
        return below

    def rank(self, number: int) -> psutil.Process:
        """The worker of a rank."""
        for process in self.look():
            with contextlib.suppress(psutil.NoSuchProcess):
                environ, command = process.environ(), process.cmdline()
                mine = environ.get("HOROVOD_RANK", environ.get("RANK"))
                if mine == str(number) and command[1:2] != ["-c"] and Path(command[0]).name.startswith("python"):
                    return process
        raise AssertionError(f"no worker of rank {number}")

    def launcher(self) -> psutil.Process:
        """What started the workers: Horovod's or torch's launcher."""
        return psutil.Process(self.process.pid).children()[0]

    def until_epoch(self, epoch: int) -> None:
        """Wait until an epoch is done, looking at the processes on the way."""
        wait_for(lambda: bool(self.look()) and f'"epoch": {epoch}, "epochs": ' in self.told("train_loss"))

    def told(self, word: str) -> str:
        """The lines of progress with a word."""
        path = self.job.folder / PROGRESS
        lines = path.read_text().splitlines() if path.exists() else []
        return "\n".join(line for line in lines if word in line)

    def end(self) -> dict[str, Any]:
        """Wait for the supervisor; what it wrote."""
        self.process.wait(WAIT)
        return durable.read_json(self.job.folder / "supervised.json")

    def left(self) -> list[str]:
        """Processes that still live of those seen, after they had ten seconds to go."""
        with contextlib.suppress(TimeoutError):
            wait_for(lambda: not self._alive(), 10)
        return [" ".join(process.cmdline()[:4]) for process in self._alive()]

    def _alive(self) -> list[psutil.Process]:
        alive = []
        for process in self.seen.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    alive.append(process)
        return alive

    @property
    def weights(self) -> str:
        """sha256 of the trained weights."""
        return digest_file(self.job.folder / FINAL)


def wait_for(condition: Callable[[], bool], seconds: float = WAIT) -> None:
    """Poll until it holds. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:g} s")
        time.sleep(0.03)


def supervise(job: Job, **environment: str) -> Supervised:
    """Start the supervisor of a job, as an orchestrator does."""
    command = [sys.executable, "-m", "dl_pipelines.training.supervise", "--job", str(job.folder / "job.json")]
    return Supervised(job, subprocess.Popen(command, text=True, env={**os.environ, **environment}))


@pytest.fixture
def make_job(tmp_path: Path) -> Callable[..., Job]:
    """write_job in a folder of the test; give `name` for a second one."""

    def make(*args: Any, name: str = "job", **changed: Any) -> Job:
        return write_job(tmp_path / name, *args, **changed)

    return make


@pytest.fixture(scope="session")
def wait() -> Callable[..., None]:
    """The function wait_for."""
    return wait_for


@pytest.fixture
def start() -> Iterator[Callable[..., Supervised]]:
    """A function: starts the supervisor of a job; whatever of it is left at the end of the test is ended."""
    started: list[Supervised] = []

    def begin(job: Job, **environment: str) -> Supervised:
        started.append(supervise(job, **environment))
        return started[-1]

    yield begin
    for supervised in started:
        supervised.look()
        for process in [*supervised._alive()]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        supervised.process.kill()
        supervised.process.wait()
