"""Horovod over gloo: the default for more than one worker. The only module that imports Horovod."""

from __future__ import annotations

import torch

from dl_pipelines.brief.sections import Distributed
from dl_pipelines.training.communicators.base import Communicator, CommunicatorError, Exchange, Named
from dl_pipelines.training.communicators.buckets import Buckets


class HorovodCommunicator(Communicator):
    """Gradients are averaged by Horovod's all-reduce (Sergeev and Del Balso, 2018)."""

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

    def exchange(self, parameters: Named, settings: Distributed) -> Exchange:
        """See Communicator."""
        return Buckets(parameters, self, settings)

    def close(self) -> None:
        """See Communicator."""
        self._hvd.shutdown()
