"""The contract between the training loop and whatever lets workers talk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

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

    @property
    def route(self) -> str:
        """The way that gradients take from worker to worker, known after the first step."""
        return "none"

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
    on_one_machine: bool = False
    """Whether there are several workers, all where they may share memory."""

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
    def start_all_reduce(self, tensor: torch.Tensor, name: str, adasum: bool = False) -> Any:
        """Begin to turn a tensor, in place, into the sum over the workers (or Adasum's); returns what `wait` takes.

        Every worker starts the same names in the same order, and a name again only after it was waited for.
        """

    @abstractmethod
    def start_all_gather(self, tensor: torch.Tensor, name: str) -> Any:
        """Begin to gather every worker's tensor [N]; `wait` gives [size * N]. Names as in `start_all_reduce`."""

    @abstractmethod
    def wait(self, started: Any) -> torch.Tensor:
        """The tensor of what was started, when it is done."""

    def adds(self, dtype: torch.dtype, device: torch.device) -> bool:
        """Whether `start_all_reduce` adds numbers of a type (as fast as gathering them would be)."""
        return True

    @abstractmethod
    def exchange(self, parameters: Named, settings: Distributed) -> Exchange:
        """How the gradients of these parameters (the same names in the same order on each worker) become means.

        Raises CommunicatorError for settings that this communicator can't follow.
        """

    def share(self, tensors: Iterable[torch.Tensor]) -> None:
        """Put rank 0's values into tensors, in one message for all of a type."""
        for alike in _by_type(tensors):
            _spread(self.broadcast(_joined(alike)), alike)

    def average(self, tensors: Iterable[torch.Tensor]) -> None:
        """Put the mean over the workers into tensors of real numbers, in one message for all of a type."""
        for alike in _by_type(tensors):
            _spread(self.all_reduce(_joined(alike), average=True), alike)

    def close(self) -> None:  # noqa: B027 - nothing to leave is the default
        """Leave the group."""


def refuse_adasum(settings: Distributed, found: str) -> None:
    """Raise CommunicatorError when Adasum is wanted of what has none."""
    if settings.reduction == "adasum":
        raise CommunicatorError(
            f"found distributed.reduction adasum with {found}; expected Horovod with MPI, or with NCCL on a GPU; set "
            "distributed.reduction to average"
        )


def _by_type(tensors: Iterable[torch.Tensor]) -> list[list[torch.Tensor]]:
    groups: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
    for tensor in tensors:
        groups.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    return list(groups.values())


def _joined(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).cpu()


def _spread(flat: torch.Tensor, tensors: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view(tensor.shape))
