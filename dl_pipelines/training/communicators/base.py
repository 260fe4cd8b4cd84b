"""The contract between the training loop and whatever lets workers talk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from dl_pipelines.brief.sections import Distributed

Named = Sequence[tuple[str, torch.nn.Parameter]]


class CommunicatorError(ValueError):
    """Workers can't talk: what was found, and the command that mends it."""


class Exchange:
    """The gradients of one optimizer's parameters, averaged over the workers at each step.

    A step is `zero`, `backward` for each micro-batch, `finish`, then the optimizer's own step. This one is of a single
    worker: there is nothing to exchange.
    """

    def __init__(self, parameters: Named):
        self.parameters = [parameter for _, parameter in parameters]

    def zero(self) -> None:
        """Forget the gradients of the step before."""
        for parameter in self.parameters:
            parameter.grad = None

    def backward(self, loss: torch.Tensor, last: bool = True) -> None:
        """Add the gradients of a micro-batch; those of the `last` one may be exchanged while they are computed."""
        loss.backward()

    def finish(self) -> None:
        """Wait until every gradient is the mean over the workers."""


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

    @abstractmethod
    def exchange(self, parameters: Named, settings: Distributed) -> Exchange:
        """How the gradients of these parameters (the same names in the same order on each worker) become means."""

    def close(self) -> None:  # noqa: B027 - nothing to leave is the default
        """Leave the group."""
