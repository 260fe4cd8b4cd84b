"""What of a training is kept so that it goes on bit for bit: every tensor that a step reads, and where it stands.

Weights, optimizers, averages and the best weights are the same on every rank. What differs by rank (random state, the
sum of its losses and, within an epoch, batch norm's statistics) is gathered, and each rank takes back its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dl_pipelines.training import checkpoint as saved
from dl_pipelines.training.communicators.base import CommunicatorError
from dl_pipelines.training.compiling import Choice
from dl_pipelines.training.job import Epoch

if TYPE_CHECKING:
    from dl_pipelines.training.loop import Trainer


@dataclass
class Progress:
    """Where a training stands: `epoch` epochs are done and `step` steps of the next, which took `seconds`."""

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    curves: list[Epoch] = field(default_factory=list)
    compiling: Choice | None = None
    """What was chosen before it stopped."""


def keep(trainer: Trainer, folder: Path, done: Progress) -> None:
    """Write the checkpoint of where it stands. Every rank calls it, rank 0 writes; raises NotFinite instead."""
    where = f"step {done.step} of epoch {done.epoch + 1}" if done.step else f"epoch {done.epoch}"
    trainer.require_finite_weights(where)
    tensors = _gathered(trainer)
    if trainer.communicator.rank != 0:
        return
    model, aliases = saved.model_tensors(trainer.recipe.modules)
    tensors |= model
    for name, mover in trainer.movers.items():
        tensors |= saved.optimizer_tensors(name, mover.optimizers)
    if trainer.averages is not None:
        tensors |= {f"average/{name}": value for name, value in trainer.averages.network.state_dict().items()}
    tensors |= {f"best/{name}": value for name, value in trainer.best.items()}
    about = {
        "curves": [line.plain() for line in done.curves], "seconds": done.seconds, "aliases": aliases,
        "plateau": vars(trainer.plateau), "stopping": vars(trainer.stopping), "compile": trainer.compiling.plain(),
        "scaler": None if trainer.scaler is None else trainer.scaler.state_dict(),
    }  # fmt: skip
    saved.save_checkpoint(folder, done.epoch, tensors, about, done.step)


def restore(trainer: Trainer, folder: Path) -> Progress:
    """Take up the newest whole checkpoint; from the start when there is none."""
    found = saved.load_checkpoint(folder)
    _require_one_position(trainer, folder, (found[1]["epoch"], found[1]["step"]) if found else (0, 0))
    if found is None:
        return Progress()
    tensors, about = found
    saved.restore_model(trainer.recipe.modules, tensors, about["aliases"])
    for name, mover in trainer.movers.items():
        saved.restore_optimizer(name, mover.optimizers, tensors)
    if trainer.averages is not None:
        trainer.averages.network.load_state_dict(saved.part(tensors, "average/"))
    trainer.best = saved.part(tensors, "best/")
    vars(trainer.plateau).update(about["plateau"])
    vars(trainer.stopping).update(about["stopping"])
    if trainer.scaler is not None:
        trainer.scaler.load_state_dict(about["scaler"])
    _take_own(trainer, saved.part(tensors, f"rank/{trainer.communicator.rank}/"))
    curves = [Epoch(**line) for line in about["curves"]]
    return Progress(about["epoch"], about["step"], about["seconds"], curves, Choice(**about["compile"]))


def average_buffers(trainer: Trainer) -> None:
    """Batch norm's running statistics differ by rank; their mean is what validates and is saved after an epoch."""
    if trainer.communicator.size > 1:
        trainer.communicator.average(buffer for buffer in _buffers(trainer) if buffer.is_floating_point())


def _require_one_position(trainer: Trainer, folder: Path, position: tuple[int, int]) -> None:
    every = trainer.communicator.all_gather(torch.tensor([position])).tolist()
    if any(other != every[0] for other in every):
        raise CommunicatorError(
            f"found that the ranks go on from {every} (epochs, steps of the next); expected one position; let all see "
            f"the same {folder}"
        )


def _buffers(trainer: Trainer) -> list[torch.Tensor]:
    followers = [] if trainer.averages is None else [trainer.averages.network]
    modules: Iterable[torch.nn.Module] = [*trainer.recipe.modules.values(), *followers]
    return list({id(value): value for module in modules for value in module.buffers()}.values())


def _gathered(trainer: Trainer) -> dict[str, torch.Tensor]:
    """What differs by rank, of every rank, by `rank/<rank>/<name>`."""
    own = {"random": torch.get_rng_state(), "total": torch.tensor(trainer.look(), dtype=torch.float64)}
    if trainer.numerics.device.type == "cuda":
        own["random_cuda"] = torch.cuda.get_rng_state()
    if trainer.communicator.size > 1:
        own |= {f"buffer/{place}": value for place, value in enumerate(_buffers(trainer))}
    found = {}
    for name, value in own.items():
        every = trainer.communicator.all_gather(value.detach().cpu().reshape(1, *value.shape).contiguous())
        found |= {f"rank/{rank}/{name}": part.clone() for rank, part in enumerate(every)}
    return found


def _take_own(trainer: Trainer, own: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(own["random"])
    if "random_cuda" in own:
        torch.cuda.set_rng_state(own["random_cuda"])
    trainer.total = float(own["total"])
    if trainer.communicator.size > 1:
        for place, buffer in enumerate(_buffers(trainer)):
            buffer.copy_(own[f"buffer/{place}"])
