"""Horovod over gloo: the default for more than one worker. The only module that imports Horovod."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from dl_pipelines.training.communicators.base import Communicator, CommunicatorError


class HorovodCommunicator(Communicator):
    """Gradients are averaged by Horovod's DistributedOptimizer (Sergeev and Del Balso, 2018)."""

    name = "horovod"

    def __init__(self) -> None:
        try:
            import horovod.torch as hvd
        except ImportError as error:
            raise CommunicatorError(
                f"found no working Horovod ({error}); expected the wheel that set-up builds; run `make setup`, then "
                "`dlp doctor`, or set distributed.communicator to torch"
            ) from error
        hvd.init()
        self._hvd = hvd
        self.rank, self.size = hvd.rank(), hvd.size()

    def broadcast(self, tensor: torch.Tensor, root: int = 0) -> torch.Tensor:
        """See Communicator."""
        return self._hvd.broadcast(tensor, root)

    def all_reduce(self, tensor: torch.Tensor, average: bool = False) -> torch.Tensor:
        """See Communicator."""
        return self._hvd.allreduce(tensor, op=self._hvd.Average if average else self._hvd.Sum)

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """See Communicator."""
        return self._hvd.allgather(tensor.contiguous())

    def reduce_scatter(self, tensor: torch.Tensor) -> torch.Tensor:
        """See Communicator; on the CPU the sum is cut, because gloo has no reduce-scatter of its own."""
        return self.all_reduce(tensor).chunk(self.size)[self.rank].clone()

    def barrier(self) -> None:
        """See Communicator."""
        self._hvd.barrier()

    def wrap_optimizer(
        self, optimizer: torch.optim.Optimizer, named: Iterable[tuple[str, torch.nn.Parameter]], compression: str
    ) -> torch.optim.Optimizer:
        """See Communicator; `compression` is none or fp16.

        The gradients of a step are one group: what Horovod fuses by arrival time would change the order of sums.
        """
        kind = getattr(self._hvd.Compression, compression)
        return self._hvd.DistributedOptimizer(optimizer, named_parameters=list(named), compression=kind, num_groups=1)

    def step(self, optimizer: torch.optim.Optimizer, change: Callable[[], None] | None = None) -> None:
        """See Communicator. Horovod averages in `step`; what changes gradients has to wait for the averages."""
        if change is None:
            optimizer.step()
            return
        wrapped: Any = optimizer
        wrapped.synchronize()
        change()
        with wrapped.skip_synchronize():
            optimizer.step()

    def close(self) -> None:
        """See Communicator."""
        self._hvd.shutdown()
