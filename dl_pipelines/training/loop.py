"""The training loop: the same for every family and communicator. No Dagster, no files but its checkpoints.

Each rank takes every size-th record of an order that all draw alike, so that a step's global batch is `size` times
`batch_size`; the learning rate is used as given for that global batch. Everything random is drawn from
(seed, epoch, rank), so that a training that goes on from a checkpoint is bitwise the one that was not interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dl_pipelines.brief.sections import Distributed, Training
from dl_pipelines.data.augmentation import Online
from dl_pipelines.data.feed import Feed
from dl_pipelines.models.recipe import Objective, Phase, Recipe
from dl_pipelines.tasks.base import Task
from dl_pipelines.training import checkpoint as saved
from dl_pipelines.training.communicators.base import Communicator, CommunicatorError
from dl_pipelines.training.job import Epoch

Say = Callable[[Mapping[str, Any]], None]
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]
BEAT_SECONDS = 2.0


class NotFinite(ValueError):
    """The loss became infinite or not a number."""


class Trainer:
    """One rank's training. `train` is (inputs, targets, ids); `validation` likewise; `say` tells rank 0's progress."""

    def __init__(
        self, recipe: Recipe, task: Task, training: Training, online: Online, communicator: Communicator,
        distributed: Distributed | None = None, say: Say | None = None, beat_seconds: float = BEAT_SECONDS,
    ):  # fmt: skip
        self.recipe, self.task, self.training, self.online = recipe, task, training, online
        self.communicator, self.say = communicator, say or (lambda _: None)
        self._share_start()
        self.objectives = {item.name: item for phase in recipe.phases for item in phase.objectives}
        self.optimizers = {name: self._optimizer(item) for name, item in self.objectives.items()}
        given = distributed or Distributed(communicator="single", workers=1)
        self.exchanges = {
            name: communicator.exchange(self._named(item), given) for name, item in self.objectives.items()
        }
        self._beat_seconds, self._beat = beat_seconds, -math.inf

    def run(self, train: Arrays, validation: Arrays, folder: Path, until: int | None = None) -> list[Epoch]:
        """Train every epoch that `folder` has no checkpoint of; returns the curves from the first epoch on.

        With `until` it stops after that epoch, to go on another time; schedules still go by all epochs.
        """
        curves, first = self._resume(folder)
        given, rank, size = self.training, self.communicator.rank, self.communicator.size
        feed = Feed(train, self.online, given.batch_size, given.seed, rank, size)
        for epoch in range(first, min(given.epochs, until or given.epochs) + 1):
            started = time.monotonic()
            loss = self._epoch(epoch, feed)
            self._average_buffers()
            metrics = self._measure(epoch, validation)
            rate = self._rate(epoch * feed.steps - 1, feed.steps)
            seconds = time.monotonic() - started
            curves.append(Epoch(epoch, loss, metrics, rate, round(seconds, 3)))
            if rank == 0:
                self._checkpoint(folder, epoch, curves)
            self.say({"epoch": epoch, "epochs": given.epochs, "train_loss": loss, "validation": metrics})
            self.communicator.barrier()
        return curves

    def _epoch(self, epoch: int, feed: Feed) -> float:
        torch.manual_seed(_seed(self.training.seed, epoch, self.communicator.rank))
        for module in self.recipe.modules.values():
            module.train()
        phase, total, steps = self._phase(epoch), 0.0, feed.steps
        for step, batch in enumerate(feed.epoch(epoch)):
            inputs, targets = map(torch.from_numpy, batch)
            loss = self._step(phase, inputs, targets, self._rate((epoch - 1) * steps + step, steps))
            self._require_finite("training loss", loss, f"step {step + 1} of epoch {epoch}")
            total += loss
            self._tell_alive(epoch, step, steps)
        return float(self.communicator.all_reduce(torch.tensor([total / steps]), average=True))

    def _step(self, phase: Phase, inputs: torch.Tensor, targets: torch.Tensor, rate: float) -> float:
        last = 0.0
        for objective in phase.objectives:
            optimizer, exchange = self.optimizers[objective.name], self.exchanges[objective.name]
            for group in optimizer.param_groups:
                group["lr"] = rate
            exchange.zero()
            with self._only(exchange.parameters, len(phase.objectives) > 1):
                with self._precision():
                    loss = objective.loss(self.recipe.modules, inputs, targets)
                exchange.backward(loss)
            exchange.finish()
            self._clip(exchange.parameters)
            optimizer.step()
            last = float(loss.detach())
        return last

    @contextmanager
    def _only(self, parameters: list[torch.nn.Parameter], several: bool) -> Iterator[None]:
        """Gradients for nothing but the parameters of the objective at hand, where a step has several."""
        if not several:
            yield
            return
        mine = {id(parameter) for parameter in parameters}
        others = [
            value for module in self.recipe.modules.values() for value in module.parameters()
            if value.requires_grad and id(value) not in mine
        ]  # fmt: skip
        for value in others:
            value.requires_grad_(False)
        try:
            yield
        finally:
            for value in others:
                value.requires_grad_(True)

    def _clip(self, parameters: list[torch.nn.Parameter]) -> None:
        """Bound the global norm of an optimizer's gradients (Pascanu et al., 2013)."""
        if self.training.clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, self.training.clip)

    def _require_finite(self, what: str, value: float, when: str) -> None:
        if not math.isfinite(value):
            raise NotFinite(
                f"found a {what} of {value} in {when}; expected a finite one; lower training.learning_rate (now "
                f"{self.training.learning_rate:g}), or look at the records of the window"
            )

    def _measure(self, epoch: int, validation: Arrays) -> dict[str, float]:
        """The task's metrics on all validation rows; each rank answers its share."""
        inputs, targets, _ = validation
        rank, size = self.communicator.rank, self.communicator.size
        share = math.ceil(len(inputs) / size)
        mine = np.minimum(np.arange(share) * size + rank, len(inputs) - 1)
        network = self.recipe.network.eval()
        with torch.no_grad():
            parts = [
                network(torch.from_numpy(np.ascontiguousarray(inputs[mine[start : start + 256]])))
                for start in range(0, share, 256)
            ]
        found = torch.cat(parts)
        gathered = self.communicator.all_gather(found).numpy().reshape(size, share, *found.shape[1:])
        outputs = np.moveaxis(gathered, 0, 1).reshape(size * share, *found.shape[1:])[: len(inputs)]
        self._require_finite("validation output", float(outputs.sum(dtype=np.float64)), f"epoch {epoch}")
        return {name: round(value, 6) for name, value in self.task.measure(outputs, np.asarray(targets)).items()}

    def _rate(self, step: int, steps: int) -> float:
        """Linear warm-up, then a half cosine to zero (Loshchilov and Hutter, 2017) or constant."""
        given = self.training
        warm = given.warmup_epochs * steps
        if step < warm:
            return given.learning_rate * (step + 1) / (warm + 1)
        if given.schedule == "constant":
            return given.learning_rate
        done = (step - warm) / max(1.0, given.epochs * steps - warm)
        return given.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def _phase(self, epoch: int) -> Phase:
        reached = 0.0
        for phase in self.recipe.phases:
            reached += phase.share * self.training.epochs
            if epoch <= reached + 1e-9:
                return phase
        return self.recipe.phases[-1]

    def _named(self, objective: Objective) -> list[tuple[str, torch.nn.Parameter]]:
        return [
            (f"{objective.name}/{key}/{name}", parameter)
            for key in objective.modules
            for name, parameter in self.recipe.modules[key].named_parameters()
        ]

    def _optimizer(self, objective: Objective) -> torch.optim.Optimizer:
        named = self._named(objective)
        groups = [
            {"params": [value for _, value in named if value.ndim > 1], "weight_decay": self.training.weight_decay},
            {"params": [value for _, value in named if value.ndim <= 1], "weight_decay": 0.0},
        ]
        rate = self.training.learning_rate
        if self.training.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=rate, momentum=0.9)
        return torch.optim.AdamW(groups, lr=rate, fused=True)

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast("cpu", torch.bfloat16) if self.training.precision == "bf16" else nullcontext()

    def _share_start(self) -> None:
        """Every rank starts from rank 0's weights."""
        for module in self.recipe.modules.values():
            for tensor in module.state_dict().values():
                tensor.copy_(self.communicator.broadcast(tensor))

    def _average_buffers(self) -> None:
        """Batch norm's running statistics differ by rank; their mean is what validates and is saved."""
        for module in self.recipe.modules.values():
            for buffer in module.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(self.communicator.all_reduce(buffer, average=True))

    def _checkpoint(self, folder: Path, epoch: int, curves: list[Epoch]) -> None:
        tensors = saved.model_tensors(self.recipe.modules)
        for name, optimizer in self.optimizers.items():
            tensors |= saved.optimizer_tensors(name, optimizer)
        saved.save_checkpoint(folder, epoch, tensors, {"curves": [line.plain() for line in curves]})

    def _resume(self, folder: Path) -> tuple[list[Epoch], int]:
        found = saved.load_checkpoint(folder)
        epoch = found[1]["epoch"] if found else 0
        epochs = self.communicator.all_gather(torch.tensor([epoch])).tolist()
        if len(set(epochs)) > 1:
            raise CommunicatorError(
                f"found that the ranks go on from the epochs {epochs}; expected one; let all see the same {folder}"
            )
        if found is None:
            return [], 1
        tensors, about = found
        saved.restore_model(self.recipe.modules, tensors)
        for name, optimizer in self.optimizers.items():
            saved.restore_optimizer(name, optimizer, tensors)
        return [Epoch(**line) for line in about["curves"]], about["epoch"] + 1

    def _tell_alive(self, epoch: int, step: int, steps: int) -> None:
        if time.monotonic() - self._beat > self._beat_seconds:
            self._beat = time.monotonic()
            self.say({"epoch": epoch, "epochs": self.training.epochs, "step": step + 1, "steps": steps})


def _seed(seed: int, epoch: int, rank: int) -> int:
    return (seed * 1_000_003 + epoch * 1009 + rank) % 2**63
