"""Transformer blocks over the parts of an image, and two networks of them; imported only where torch may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from dl_pipelines.models.image_modules import Normalise, convolution, halved, halvings_to, sizes
from dl_pipelines.tasks.base import Signature

PATCHES = 8
"""Patches along a side of a square image, where the brief does not say how large one is."""


class SelfAttention(nn.Module):
    """Scaled dot products in several heads (Vaswani et al., 2017): [N, T, D] -> [N, T, D]."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.embed_dim, self.num_heads = width, heads
        self.asked = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, parts: torch.Tensor) -> torch.Tensor:
        """See the class."""
        split = self.asked(parts).unflatten(2, (3, self.num_heads, self.embed_dim // self.num_heads))
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)  # each [N, heads, T, D / heads]
        found = functional.scaled_dot_product_attention(query, key, value)
        return self.out(found.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention, then two dense layers, each after a norm and added to what came in (Xiong et al., 2020)."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.before_attention, self.attention = nn.LayerNorm(width), SelfAttention(width, heads)
        self.before_dense = nn.LayerNorm(width)
        self.dense = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )

    def forward(self, parts: torch.Tensor) -> torch.Tensor:
        """[N, T, D] -> [N, T, D]."""
        parts = parts + self.attention(self.before_attention(parts))
        return parts + self.dense(self.before_dense(parts))


class AttentionNetwork(nn.Module):
    """uint8 [N, H, W, C] -> logits [N, K]: `stem` makes a grid [N, D, h, w], whose places the blocks compare.

    `grid` is (h, w); `missing` the pixels that the stem's input lacks below and at the right. Each place has a learned
    position; the answer is made from the mean over all places.
    """

    def __init__(
        self, normalise: Normalise, stem: nn.Module, grid: tuple[int, int], width: int, depth: int, heads: int,
        dropout: float, classes: int, missing: tuple[int, int] = (0, 0),
    ):  # fmt: skip
        super().__init__()
        self.normalise, self.stem, self.missing = normalise, stem, missing
        # As large as what the stem gives: with the usual 0.02 a short training never finds out where things are.
        self.position = nn.Parameter(torch.randn(grid[0] * grid[1], width) * 0.5)
        self.blocks = nn.Sequential(*(Block(width, heads, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, classes))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """See the class."""
        image = self.normalise(pixels)
        if any(self.missing):
            image = functional.pad(image, (0, self.missing[1], 0, self.missing[0]))  # zero is the mean of a channel
        parts = self.stem(image).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(parts)).mean(dim=1))


def build_vit(
    signature: Signature, statistics: Mapping[str, Any], patch: int | None, width: int, depth: int, heads: int,
    dropout: float,
) -> nn.Module:  # fmt: skip
    """Patches of `patch` x `patch` pixels, each a vector by one convolution (Dosovitskiy et al., 2021)."""
    height, side, channels, classes = sizes(signature)
    patch = patch or fitting_patch(height, side)
    grid = -(-height // patch), -(-side // patch)
    missing = grid[0] * patch - height, grid[1] * patch - side
    stem = nn.Conv2d(channels, width, patch, patch)
    return AttentionNetwork(Normalise(statistics), stem, grid, width, depth, heads, dropout, classes, missing)


def fitting_patch(height: int, width: int) -> int:
    """The side of a patch in pixels with which a square image has about 8 x 8 of them; at least 2."""
    return max(2, round(math.sqrt(height * width) / PATCHES))


def build_conv_attention(
    signature: Signature, statistics: Mapping[str, Any], width: int, depth: int, heads: int, dropout: float
) -> nn.Module:
    """Convolutions of stride 2 until about 8 x 8 places are left, then blocks (Xiao et al., 2021)."""
    height, side, channels, classes = sizes(signature)
    times = halvings_to(math.sqrt(height * side), PATCHES)
    before, layers = max(4, width // 2), list[nn.Module]()
    layers += convolution(channels, before)
    for _ in range(times):
        layers += convolution(before, width, stride=2)
        before = width
    grid = halved(height, times), halved(side, times)
    stem = nn.Sequential(*layers)
    return AttentionNetwork(Normalise(statistics), stem, grid, width, depth, heads, dropout, classes)
