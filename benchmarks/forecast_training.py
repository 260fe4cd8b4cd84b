"""The two trainings that are timed against each other: ours, started as the line starts it, and the peer's process.

Imports, and starting workers, are in neither's seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.command import ROOT

PACKAGES = ROOT / ".venv-bench"


def write_job(folder: Path, brief: Any, task: Any, train: Any, validation: Any, statistics: dict[str, Any]) -> Path:
    """One epoch of the brief's training as a job's folder."""
    from dl_pipelines.brief.sections import TaskRef
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


class Peer:
    """The library's process while it is open; its error output is kept in `peer.log`."""

    def __init__(self, folder: Path):
        if not (PACKAGES / "neuralforecast").exists():
            raise SystemExit(
                f"found no neuralforecast in {PACKAGES.name}; expected the peer's packages: run `make bench`"
            )
        self.folder, self._log = folder, (folder / "peer.log").open("w")
        path = os.pathsep.join([str(PACKAGES), str(ROOT)])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.forecast_peer", str(folder)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.version = self._answer()["library"]

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def train(self, windows: int, history: int) -> dict[str, Any]:
        """Train on so many windows with so many days of history; `seconds`, and `windows` as they were."""
        return self._ask({"train": windows, "history": history})

    def forecast(self) -> Any:
        """Of the last trained model, float32 [origins, items, horizon]."""
        import numpy as np

        path = self.folder / "forecasts.npy"
        self._ask({"forecast": str(path)})
        return np.load(path, allow_pickle=False)

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        text = self._process.stdout.readline()
        if not text:
            self._log.flush()
            raise RuntimeError(f"the peer ended:\n{(self.folder / 'peer.log').read_text()[-3000:]}")
        return json.loads(text)
