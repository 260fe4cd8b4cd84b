"""Run by every worker of a test: trainings that are interrupted at a step and go on, beside undisturbed ones."""

from __future__ import annotations

import hashlib
import json
import random
import sys
from pathlib import Path

import numpy as np
import torch

from dl_pipelines.brief.sections import Training
from dl_pipelines.data.augmentation import Online
from dl_pipelines.models.registry import FAMILIES
from dl_pipelines.store import durable
from dl_pipelines.tasks.registry import TASKS
from dl_pipelines.training import worker
from dl_pipelines.training.communicators import connect
from dl_pipelines.training.job import Job
from dl_pipelines.training.loop import Trainer

EPOCHS, STEPS = 2, 7
SETTINGS = {
    "adamw, averaged": {"ema": 0.9},
    "adam, bf16": {"optimizer": "adam", "precision": "bf16"},
    "sgd, accumulated": {"optimizer": "sgd", "accumulate": 2, "batch_size": 16},
    "rmsprop, plateau, averaged, early": {"optimizer": "rmsprop", "schedule": "plateau", "ema": 0.9, "patience": 2},
    "muon, one_cycle, bf16, accumulated": {"optimizer": "muon", "schedule": "one_cycle", "precision": "bf16",
                                           "accumulate": 2, "batch_size": 16},
}  # fmt: skip


class Killed(Exception):
    """As if by kill -9, on every rank after the same step."""


class Resumed:
    """The trainings of one rank."""

    def __init__(self, job: Job, name: str):
        self.job, self.communicator = job, connect(name)

    def weights(self, given: dict, folder: Path, kill: int | None = None) -> str | None:
        """sha256 of the final weights; None when it was killed after `kill` steps."""
        training = Training(epochs=EPOCHS, checkpoint_steps=2, **{"batch_size": 32, "learning_rate": 0.01, **given})
        task = TASKS.make(self.job.task)
        torch.manual_seed(0)
        recipe = FAMILIES.make(self.job.family).recipe(task, self.job.statistics, training)
        made = Trainer(recipe, task, training, Online(self.job.augmentation), self.communicator, self.job.distributed)
        step, done = made._step, []

        def counted(*args):
            if len(done) == kill:
                raise Killed
            done.append(1)
            step(*args)

        made._step = counted
        try:
            made.run(self.rows("train"), self.rows("validation"), folder)
        except Killed:
            return None
        return hashlib.sha256(worker._weights(recipe.network)).hexdigest()

    def rows(self, split: str) -> tuple[np.ndarray, ...]:
        return tuple(np.load(self.job.folder / f"{split}_{name}.npy") for name in ("inputs", "targets", "ids"))

    def newest(self, folder: Path, damage: bool) -> int:
        """The step of the newest checkpoint; with `damage` its end is cut off."""
        self.communicator.barrier()
        newest = max(folder.glob("epoch-*.json"), key=lambda path: path.stem)
        if damage and self.communicator.rank == 0:
            weights = newest.with_suffix(".safetensors")
            weights.write_bytes(weights.read_bytes()[:5000])
        step = durable.read_json(newest)["step"]
        self.communicator.barrier()
        return step

    def compare(self, name: str, damaged: bool) -> dict:
        """Weights of a training that is killed at a random step, and of one that is not."""
        folder, given = self.job.folder / name, SETTINGS[name]
        kill = random.Random(name).randrange(5, EPOCHS * STEPS)
        whole = self.weights(given, folder / "whole")
        assert self.weights(given, folder / "killed", kill) is None
        step = self.newest(folder / "killed", damaged)
        return {"whole": whole, "resumed": self.weights(given, folder / "killed"), "at": step}


def main() -> None:
    """Compare them all."""
    name, path = sys.argv[1], Path(sys.argv[2])
    job = Job.read(path)
    resumed = Resumed(job, name)
    with worker.settings(job):
        found = {setting: resumed.compare(setting, place == 0) for place, setting in enumerate(SETTINGS)}
    rank = resumed.communicator.rank
    compiler = [name for name in ("torch._dynamo", "torch._inductor") if name in sys.modules]
    (path.parent / f"found-{rank}.json").write_text(json.dumps({**found, "compiler": compiler}))
    resumed.communicator.close()


if __name__ == "__main__":
    main()
