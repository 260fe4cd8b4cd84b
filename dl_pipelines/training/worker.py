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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dl_pipelines.store import durable
from dl_pipelines.training.job import FINAL, PROGRESS, RESULT, Job
from dl_pipelines.training.warm import START

if TYPE_CHECKING:
    import numpy as np
    import torch


def main() -> None:
    """Read the job, train, write the result."""
    begin(run, __doc__)


def begin(train: Callable[[Job], None], about: str | None) -> None:
    """Train the job on the command line; what a person can mend is written for whoever started this process."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--job", type=Path, required=True)
    path = parser.parse_args().job
    try:
        train(Job.read(path))
    except ValueError as error:
        rank = os.environ.get("HOROVOD_RANK", os.environ.get("RANK", "0"))
        durable.write_json(path.parent / f"failure-{rank}.json", {"message": str(error)})
        raise


def run(job: Job, until: int | None = None) -> None:
    """Train as one rank of the job's communicator, up to an epoch or to the end; may be called again and again."""
    with settings(job):
        _run(job, until)


@contextmanager
def settings(job: Job) -> Iterator[None]:
    """Torch's settings of the process, for this job alone: the next one must find nothing of it.

    The job's threads, and operations that give the same bits each time: one that has none raises RuntimeError.
    """
    import torch

    threads, mode, dtype = torch.get_num_threads(), torch.get_deterministic_debug_mode(), torch.get_default_dtype()
    state = torch.get_rng_state()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it a GPU's products are not deterministic
    torch.set_num_threads(job.distributed.threads)
    torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms imports the compiler: 1.6 s
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(mode)
        torch.set_default_dtype(dtype)
        torch.set_rng_state(state)


def _run(job: Job, until: int | None) -> None:
    import torch

    from dl_pipelines.data.augmentation import Online
    from dl_pipelines.models.registry import FAMILIES
    from dl_pipelines.tasks.registry import TASKS
    from dl_pipelines.training.changes import changed
    from dl_pipelines.training.communicators import connect
    from dl_pipelines.training.loop import BEAT_SECONDS, Trainer

    communicator = connect(job.distributed.communicator)
    task = TASKS.make(job.task)
    torch.manual_seed(job.training.seed)
    recipe = FAMILIES.make(job.family).recipe(task, job.statistics, job.training)
    recipe = changed(recipe, job.changes, task, job.statistics, job.training)
    factors = _begin_from(job, recipe.network)

    def say(line: Mapping[str, Any]) -> None:
        if communicator.rank == 0:
            with (job.folder / PROGRESS).open("a") as file:
                file.write(json.dumps({**line, "at": time.time()}) + "\n")

    say({"workers": communicator.size, "communicator": communicator.name})
    train, online = _rows(job, "train"), Online(job.augmentation, task.signature())
    beat = min(BEAT_SECONDS, job.distributed.stall_seconds / 4)
    trainer = Trainer(recipe, task, job.training, online, communicator, job.distributed, say, beat, factors)
    started = time.monotonic()
    validation = _rows(job, "validation")
    curves = trainer.run(train, validation, job.folder / "checkpoints", until)
    recipe.network.cpu()
    if recipe.calibrate is not None and communicator.rank == 0:
        recipe.calibrate(*validation[:2])
    seconds = time.monotonic() - started
    peak = torch.tensor([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024])
    peaks = communicator.all_gather(peak).tolist()
    if communicator.rank == 0:
        ran = sum(line.seconds for line in curves)
        durable.write_bytes(job.folder / FINAL, _weights(recipe.network))
        durable.write_json(job.folder / RESULT, {
            "communicator": communicator.name, "workers": communicator.size, "threads": job.distributed.threads,
            "seconds": round(seconds, 3), "samples_per_second": round(len(train[0]) * len(curves) / max(ran, 1e-9), 1),
            "peak_memory_mb": [round(value, 1) for value in peaks], "curves": [line.plain() for line in curves],
            "torch": torch.__version__, **trainer.ran(),
            "gradients": ", ".join(sorted({exchange.route for exchange in trainer.exchanges.values()})),
        })  # fmt: skip
    communicator.close()


def _rows(job: Job, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs and targets stay on the disk until they are read."""
    import numpy as np

    inputs, targets = (np.load(job.rows / f"{split}_{name}.npy", mmap_mode="r") for name in ("inputs", "targets"))
    return np.asarray(inputs), np.asarray(targets), np.load(job.rows / f"{split}_ids.npy")


def _begin_from(job: Job, network: torch.nn.Module) -> dict[str, float]:
    """Take over weights that the job begins from, if any; factors of the learning rate by parameter.

    The last model comes before pretrained weights: it began from those itself.
    """
    if (job.folder / START).exists():
        from safetensors.torch import load_file

        from dl_pipelines.models.weights import copy_weights

        copy_weights(network, load_file(job.folder / START))
        return {}
    if job.pretrained is None:
        return {}
    from dl_pipelines.models.finetune import prepare

    return prepare(network, job.pretrained)


def _weights(network: torch.nn.Module) -> bytes:
    """As safetensors, every name with its own values: what reads them knows of nothing shared."""
    from safetensors.torch import save

    seen: set[int] = set()
    state = {}
    for name, value in network.state_dict().items():
        state[name] = value.clone() if value.data_ptr() in seen else value.contiguous()
        seen.add(value.data_ptr())
    return save(state)


if __name__ == "__main__":
    main()
