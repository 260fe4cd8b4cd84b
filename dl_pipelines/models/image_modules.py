"""Modules that several families of images share; imported only where torch may be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dl_pipelines.tasks.base import Signature


class Normalise(nn.Module):
    """uint8 [N, H, W, C] -> float32 [N, C, H, W] with mean 0 and deviation 1 over the training records."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, statistics: Mapping[str, Any]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(statistics["mean"]).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(statistics["std"]).view(1, -1, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return self.scaled(pixels.permute(0, 3, 1, 2).to(torch.float32) / 255.0)

    def scaled(self, shares: torch.Tensor) -> torch.Tensor:
        """The same of float32 [N, C, H, W] in 0..1."""
        return (shares - self.mean) / self.std


def sizes(signature: Signature) -> tuple[int, int, int, int]:
    """Height, width, channels and classes of a signature of one image and one vector of logits."""
    height, width, channels = signature.inputs[0].shape
    return height, width, channels, signature.outputs[0].shape[0]


def convolution(before: int, after: int, stride: int = 1) -> list[nn.Module]:
    """A 3 x 3 convolution, batch norm and ReLU."""
    return [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]


def enlargement(before: int, after: int) -> list[nn.Module]:
    """Twice the height and width: a convolution whose channels become pixels (Shi et al., 2016), batch norm, ReLU."""
    return [
        nn.Conv2d(before, 4 * after, 3, 1, 1, bias=False), nn.PixelShuffle(2), nn.BatchNorm2d(after), nn.ReLU(),
    ]  # fmt: skip


def halved(side: int, times: int) -> int:
    """A side in pixels after so many convolutions of stride 2."""
    return -(-side // 2**times)


def halvings_to(side: float, most: int) -> int:
    """How often a side is halved until at most so many pixels are left; at least once."""
    times = 1
    while side / 2**times > most:
        times += 1
    return times
