"""One process: nobody to talk to."""

from __future__ import annotations

import torch

from dl_pipelines.brief.sections import Distributed
from dl_pipelines.training.communicators.base import Communicator, Exchange, Named, refuse_adasum


class SingleCommunicator(Communicator):
    """Every collective gives back what it was given."""

    name = "single"
    rank = 0
    size = 1

    def broadcast(self, tensor: torch.Tensor, root: int = 0) -> torch.Tensor:
        """See Communicator."""
        return tensor

    def all_reduce(self, tensor: torch.Tensor, average: bool = False) -> torch.Tensor:
        """See Communicator."""
        return tensor

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """See Communicator."""
        return tensor

    def reduce_scatter(self, tensor: torch.Tensor) -> torch.Tensor:
        """See Communicator."""
        return tensor

    def barrier(self) -> None:
        """See Communicator."""

    def start_all_reduce(self, tensor: torch.Tensor, name: str, adasum: bool = False) -> torch.Tensor:
        """See Communicator."""
        return tensor

    def start_all_gather(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        """See Communicator."""
        return tensor

    def wait(self, started: torch.Tensor) -> torch.Tensor:
        """See Communicator."""
        return started

    def exchange(self, parameters: Named, settings: Distributed) -> Exchange:
        """See Communicator."""
        refuse_adasum(settings, "one process")
        return Exchange(parameters)
