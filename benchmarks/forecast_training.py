"""The two trainings that are timed against each other: ours, started as the line starts it, and the peer's process.

Imports, and starting workers, are in neither's seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.peer import PeerProcess


def write_job(folder: Path, brief: Any, task: Any, train: Any, validation: Any, statistics: dict[str, Any]) -> Path:
    """One epoch of the brief's training as a job's folder."""
    from dl_pipelines.brief.references import TaskRef
    from dl_pipelines.training.job import Job, write_rows

    folder.mkdir(parents=True)
    for split, rows in (("train", train), ("validation", validation)):
        write_rows(folder, split, rows)
    ref = TaskRef(name=task.name, params=task.params.model_dump(mode="json"))
    training = brief.training.model_copy(update={"epochs": 1})
    job = Job(
        folder, ref, brief.architecture.family, training, brief.distributed, brief.data.augmentation, statistics, folder
    )
    return job.write()


def train_ours(job: Path) -> float:
    """Seconds from the first step to the calibrated model, with the checkpoint and the validation of the epoch."""
    from dl_pipelines.store import durable
    from dl_pipelines.training.job import RESULT, Job
    from dl_pipelines.training.launch import run_locally, worker_environment

    durable.remove_tree(job.parent / "checkpoints")
    command = [sys.executable, "-m", "dl_pipelines.training.supervise", "--job", str(job)]
    run_locally(command, worker_environment(Job.read(job).distributed.threads))
    return durable.read_json(job.parent / RESULT)["seconds"]


class Peer(PeerProcess):
    """The library's process while it is open."""

    def __init__(self, folder: Path):
        super().__init__("benchmarks.forecast_peer", "neuralforecast", folder)

    def __enter__(self) -> Peer:
        return self

    def train(self, windows: int, history: int) -> dict[str, Any]:
        """Train on so many windows with so many days of history; `seconds`, and `windows` as they were."""
        return self.ask({"train": windows, "history": history})

    def forecast(self) -> Any:
        """Of the last trained model, float32 [origins, items, horizon]."""
        import numpy as np

        path = self.folder / "forecasts.npy"
        self.ask({"forecast": str(path)})
        return np.load(path, allow_pickle=False)
