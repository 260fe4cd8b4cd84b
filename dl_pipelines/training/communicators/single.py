"""One process: nobody to talk to."""

from __future__ import annotations

import torch

from dl_pipelines.brief.sections import Distributed
from dl_pipelines.training.communicators.base import Communicator, Exchange, Named


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

    def exchange(self, parameters: Named, settings: Distributed) -> Exchange:
        """See Communicator."""
        return Exchange(parameters)
