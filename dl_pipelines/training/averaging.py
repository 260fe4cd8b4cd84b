"""Averaged weights: a second network that follows the trained one, and is the model in its place."""

from __future__ import annotations

import copy

import torch

from dl_pipelines.models.weights import AVERAGES


class Averages:
    """An exponential moving average of a network's weights and of its running statistics (Polyak and Juditsky, 1992).

    The decay rises to `decay` over the first steps, so that the start is soon forgotten: (1 + n) / (10 + n) at the
    n-th. Other buffers are those of the network.
    """

    def __init__(self, network: torch.nn.Module, decay: float):
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self._decay = decay
        averaged = {name for name, _ in network.named_parameters()}
        averaged |= {
            name for name, value in network.named_buffers()
            if name.rpartition(".")[2] in AVERAGES and value.is_floating_point()
        }  # fmt: skip
        mine, theirs = _values(self.network), _values(network)
        self._mine = [mine[name] for name in mine if name in averaged]
        self._theirs = [theirs[name].detach() for name in mine if name in averaged]  # the same memory
        self._copied = [(mine[name], theirs[name]) for name in mine if name not in averaged]

    def update(self, number: int) -> None:
        """Follow the network after its step `number`, from 1."""
        decay = min(self._decay, (1 + number) / (10 + number))
        with torch.no_grad():
            torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
                self._mine, self._theirs, 1 - decay
            )
            for mine, theirs in self._copied:
                mine.copy_(theirs)


def _values(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return dict([*network.named_parameters(), *network.named_buffers()])
