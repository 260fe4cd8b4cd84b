"""torch.distributed over gloo; started by torchrun, which sets the environment it reads.

On one machine workers find each other through a file (`TORCH_STORE` names it): torch's own store is a server that
listens on every interface.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist

from dl_pipelines.brief.sections import Distributed
from dl_pipelines.training.communicators.base import Communicator, CommunicatorError, Exchange, Named, refuse_adasum
from dl_pipelines.training.communicators.buckets import Buckets
from dl_pipelines.training.launch import TORCH_STORE


class TorchCommunicator(Communicator):
    """Gradients are averaged by the all-reduce of `torch.distributed`."""

    name = "torch"

    def __init__(self) -> None:
        if "RANK" not in os.environ:
            raise CommunicatorError("found no RANK in the environment; expected to be started by torchrun (launch.py)")
        if store := os.environ.get(TORCH_STORE):
            rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
            dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
        else:
            dist.init_process_group("gloo")
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.on_one_machine = os.environ.get("LOCAL_WORLD_SIZE") == str(self.size) and self.size > 1

    def broadcast(self, tensor: torch.Tensor, root: int = 0) -> torch.Tensor:
        """See Communicator."""
        copy = tensor.clone()
        dist.broadcast(copy, root)
        return copy

    def all_reduce(self, tensor: torch.Tensor, average: bool = False) -> torch.Tensor:
        """See Communicator."""
        copy = tensor.clone()
        dist.all_reduce(copy)
        return copy / self.size if average else copy

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """See Communicator."""
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def reduce_scatter(self, tensor: torch.Tensor) -> torch.Tensor:
        """See Communicator; gloo has none of its own, so the sum is cut."""
        return self.all_reduce(tensor).chunk(self.size)[self.rank].clone()

    def barrier(self) -> None:
        """See Communicator."""
        dist.barrier()

    def start_all_reduce(self, tensor: torch.Tensor, name: str, adasum: bool = False) -> Any:
        """See Communicator."""
        return dist.all_reduce(tensor, async_op=True), tensor

    def start_all_gather(self, tensor: torch.Tensor, name: str) -> Any:
        """See Communicator."""
        gathered = tensor.new_empty(self.size * tensor.numel())
        return dist.all_gather(list(gathered.chunk(self.size)), tensor, async_op=True), gathered

    def wait(self, started: Any) -> torch.Tensor:
        """See Communicator."""
        work, tensor = started
        work.wait()
        return tensor

    def exchange(self, parameters: Named, settings: Distributed) -> Exchange:
        """See Communicator."""
        refuse_adasum(settings, "torch.distributed")
        return Buckets(parameters, self, settings)

    def close(self) -> None:
        """See Communicator."""
        dist.destroy_process_group()
