"""One worker process: `python -m dl_pipelines.training.worker --job job.json`. Only rank 0 writes progress and results.

A failure of our own making (bad input, a loss that is not finite) is written to `failure-<rank>.json`, so that the
supervisor can tell it from a worker that was lost.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dl_pipelines.store import durable
from dl_pipelines.training.job import FINAL, PROGRESS, RESULT, Job


def main() -> None:
    """Read the job, train, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=Path, required=True)
    path = parser.parse_args().job
    try:
        run(Job.read(path))
    except ValueError as error:
        rank = os.environ.get("HOROVOD_RANK", os.environ.get("RANK", "0"))
        durable.write_json(path.parent / f"failure-{rank}.json", {"message": str(error)})
        raise


def run(job: Job, until: int | None = None) -> None:
    """Train as one rank of the job's communicator, up to an epoch or to the end; may be called again and again."""
    import numpy as np
    import torch
    from safetensors.torch import load_file, save

    from dl_pipelines.data.augmentation import Online
    from dl_pipelines.models.registry import FAMILIES
    from dl_pipelines.models.weights import copy_weights
    from dl_pipelines.tasks.registry import TASKS
    from dl_pipelines.training.communicators import connect
    from dl_pipelines.training.loop import BEAT_SECONDS, Trainer
    from dl_pipelines.training.warm import START

    torch.set_num_threads(job.distributed.threads)
    torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms imports the compiler: 1.6 s
    communicator = connect(job.distributed.communicator)
    task = TASKS.make(job.task)
    torch.manual_seed(job.training.seed)
    recipe = FAMILIES.make(job.family).recipe(task, job.statistics, job.training)
    if (job.folder / START).exists():
        copy_weights(recipe.network, load_file(job.folder / START))

    def rows(split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        inputs, targets = (np.load(job.rows / f"{split}_{name}.npy", mmap_mode="r") for name in ("inputs", "targets"))
        return inputs, targets, np.load(job.rows / f"{split}_ids.npy")

    def say(line: Mapping[str, Any]) -> None:
        if communicator.rank == 0:
            with (job.folder / PROGRESS).open("a") as file:
                file.write(json.dumps({**line, "at": time.time()}) + "\n")

    say({"workers": communicator.size, "communicator": communicator.name})
    train, online = rows("train"), Online(job.augmentation, task.signature())
    beat = min(BEAT_SECONDS, job.distributed.stall_seconds / 4)
    trainer = Trainer(recipe, task, job.training, online, communicator, job.distributed, say, beat)
    started = time.monotonic()
    validation = rows("validation")
    curves = trainer.run(train, validation, job.folder / "checkpoints", until)
    if recipe.calibrate is not None and communicator.rank == 0:
        recipe.calibrate(np.asarray(validation[0]), np.asarray(validation[1]))
    seconds = time.monotonic() - started
    peak = torch.tensor([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024])
    peaks = communicator.all_gather(peak).tolist()
    if communicator.rank == 0:
        state = {name: value.contiguous() for name, value in recipe.network.state_dict().items()}
        durable.write_bytes(job.folder / FINAL, save(state))
        ran = sum(line.seconds for line in curves)
        durable.write_json(job.folder / RESULT, {
            "communicator": communicator.name, "workers": communicator.size, "threads": job.distributed.threads,
            "seconds": round(seconds, 3), "samples_per_second": round(len(train[0]) * len(curves) / max(ran, 1e-9), 1),
            "peak_memory_mb": [round(value, 1) for value in peaks], "curves": [line.plain() for line in curves],
            "torch": torch.__version__,
        })  # fmt: skip
    communicator.close()


if __name__ == "__main__":
    main()
