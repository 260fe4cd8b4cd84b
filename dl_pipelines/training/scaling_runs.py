"""How a number of workers is measured for the scaling report: the same samples through the real launcher.

scaling_worker.py keeps the time; scaling.py makes rows of it.
"""

from __future__ import annotations

import math
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dl_pipelines.store import durable
from dl_pipelines.training.job import PROGRESS, Job
from dl_pipelines.training.launch import die_with_parent, sandbox_prefix, worker_command, worker_environment
from dl_pipelines.training.supervise import POLL_SECONDS, START_SECONDS, end_tree

if TYPE_CHECKING:
    import numpy as np

TIMED = "timed.json"
PARTS = ("compute", "communication", "input", "other")
"""Of a step; `other` is what is left of its time."""
WARM_UP = 0.1
"""Share of the steps, at least one, that are trained and not timed: the first one of a process takes longer."""
BLOCKS, DRAWS, CONFIDENCE = 10, 2000, 0.95


@dataclass(frozen=True)
class Run:
    """What workers did together: seconds of each step by PARTS, `batch` samples a step of all of them."""

    workers: int
    batch: int
    steps: Sequence[Sequence[float]]
    loss: float
    loss_of: str
    energy_j: float | None

    @property
    def seconds(self) -> float:
        """Of all steps, warm-up included; validation is none."""
        return sum(map(sum, self.steps))

    def timed(self) -> Sequence[Sequence[float]]:
        """The steps that count."""
        return self.steps[min(len(self.steps) - 1, max(1, math.ceil(WARM_UP * len(self.steps)))) :]

    def rates(self, seed: int = 0) -> tuple[float, np.ndarray]:
        """Samples a second, and on resamples of blocks of steps [DRAWS]: neighbours share what slows them."""
        import numpy as np

        seconds = np.array([sum(step) for step in self.timed()])
        blocks = np.array_split(seconds, min(BLOCKS, len(seconds)))
        count, spent = np.array([len(block) for block in blocks]), np.array([block.sum() for block in blocks])
        drawn = np.random.default_rng([seed, self.workers]).integers(0, len(blocks), (DRAWS, len(blocks)))
        return self.batch * len(seconds) / seconds.sum(), self.batch * count[drawn].sum(1) / spent[drawn].sum(1)

    def step_ms(self) -> dict[str, float]:
        """Mean milliseconds of each part of a step."""
        import numpy as np

        return {name: round(float(value) * 1e3, 4) for name, value in zip(PARTS, np.mean(self.timed(), 0), strict=True)}


def measured(job: Job, count: int) -> Run | str:
    """What so many workers did with the job's rows, or why they did not. Nothing of ours runs meanwhile."""
    distributed = job.distributed
    cores, needed = len(os.sched_getaffinity(0)), count * distributed.threads
    if needed > cores and count > 1:
        return f"{count} workers of {distributed.threads} thread(s) need {needed} cores; this machine has {cores}"
    name = "single" if count == 1 else distributed.communicator
    if name == "single" and count > 1:
        return "distributed.communicator is single: one worker only"
    mine = distributed.model_copy(update={"communicator": name, "workers": count, "hosts": ()})
    job = replace(job, folder=job.folder / f"workers-{count}", distributed=mine)
    durable.remove_tree(job.folder)  # of one that was interrupted: what was half timed is not timed
    job.folder.mkdir(parents=True)
    if failure := _launch(job):
        return failure
    found = durable.read_json(job.folder / TIMED)
    validation, loss = found["curve"]["validation"], found["curve"]["train_loss"]
    batch = count * job.training.batch_size * job.training.accumulate
    told = ("validation rows", validation["loss"]) if "loss" in validation else ("train batches", loss)
    return Run(count, batch, found["steps"], told[1], told[0], found["energy_j"])


def _launch(job: Job) -> str | None:
    """Run the workers to their end; why they failed, or None."""
    logs = job.folder / "logs"
    logs.mkdir()
    try:
        workers = worker_command(job.write(), job.distributed, logs, "dl_pipelines.training.scaling_worker")
    except ValueError as error:
        return str(error)
    command = [*die_with_parent(), *sandbox_prefix(), *die_with_parent(), *workers]
    with (logs / "stdout").open("wb") as out, (logs / "stderr").open("wb") as err:
        process = subprocess.Popen(
            command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, start_new_session=True,
            env=worker_environment(job.distributed.threads, logs),
        )  # fmt: skip
        try:
            stalled = _wait(process, job.folder / PROGRESS, max(job.distributed.stall_seconds, START_SECONDS))
        finally:
            end_tree(process)
    if failures := sorted(job.folder.glob("failure-*.json")):
        return durable.read_json(failures[0])["message"]
    if stalled:
        return f"no progress for {max(job.distributed.stall_seconds, START_SECONDS):g} s"
    if process.returncode or not (job.folder / TIMED).exists():
        lines = [
            line for path in sorted(logs.rglob("stderr*")) for line in path.read_text(errors="replace").split("\n")
        ]
        last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing was said")
        return f"the workers ended with code {process.returncode}: {last[:200]}"
    return None


def _wait(process: subprocess.Popen[bytes], progress: Path, limit: float) -> bool:
    """Wait until the process ends; True when it made no progress for so many seconds."""
    seen, last = 0, time.monotonic()
    while process.poll() is None:
        size = progress.stat().st_size if progress.exists() else 0
        if size != seen:
            seen, last = size, time.monotonic()
        if time.monotonic() - last > limit:
            return True
        time.sleep(POLL_SECONDS)
    return False
