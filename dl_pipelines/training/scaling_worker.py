"""One worker of a scaling report: `python -m dl_pipelines.training.scaling_worker --job job.json`.

It trains one epoch with the loop of every training, and keeps the time of each step from outside: waiting for the next
batch, waiting for the other workers' gradients, the rest of the step. On a GPU it waits for the device at each mark.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from dl_pipelines.data.feed import Feed
from dl_pipelines.store import durable
from dl_pipelines.training.communicators.base import Exchange
from dl_pipelines.training.energy import find_counter
from dl_pipelines.training.job import PROGRESS, Job
from dl_pipelines.training.loop import Trainer
from dl_pipelines.training.scaling_runs import TIMED
from dl_pipelines.training.worker import begin


def main() -> None:
    """Read the job, train, write what was timed."""
    begin(run, __doc__)


def run(job: Job) -> None:
    """Train one epoch as a rank of the job's communicator; rank 0 writes TIMED."""
    import numpy as np

    from dl_pipelines.data.augmentation import Online
    from dl_pipelines.models.registry import FAMILIES
    from dl_pipelines.tasks.registry import TASKS
    from dl_pipelines.training.communicators import connect

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as every training: see worker.py
    torch.set_deterministic_debug_mode("error")
    torch.set_num_threads(job.distributed.threads)
    communicator = connect(job.distributed.communicator)
    task = TASKS.make(job.task)
    torch.manual_seed(job.training.seed)
    recipe = FAMILIES.make(job.family).recipe(task, job.statistics, job.training)

    def rows(split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        inputs, targets = (np.load(job.rows / f"{split}_{name}.npy", mmap_mode="r") for name in ("inputs", "targets"))
        return np.asarray(inputs), np.asarray(targets), np.load(job.rows / f"{split}_ids.npy")

    def say(line: Mapping[str, Any]) -> None:
        if communicator.rank == 0:
            with (job.folder / PROGRESS).open("a") as file:
                file.write(json.dumps({**line, "at": time.time()}) + "\n")

    say({"workers": communicator.size, "communicator": communicator.name})
    online = Online(job.augmentation, task.signature())
    trainer = Timed(recipe, task, job.training, online, communicator, job.distributed, say)
    curves = trainer.run(rows("train"), rows("validation"), job.folder / "checkpoints", 1)
    # Of a step the workers wait for each other in turn: the split is their mean.
    steps = communicator.all_gather(torch.tensor([trainer.steps], dtype=torch.float64)).mean(0)
    if communicator.rank == 0:
        durable.write_json(job.folder / TIMED, {
            "communicator": communicator.name, "workers": communicator.size, "energy_j": trainer.joules,
            "steps": steps.tolist(), "curve": curves[-1].plain(),
        })  # fmt: skip
    communicator.close()


class Timed(Trainer):
    """A training that keeps the time: `steps` are seconds of each step by PARTS; `joules` of all of them."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.steps: list[list[float]] = []
        self.joules: float | None = None
        self._clock = Clock()
        self.exchanges: Any = {name: TimedExchange(item, self._clock) for name, item in self.exchanges.items()}

    def _epoch(self, epoch: int, feed: Feed, *args: Any, **options: Any) -> float:
        timed: Any = TimedFeed(feed, self._clock)
        counter = find_counter()[0] if self.communicator.rank == 0 else None
        train = partial(super()._epoch, epoch, timed, *args, **options)
        self._clock.take()
        if counter is None:
            return train()
        loss, self.joules = counter.around(train)
        return loss

    def _step(self, *args: Any, **options: Any) -> Any:
        with self._clock.during("step"):
            found = super()._step(*args, **options)
        whole, spent = self._clock.take()
        waited, batch = spent.get("communication", 0.0), spent.get("input", 0.0)
        self.steps.append([spent["step"] - waited, waited, batch, max(0.0, whole - spent["step"] - batch)])
        return found


class Clock:
    """Seconds by name since the last look."""

    def __init__(self) -> None:
        self._spent: dict[str, float] = {}
        self._since = now()

    @contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Add what passes to a name."""
        started = now()
        yield
        self._spent[name] = self._spent.get(name, 0.0) + now() - started

    def take(self) -> tuple[float, dict[str, float]]:
        """All seconds since the last look, and those of each name."""
        found, end = self._spent, now()
        whole, self._spent, self._since = end - self._since, {}, end
        return whole, found


class TimedFeed:
    """A feed whose batches are waited for on the clock."""

    def __init__(self, feed: Feed, clock: Clock):
        self._feed, self._clock = feed, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._feed, name)

    def epoch(self, *args: Any, **options: Any) -> Iterator[Any]:
        """See Feed.epoch."""
        batches = iter(self._feed.epoch(*args, **options))
        while True:
            with self._clock.during("input"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch


class TimedExchange:
    """An exchange of gradients whose end is waited for on the clock; what goes on before hides behind computing."""

    def __init__(self, exchange: Exchange, clock: Clock):
        self._exchange, self._clock = exchange, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._exchange, name)

    def finish(self) -> None:
        """See Exchange.finish."""
        with self._clock.during("communication"):
            self._exchange.finish()


def now() -> float:
    """Seconds of a clock; what a GPU was given to do is done by then."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
