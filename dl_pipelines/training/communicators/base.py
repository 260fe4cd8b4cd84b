"""The contract between the training loop and whatever lets workers talk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

import torch


class CommunicatorError(ValueError):
    """Workers can't talk: what was found, and the command that mends it."""


class Communicator(ABC):
    """Handed to the loop. Tensors are dense and contiguous; every worker calls with the same shapes."""

    name: str
    rank: int
    size: int

    @abstractmethod
    def broadcast(self, tensor: torch.Tensor, root: int = 0) -> torch.Tensor:
        """The root's tensor, on every worker."""

    @abstractmethod
    def all_reduce(self, tensor: torch.Tensor, average: bool = False) -> torch.Tensor:
        """The sum (or mean) over the workers, on every worker."""

    @abstractmethod
    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """Every worker's tensor [N, ...], one after the other by rank: [size * N, ...]."""

    @abstractmethod
    def reduce_scatter(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over the workers of [size * N, ...]; each keeps its own N rows."""

    @abstractmethod
    def barrier(self) -> None:
        """Wait for every worker."""

    def wrap_model(self, model: torch.nn.Module) -> torch.nn.Module:
        """The module whose forward the loop calls; its parameters are those of `model`."""
        return model

    def wrap_optimizer(
        self, optimizer: torch.optim.Optimizer, named: Iterable[tuple[str, torch.nn.Parameter]], compression: str
    ) -> torch.optim.Optimizer:
        """The optimizer whose `step` uses gradients averaged over the workers."""
        return optimizer

    def step(self, optimizer: torch.optim.Optimizer, change: Callable[[], None] | None = None) -> None:
        """One step of an optimizer from wrap_optimizer; `change` may alter the gradients, averaged over the workers."""
        if change is not None:
            change()
        optimizer.step()

    def close(self) -> None:  # noqa: B027 - nothing to leave is the default
        """Leave the group."""
