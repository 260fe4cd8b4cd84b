"""Encoder, decoder and head, and the loss of the denoising; imported only where torch may be."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from dl_pipelines.models.image_modules import Normalise, convolution, enlargement, halved, halvings_to, sizes
from dl_pipelines.models.recipe import Objective, Phase
from dl_pipelines.tasks.base import Signature

GRID = 4
"""Pixels of a side that are left before the code."""
WIDEST = 8
"""Channels grow until they are so many times those of the first convolution."""


def build_network(
    signature: Signature, statistics: Mapping[str, Any], width: int, code: int, dropout: float
) -> nn.Module:
    """uint8 [N, H, W, C] -> logits [N, K], by way of the code [N, `code`]."""
    height, side, channels, classes = sizes(signature)
    widths, (rows, columns) = _grid(height, side, width)
    layers, before = [*convolution(channels, width)], width
    for after in widths:
        layers += convolution(before, after, stride=2)
        before = after
    encoder = nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * rows * columns, code))
    head = nn.Sequential(nn.ReLU(), nn.Dropout(dropout), nn.Linear(code, classes))
    return nn.Sequential(OrderedDict(normalise=Normalise(statistics), encoder=encoder, head=head))


def build_decoder(signature: Signature, width: int, code: int) -> nn.Module:
    """The code [N, `code`] -> a normalised image [N, C, H, W]."""
    height, side, channels, _ = sizes(signature)
    return Painter(code, channels, height, side, *_grid(height, side, width))


def _grid(height: int, side: int, width: int) -> tuple[list[int], tuple[int, int]]:
    """Channels after each convolution of stride 2, and the grid that is left."""
    times = halvings_to(min(height, side), GRID)
    return [width * min(2**step, WIDEST) for step in range(times)], (halved(height, times), halved(side, times))


class Painter(nn.Module):
    """Vectors [N, `given`] -> images [N, channels, height, width]: a small grid, doubled step by step, then cut."""

    def __init__(
        self, given: int, channels: int, height: int, width: int, widths: list[int], grid: tuple[int, int]
    ):  # fmt: skip
        super().__init__()
        before = widths[-1]
        layers: list[nn.Module] = [
            nn.Linear(given, before * grid[0] * grid[1]), nn.Unflatten(1, (before, *grid)), nn.ReLU(),
        ]  # fmt: skip
        for after in reversed(widths):
            layers += enlargement(before, after)
            before = after
        self.layers = nn.Sequential(*layers, nn.Conv2d(before, channels, 3, 1, 1))
        self.height, self.width = height, width

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return self.layers(vectors)[:, :, : self.height, : self.width]


def denoising(noise: float, share: float) -> Phase:
    """The mean squared error of images that are mended from noisy ones, in variances of a pixel."""

    def loss(modules: Mapping[str, Any], inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        clean = modules["network"].normalise(inputs)
        noisy = clean + noise * torch.randn_like(clean)
        return functional.mse_loss(modules["decoder"](modules["encoder"](noisy)).float(), clean)

    return Phase("denoising", (Objective("reconstruction", ("encoder", "decoder"), loss),), share)
