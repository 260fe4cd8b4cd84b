"""Gradients exchanged bucket by bucket: the same code over every library that workers talk through."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dl_pipelines.brief.sections import Distributed
from dl_pipelines.training.communicators.base import Exchange, Named

if TYPE_CHECKING:
    from dl_pipelines.training.communicators.base import Communicator


class Buckets(Exchange):
    """Means over the workers of a communicator."""

    def __init__(self, parameters: Named, communicator: Communicator, settings: Distributed):
        super().__init__(parameters)
        self.communicator, self.settings = communicator, settings

    def finish(self) -> None:
        """See Exchange."""
        import torch

        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.copy_(self.communicator.all_reduce(parameter.grad, average=True))
