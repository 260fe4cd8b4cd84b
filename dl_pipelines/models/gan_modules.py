"""Discriminator and generator, and what each of them minimises; imported only where torch may be."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from dl_pipelines.models.autoencoder_modules import Painter
from dl_pipelines.models.classification_loss import Criterion
from dl_pipelines.models.image_modules import Normalise, halved, halvings_to, sizes
from dl_pipelines.models.recipe import Objective, Phase
from dl_pipelines.tasks.base import Signature

GRID, WIDEST, FEATURES = 4, 4, 128
"""Pixels of a side that are left, channels in those of the first convolution, numbers that the head decides by."""
GROUPS, SLOPE = 8, 0.2
"""Of the norms and of the leaky ReLUs."""


def build_network(signature: Signature, statistics: Mapping[str, Any], width: int, dropout: float) -> nn.Module:
    """uint8 [N, H, W, C] -> logits [N, K]. Norms are of each image alone: generated ones must not shift the real."""
    height, side, channels, classes = sizes(signature)
    layers, before = _seen(channels, width, 1), width
    widths = _widths(height, side, width)
    for after in widths:
        layers += _seen(before, after, 2)
        before = after
    places = halved(height, len(widths)) * halved(side, len(widths))
    layers += [nn.Flatten(), nn.Linear(before * places, FEATURES), nn.LeakyReLU(SLOPE), nn.Dropout(dropout)]
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        normalise=Normalise(statistics), features=nn.Sequential(*layers), head=nn.Linear(FEATURES, classes)
    )
    return nn.Sequential(parts)


def build_generator(signature: Signature, width: int, latent: int) -> nn.Module:
    """Numbers [N, `latent`] -> images float32 [N, C, H, W] in 0..1."""
    height, side, channels, _ = sizes(signature)
    widths = _widths(height, side, width)
    grid = halved(height, len(widths)), halved(side, len(widths))
    return nn.Sequential(Painter(latent, channels, height, side, widths, grid), nn.Sigmoid())


def _widths(height: int, side: int, width: int) -> list[int]:
    times = halvings_to(min(height, side), GRID)
    return [width * min(2 ** (step + 1), WIDEST) for step in range(times)]


def _seen(before: int, after: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.GroupNorm(GROUPS, after), nn.LeakyReLU(SLOPE),
    ]  # fmt: skip


def adversarial(criterion: Criterion, latent: int, unsupervised: float) -> Phase:
    """Each step moves the discriminator by all rows of the batch, then the generator by as many that it draws."""

    def drawn(modules: Mapping[str, Any], inputs: torch.Tensor) -> torch.Tensor:
        """Generated images as the features take them."""
        made = modules["generator"](torch.randn(len(inputs), latent, device=inputs.device))
        return modules["network"].normalise.scaled(made)

    def discriminator(modules: Mapping[str, Any], inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        network = modules["network"]
        real = network(inputs)
        generated = network.head(network.features(drawn(modules, inputs)))
        return criterion(real, targets) + unsupervised * real_or_generated(real, generated)

    def generator(modules: Mapping[str, Any], inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        network = modules["network"]
        with torch.no_grad():
            wanted = network.features(network.normalise(inputs)).float().mean(dim=0)
        return functional.mse_loss(network.features(drawn(modules, inputs)).float().mean(dim=0), wanted)

    objectives = (
        Objective("discriminator", ("network",), discriminator),
        Objective("generator", ("generator",), generator),
    )
    return Phase("adversarial", objectives)


def real_or_generated(real: torch.Tensor, generated: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of K logits [N, K] and a further one, "generated", which is 0 (Salimans et al., 2016, 4)."""
    of_real, of_generated = (logits.float().logsumexp(dim=1) for logits in (real, generated))
    return 0.5 * (functional.softplus(-of_real).mean() + functional.softplus(of_generated).mean())
