"""Kills workers of tiny trainings at random moments, for as long as told, and compares the weights they end with.

Each training is killed up to ten times, by turns one worker, two of Horovod and two of torch, and goes on from its
checkpoints; in the end its weights must be those of the training that nobody disturbed. Not here: the command line
(`soak.py`).
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from dl_pipelines.brief.references import AugmentationRef, FamilyRef, TaskRef
from dl_pipelines.brief.sections import AugmentationPlan, Distributed, Training
from dl_pipelines.store import durable
from dl_pipelines.store.digest import digest_file
from dl_pipelines.training.faults import rank_of
from dl_pipelines.training.job import FINAL, PROGRESS, RESULT, Job
from dl_pipelines.training.supervise import OUTCOME

SETUPS = (("single", 1), ("horovod", 2), ("torch", 2))
KILLS = 10
"""Of one training: as many restarts as a brief may allow, so that the last attempt is left alone."""
GIVE_UP = 300.0
"""Seconds for one attempt, on a loaded machine."""


def digits_job(folder: Path, communicator: str, workers: int) -> Job:
    """A training of some seconds on 256 digits, with a checkpoint every third step."""
    from sklearn.datasets import load_digits

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    found = load_digits()
    inputs, targets = (found.images * 15).astype(np.uint8)[..., None], found.target.astype(np.int64)
    for split, rows in (("train", slice(0, 256)), ("validation", slice(256, 306))):
        ids = np.array([f"r{place:04d}" for place in range(rows.start, rows.stop)])
        for name, value in (("inputs", inputs[rows]), ("targets", targets[rows]), ("ids", ids)):
            np.save(folder / f"{split}_{name}.npy", value, allow_pickle=False)
    params = {"classes": [str(place) for place in range(10)], "height": 8, "width": 8, "channels": 1}
    job = Job(
        folder, TaskRef(name="image_classification", params=params), FamilyRef(name="cnn", params={"width": 8}),
        Training(epochs=16, batch_size=32, learning_rate=0.003, checkpoint_steps=3),
        Distributed.model_validate({"communicator": communicator, "workers": workers, "restarts": KILLS}),
        AugmentationPlan(online=(AugmentationRef(name="noise", params={"std": 8}),)),
        {"mean": [0.3], "std": [0.38]}, folder,
    )  # fmt: skip
    job.write()
    return job


def start(job: Job) -> subprocess.Popen[bytes]:
    """Its supervisor."""
    command = [sys.executable, "-m", "dl_pipelines.training.supervise", "--job", str(job.folder / "job.json")]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def workers_of(supervisor: subprocess.Popen[bytes]) -> dict[int, psutil.Process]:
    """The workers that run, by their rank."""
    try:
        below = psutil.Process(supervisor.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return {}
    return {rank: process for process in below if (rank := rank_of(process)) is not None}


def undisturbed(folder: Path, communicator: str, workers: int) -> dict[str, Any]:
    """Weights and seconds of the training that nobody kills."""
    job = digits_job(folder, communicator, workers)
    if start(job).wait() != 0:
        raise RuntimeError(f"the undisturbed training failed: {durable.read_json(job.folder / OUTCOME)['failure']}")
    return {"sha256": digest_file(job.folder / FINAL), "seconds": durable.read_json(job.folder / RESULT)["seconds"]}


def one(folder: Path, communicator: str, workers: int, draw: random.Random, whole: dict[str, Any]) -> dict[str, Any]:
    """Train once with kills: how many there were, how many were told with the right rank, what was wrong (or None)."""
    job = digits_job(folder, communicator, workers)
    supervisor, killed = start(job), list[int]()
    try:
        for attempt in range(KILLS):
            rank, before = draw.randrange(workers), _starts(job)
            if not _until(lambda number=rank: number in workers_of(supervisor), supervisor):
                break
            early = draw.random() < 0.1
            begun = early or _until(lambda number=before: _starts(job) > number, supervisor)
            time.sleep(draw.uniform(0, 1.0 if early else 0.4 * whole["seconds"]))
            victim = workers_of(supervisor).get(rank)
            if not begun or victim is None:
                break
            victim.kill()
            killed.append(rank)
            if not _until(lambda number=attempt: _attempts(job) > number, supervisor):
                break
        supervisor.wait(GIVE_UP)
    finally:
        supervisor.terminate()
        supervisor.wait()
    outcome = durable.read_json(job.folder / OUTCOME)
    named = sum(fault["rank"] == rank for fault, rank in zip(outcome["faults"], killed, strict=False))
    wrong = outcome["failure"]
    if wrong is None and digest_file(job.folder / FINAL) != whole["sha256"]:
        wrong = "other weights than undisturbed"
    return {"kills": len(killed), "resumes": len(outcome["attempts"]) - 1, "named": named, "wrong": wrong}


def _until(condition: Callable[[], bool], supervisor: subprocess.Popen[bytes]) -> bool:
    """Wait for a condition; False when the supervisor has ended without it. Raises TimeoutError."""
    end = time.monotonic() + GIVE_UP
    while time.monotonic() < end:
        if condition():
            return True
        if supervisor.poll() is not None:
            return False
        time.sleep(0.02)
    raise TimeoutError(f"nothing happened for {GIVE_UP:g} s")


def _starts(job: Job) -> int:
    """How many attempts have told that their workers began."""
    path = job.folder / PROGRESS
    return path.read_bytes().count(b'"workers"') if path.exists() else 0


def _attempts(job: Job) -> int:
    path = job.folder / OUTCOME
    return len(durable.read_json(path)["attempts"]) if path.exists() else 0


def soak(folder: Path, minutes: float) -> dict[str, object]:
    """Kill for so many minutes; the counts of all soaks in `folder` so far. A training that was begun is ended."""
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / "training.json"
    counts: dict[str, Any] = {"trainings": 0, "kills": 0, "resumes": 0, "named": 0, "faults": [], "whole": {}}
    if state.exists():
        counts = durable.read_json(state)
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        number = counts["trainings"]
        communicator, workers = SETUPS[number % len(SETUPS)]
        if communicator not in counts["whole"]:
            counts["whole"][communicator] = undisturbed(folder / "undisturbed", communicator, workers)
        found = one(folder / "training", communicator, workers, random.Random(number), counts["whole"][communicator])
        for name in ("kills", "resumes", "named"):
            counts[name] += found[name]
        counts["trainings"] += 1
        if found["wrong"]:
            counts["faults"].append({"training": number, "communicator": communicator, "fault": found["wrong"][:2000]})
        durable.write_json(state, counts)
    told = {name: value for name, value in counts.items() if name != "whole"}
    return {"name": "soak.training", "minutes": minutes, **told}
