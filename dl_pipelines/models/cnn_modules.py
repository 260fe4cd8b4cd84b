"""The modules of the CNN; imported only where torch may be."""

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

    def __init__(self, mean: list[float], std: list[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """See the class."""
        scaled = pixels.permute(0, 3, 1, 2).to(torch.float32) / 255.0
        return (scaled - self.mean) / self.std


def build_cnn(
    signature: Signature, statistics: Mapping[str, Any], width: int, blocks: int, dropout: float
) -> nn.Module:
    """The network for a signature of one image and one vector of logits."""
    height, side, channels = signature.inputs[0].shape
    classes = signature.outputs[0].shape[0]
    layers: list[nn.Module] = [Normalise(statistics["mean"], statistics["std"])]
    before, size = channels, min(height, side)
    for block in range(blocks):
        after = width * 2**block
        for _ in range(2):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            before = after
        if size >= 4:
            layers.append(nn.MaxPool2d(2))
            size //= 2
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(before, classes)]
    return nn.Sequential(*layers)
