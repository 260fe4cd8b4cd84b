"""Horovod over gloo: the default for more than one worker. The only module that imports Horovod."""

from __future__ import annotations

import time
from typing import Any

import torch

from dl_pipelines.brief.sections import Distributed
from dl_pipelines.training.communicators.base import (
    Communicator,
    CommunicatorError,
    Exchange,
    Named,
    refuse_adasum,
)
from dl_pipelines.training.communicators.bucket import FEW
from dl_pipelines.training.communicators.buckets import Buckets

NAP_SECONDS = 0.0002
"""Between two looks at what was started. Horovod's own wait keeps a core busy: that of another worker's training."""


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
        self.on_one_machine = hvd.local_size() == self.size > 1

    def broadcast(self, tensor: torch.Tensor, root: int = 0) -> torch.Tensor:
        """See Communicator."""
        return self.wait(self._hvd.broadcast_async(tensor, root))

    def all_reduce(self, tensor: torch.Tensor, average: bool = False) -> torch.Tensor:
        """See Communicator."""
        return self.wait(self._hvd.allreduce_async(tensor, op=self._hvd.Average if average else self._hvd.Sum))

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """See Communicator."""
        return self.wait(self._hvd.allgather_async(tensor.contiguous()))

    def reduce_scatter(self, tensor: torch.Tensor) -> torch.Tensor:
        """See Communicator; on the CPU the sum is cut, because gloo has no reduce-scatter of its own."""
        return self.all_reduce(tensor).chunk(self.size)[self.rank].clone()

    def barrier(self) -> None:
        """See Communicator."""
        self.all_reduce(torch.zeros(1))

    def start_all_reduce(self, tensor: torch.Tensor, name: str, adasum: bool = False) -> Any:
        """See Communicator."""
        return self._hvd.allreduce_async_(tensor, name=name, op=self._hvd.Adasum if adasum else self._hvd.Sum)

    def start_all_gather(self, tensor: torch.Tensor, name: str) -> Any:
        """See Communicator."""
        return self._hvd.allgather_async(tensor, name=name)

    def wait(self, started: Any) -> torch.Tensor:
        """See Communicator."""
        while not self._hvd.poll(started):
            time.sleep(NAP_SECONDS)
        found = self._hvd.synchronize(started)
        assert found is not None, "each is waited for once"
        return found

    def adds(self, dtype: torch.dtype, device: torch.device) -> bool:
        """See Communicator: bfloat16 is unknown to Horovod, and its gloo adds fp16 bit by bit (5 times as long)."""
        if dtype == torch.float16:
            return device.type != "cpu" or self.size > FEW
        return dtype != torch.bfloat16

    def exchange(self, parameters: Named, settings: Distributed) -> Exchange:
        """See Communicator."""
        on_gpu = any(parameter.is_cuda for _, parameter in parameters)
        if not (self._hvd.mpi_built() or (on_gpu and self._hvd.nccl_built())):
            refuse_adasum(settings, "a Horovod built without MPI")
        if settings.reduction == "adasum" and self.size & (self.size - 1):
            raise CommunicatorError(
                f"found distributed.reduction adasum with {self.size} workers; expected 2, 4, 8 or another power of two"
            )
        return Buckets(parameters, self, settings)

    def close(self) -> None:
        """See Communicator."""
        self._hvd.shutdown()
