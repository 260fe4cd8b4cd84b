"""The training loop: the same for every family, communicator and device. No Dagster, no files but its checkpoints.

Each rank takes every size-th record of an order that all draw alike, so that a step's global batch is `size` times
`accumulate` times `batch_size`; the learning rate is used as given for that. Everything random is drawn from
(seed, epoch, rank), and the rest is in the checkpoints: a training that goes on is bitwise the undisturbed one.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dl_pipelines.brief.sections import Distributed, Training
from dl_pipelines.data.augmentation import Online
from dl_pipelines.data.feed import Feed
from dl_pipelines.models.recipe import Loss, Objective, Phase, Recipe
from dl_pipelines.tasks.base import Task
from dl_pipelines.training import compiling, precision, resuming, schedules
from dl_pipelines.training.averaging import Averages
from dl_pipelines.training.beat import BEAT_SECONDS, Beat, Say
from dl_pipelines.training.communicators.base import Communicator
from dl_pipelines.training.job import Epoch
from dl_pipelines.training.moving import Moving
from dl_pipelines.training.optimizers import Mover
from dl_pipelines.training.resuming import Progress
from dl_pipelines.training.validating import answer

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]
Batch = tuple[torch.Tensor, torch.Tensor]
LOOK_STEPS = 10
"""Steps between looks at the loss: at each the host waits for the device."""

AHEAD = 2
"""Batches that the host makes while a GPU computes; on a CPU making them would take the cores from the step."""

NOTHING = nullcontext()


class NotFinite(ValueError):
    """The loss became infinite or not a number."""


class Trainer:
    """One rank's training. `train` is (inputs, targets, ids); `validation` likewise; `say` tells rank 0's progress.

    `factors`: see Moving.
    """

    def __init__(
        self, recipe: Recipe, task: Task, training: Training, online: Online, communicator: Communicator,
        distributed: Distributed | None = None, say: Say | None = None, beat_seconds: float = BEAT_SECONDS,
        factors: Mapping[str, float] | None = None,
    ):  # fmt: skip
        self.recipe, self.task, self.training, self.online = recipe, task, training, online
        self.communicator, self.say = communicator, say or (lambda _: None)
        self._beat = Beat(self.say, training.epochs, beat_seconds)
        self.numerics = precision.choose(training)
        self.scaler, self._autocast = self.numerics.scaler(), self.numerics.autocast()
        self._share_start()
        self._moving, self.objectives = Moving(recipe, factors or {}), _objectives(recipe)
        given = distributed or Distributed(communicator="single", workers=1)
        self.movers: dict[str, Mover] = {}
        for name, item in self.objectives.items():
            named, modules = self._moving.named(item), [recipe.modules[key] for key in item.modules]
            self.movers[name] = Mover(name, training, named, modules, self._moving.factors)
        self.exchanges = {
            name: communicator.exchange(self._moving.named(item), given) for name, item in self.objectives.items()
        }
        self.averages = None if training.ema is None else Averages(recipe.network, training.ema)
        higher = task.metrics[task.primary].better == "higher"
        self.plateau, self.stopping = schedules.Plateau(higher), schedules.Stopping(training.patience, higher)
        self.best: dict[str, torch.Tensor] = {}
        self.compiling = compiling.Choice(False, "nothing was left to train")
        self._losses: Mapping[str, Loss] = {name: item.loss for name, item in self.objectives.items()}
        self.total, self._unseen = 0.0, list[torch.Tensor]()
        """Of the losses of this epoch that were looked at, and those on the device that were not yet."""

    def run(self, train: Arrays, validation: Arrays, folder: Path, until: int | None = None) -> list[Epoch]:
        """Train every epoch that `folder` has no checkpoint of; returns the curves from the first epoch on.

        With `until` it stops after that epoch, to go on another time; schedules still go by all epochs. At the end the
        network has the weights that are the model: averaged, or of the best epoch, as the brief says.
        """
        given, rank, size = self.training, self.communicator.rank, self.communicator.size
        gpu = self.numerics.device.type == "cuda"
        ahead = AHEAD if gpu else 0
        feed = Feed(train, self.online, given.batch_size, given.seed, rank, size, ahead, pinned=gpu)
        done, last = resuming.restore(self, folder), min(given.epochs, until or given.epochs)
        if done.epoch < last and not self.stopping.over:
            self._choose_compiling(feed, folder, done)
        while done.epoch < last and not self.stopping.over:
            epoch, started = done.epoch + 1, time.monotonic() - done.seconds
            loss = self._epoch(epoch, feed, done.step, partial(self._keep_within, folder, done, started))
            resuming.average_buffers(self)
            metrics = self._measure(epoch, validation)
            rate = self._rate(epoch * self._steps(feed) - 1, self._steps(feed))
            line = Epoch(epoch, loss, metrics, rate, round(time.monotonic() - started, 3))
            self._judge(epoch, metrics)
            done = Progress(epoch, curves=[*done.curves, line])
            resuming.keep(self, folder, done)
            self.say({"epoch": epoch, "epochs": given.epochs, "train_loss": loss, "validation": metrics})
            self.communicator.barrier()
        self._settle()
        return done.curves

    def ran(self) -> dict[str, Any]:
        """What was chosen for this machine, and why the training ended early, if it did."""
        stopped = self.stopping.told(self.task.primary) if self.stopping.over else None
        return {
            "device": self.numerics.device.type, "precision": self.numerics.precision,
            "compile": self.compiling.plain(), "stopped": stopped,
        }  # fmt: skip

    def _epoch(self, epoch: int, feed: Feed, first: int = 0, keep: Callable[[int], None] | None = None) -> float:
        """All steps from `first` on; `keep` is called between steps where a checkpoint is due. Mean loss of a batch."""
        phase, steps, given = self._phase(epoch), self._steps(feed), self.training
        self._begin(epoch, phase, first)
        batches = self._batches(feed, epoch, first)
        for step in range(first, steps):
            number = (epoch - 1) * steps + step
            group = list(itertools.islice(batches, given.accumulate))
            with self._perhaps_compiling(epoch, step, steps) if step == first else NOTHING:
                self._step(phase, group, self._rate(number, steps))
            if self.averages is not None:
                self.averages.update(number + 1)
            if step == first or (step + 1) % LOOK_STEPS == 0:
                self._require_finite("training loss", self.look(), f"step {step + 1} of epoch {epoch}")
            due = given.checkpoint_steps is not None and (number + 1) % given.checkpoint_steps == 0
            if due and keep is not None and step + 1 < steps:
                keep(step + 1)
            self._beat.tell(epoch, step + 1, steps)
        mean = torch.tensor([self.look() / feed.steps], dtype=torch.float64)
        loss = float(self.communicator.all_reduce(mean, average=True))
        self._require_finite("training loss", loss, f"epoch {epoch}")
        return loss

    def _begin(self, epoch: int, phase: Phase, first: int) -> None:
        if first == 0:
            torch.manual_seed(_seed(self.training.seed, epoch, self.communicator.rank))
            self.total, self._unseen = 0.0, []
        self._moving.begin(phase, {name: mover.parameters for name, mover in self.movers.items()})

    def _batches(self, feed: Feed, epoch: int, first: int) -> Iterator[Batch]:
        put = self.numerics.put
        return ((put(inputs), put(targets)) for inputs, targets in feed.epoch(epoch, first * self.training.accumulate))

    def _step(self, phase: Phase, batches: list[Batch], rate: float) -> None:
        """For each objective the gradients of all batches, then its optimizers' step. Nothing here waits for a GPU."""
        several = len(phase.objectives) > 1
        for objective in phase.objectives:
            exchange, mover = self.exchanges[objective.name], self.movers[objective.name]
            exchange.zero()
            with self._moving.only(exchange.parameters) if several else NOTHING:
                for place, batch in enumerate(batches, 1):
                    with self._autocast:
                        loss = self._loss(objective, batch)
                    if objective is phase.objectives[-1]:
                        self._unseen.append(loss.detach())
                    exchange.backward(self._scaled(loss, len(batches)), place == len(batches))
            exchange.finish()
            mover.step(rate, self.scaler)
        if self.scaler is not None:
            self.scaler.update()

    def _loss(self, objective: Objective, batch: Batch) -> torch.Tensor:
        # Compiled for one shape: a last, smaller batch of an epoch is not worth another compilation.
        whole = batch[0].shape[0] == self.training.batch_size
        loss = self._losses[objective.name] if whole else objective.loss
        return loss(self.recipe.modules, *batch)

    def _scaled(self, loss: torch.Tensor, batches: int) -> torch.Tensor:
        mean = loss / batches if batches > 1 else loss
        return mean if self.scaler is None else self.scaler.scale(mean)

    def look(self) -> float:
        """The sum of this epoch's losses so far; the host waits for the device."""
        if self._unseen:
            for loss in torch.stack(self._unseen).tolist():  # one after the other: the same sum, however often it looks
                self.total += loss
            self._unseen = []
        return self.total

    def require_finite_weights(self, when: str) -> None:
        """Raise NotFinite, on every rank, unless all losses and weights of all ranks are finite."""
        weights = torch.stack([value.detach().sum(dtype=torch.float64) for value in self._moving.movable])
        found = torch.tensor([(self.look() + float(weights.sum())) * 0])
        self._require_finite("sum of weights", float(self.communicator.all_reduce(found)), when)

    def _require_finite(self, what: str, value: float, when: str) -> None:
        if not math.isfinite(value):
            raise NotFinite(
                f"found a {what} of {value} in {when}; expected a finite one; lower training.learning_rate (now "
                f"{self.training.learning_rate:g}), or look at the records of the window"
            )

    def _keep_within(self, folder: Path, done: Progress, started: float, step: int) -> None:
        resuming.keep(self, folder, Progress(done.epoch, step, time.monotonic() - started, done.curves))

    def _model(self) -> torch.nn.Module:
        """What is validated."""
        return self.recipe.network if self.averages is None else self.averages.network

    def _measure(self, epoch: int, validation: Arrays) -> dict[str, float]:
        """The task's metrics on all validation rows."""
        outputs = answer(self._model(), validation[0], self.communicator, self.numerics)
        self._require_finite("validation output", float(outputs.sum(dtype=np.float64)), f"epoch {epoch}")
        return {name: round(value, 6) for name, value in self.task.measure(outputs, np.asarray(validation[1])).items()}

    def _judge(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """What follows from an epoch's metrics: a lower rate, the best weights. Earlier phases train other things."""
        if self._phase(epoch) is not self.recipe.phases[-1]:
            return
        value = metrics[self.task.primary]
        if self.training.schedule == "plateau":
            self.plateau.see(value)
        if self.training.patience is not None and self.stopping.see(epoch, value):
            self.best = {name: tensor.detach().clone() for name, tensor in self._model().state_dict().items()}

    def _settle(self) -> None:
        """The weights that are the model, in the network that is exported."""
        if self.best or self.averages is not None:
            self.recipe.network.load_state_dict(self.best or self._model().state_dict())
        if self.compiling.compiled:
            compiling.forget()

    def _rate(self, step: int, steps: int) -> float:
        return schedules.rate(self.training, step, steps, self.plateau.factor)

    def _steps(self, feed: Feed) -> int:
        return math.ceil(feed.steps / self.training.accumulate)

    def _phase(self, epoch: int) -> Phase:
        reached = 0.0
        for phase in self.recipe.phases:
            reached += phase.share * self.training.epochs
            if epoch <= reached + 1e-9:
                return phase
        return self.recipe.phases[-1]

    def _share_start(self) -> None:
        """Every rank starts from rank 0's weights, on its own device."""
        for module in self.recipe.modules.values():
            self.communicator.share(module.state_dict().values())
            module.to(self.numerics.device)

    def _choose_compiling(self, feed: Feed, folder: Path, done: Progress) -> None:
        epoch, given = done.epoch + 1, self.training
        left = (given.epochs - done.epoch) * feed.steps

        def choose() -> compiling.Choice:
            if done.compiling is not None:
                return done.compiling
            objectives, modules = self._phase(epoch).objectives, self.recipe.modules
            with self._beat.during(epoch, 0, self._steps(feed)):
                self._begin(epoch, self._phase(epoch), 1)
                first = self._batches(feed, epoch, 0)
                return compiling.decide(given.compile, objectives, modules, self.numerics, lambda: next(first), left)

        self.compiling = compiling.agree(self.communicator, folder / compiling.CHOICE, choose)
        if self.compiling.compiled:
            self._losses = compiling.compile_losses(list(self.objectives.values()))

    def _perhaps_compiling(self, epoch: int, step: int, steps: int) -> AbstractContextManager[None]:
        return self._beat.during(epoch, step, steps) if self.compiling.compiled else NOTHING


def _objectives(recipe: Recipe) -> dict[str, Objective]:
    return {item.name: item for phase in recipe.phases for item in phase.objectives}


def _seed(seed: int, epoch: int, rank: int) -> int:
    return (seed * 1_000_003 + epoch * 1009 + rank) % 2**63
