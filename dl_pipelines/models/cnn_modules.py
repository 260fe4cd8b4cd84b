"""The plain CNN, and torchvision's networks adapted to the size of the image; imported only where torch may be."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from dl_pipelines.models.image_modules import Normalise, convolution, sizes
from dl_pipelines.tasks.base import Signature

HALVED = (8, 16, 56, 97)
"""Sides in pixels from which on a published network halves its grid twice, thrice and so on."""
MOMENTUM = 0.1
"""Of the running statistics of norms. MobileNetV3's own 0.01 is for 600 epochs of ImageNet: after 130 steps on the
digits it decides by chance (8 %), and with 0.1 rightly (99 %)."""


def build_cnn(
    signature: Signature, statistics: Mapping[str, Any], network: str, widths: Sequence[int], depths: Sequence[int],
    dropout: float,
) -> nn.Module:  # fmt: skip
    """The network for a signature of one image and one vector of logits; channels and convolutions by plain block."""
    if network == "plain":
        return _plain(signature, statistics, widths, depths, dropout)
    return _published(signature, statistics, network, dropout)


def _plain(
    signature: Signature, statistics: Mapping[str, Any], widths: Sequence[int], depths: Sequence[int], dropout: float
) -> nn.Module:  # fmt: skip
    height, side, before, classes = sizes(signature)
    layers: list[nn.Module] = [Normalise(statistics)]
    for after, pooled, depth in zip(widths, _pooled(min(height, side), len(widths)), depths, strict=True):
        for _ in range(depth):
            layers += convolution(before, after)
            before = after
        if pooled:
            layers.append(nn.MaxPool2d(2))
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(before, classes)]
    return nn.Sequential(*layers)


def plain_layers(signature: Signature, depths: Sequence[int]) -> list[str]:
    """What the plain network's layers are, in their order: `2.0 norm` is of the third block's first convolution."""
    height, side, _, _ = sizes(signature)
    found = ["normalise"]
    for block, (pooled, depth) in enumerate(zip(_pooled(min(height, side), len(depths)), depths, strict=True)):
        found += [f"{block}.{layer} {kind}" for layer in range(depth) for kind in ("convolution", "norm", "relu")]
        found += [f"{block} pool"] if pooled else []
    return [*found, "average", "flatten", "dropout", "head"]


def _pooled(size: int, blocks: int) -> list[bool]:
    """After which blocks the grid is halved: where there are 4 pixels to a side."""
    return [size // 2**block >= 4 for block in range(blocks)]


def _published(signature: Signature, statistics: Mapping[str, Any], network: str, dropout: float) -> nn.Module:
    """The parameters keep torchvision's names below `body`, so that its checkpoints can be told from them."""
    import torchvision

    height, width, channels, classes = sizes(signature)
    make = getattr(torchvision.models, network)
    if network.startswith("resnet"):
        body = make(weights=None, num_classes=classes)
        # A name of its own would move `fc`; on pooled features it is the same dropout.
        body.avgpool = nn.Sequential(body.avgpool, nn.Dropout(dropout))
    else:
        body = make(weights=None, num_classes=classes, dropout=dropout)
    steps = list(_halving(body))
    assert len(steps) == 1 + len(HALVED), network
    for step in steps[: len(steps) - halvings(min(height, width))]:
        _keep_size(body, step)
    _take_channels(body, channels)
    for layer in body.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = MOMENTUM
    return nn.Sequential(OrderedDict(normalise=Normalise(statistics), body=body))


def halvings(side: int) -> int:
    """How often the grid of an image is halved: 32 pixels thrice, as He et al. (2016) do; from 97 on as published."""
    return 1 + sum(side >= least for least in HALVED)


def _halving(body: Any) -> Iterator[list[str]]:
    """Names of the modules of each halving, in the order in which small images do without."""
    if hasattr(body, "maxpool"):
        yield ["maxpool"]
        yield ["conv1"]
        stages = [(name, getattr(body, name)) for name in ("layer1", "layer2", "layer3", "layer4")]
    else:
        stages = [(f"features.{name}", stage) for name, stage in body.features.named_children()]
    for name, stage in stages:
        found = [
            f"{name}.{inner}" for inner, layer in stage.named_modules()
            if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2)
        ]  # fmt: skip
        if found:
            yield found


def _keep_size(body: nn.Module, names: list[str]) -> None:
    """Let modules no longer halve: a pooling goes, a stem of 7 x 7 becomes one of 3 x 3, strides become 1."""
    for name in names:
        layer: Any = body.get_submodule(name)
        if isinstance(layer, nn.MaxPool2d):
            body.set_submodule(name, nn.Identity())
        elif layer.kernel_size == (7, 7):
            body.set_submodule(name, _stem(layer, layer.in_channels, 3, 1))
        else:
            layer.stride = (1, 1)


def _take_channels(body: nn.Module, channels: int) -> None:
    """A first convolution for grey images, where they are."""
    name, first = next((name, layer) for name, layer in body.named_modules() if isinstance(layer, nn.Conv2d))
    if first.in_channels != channels:
        body.set_submodule(name, _stem(first, channels, first.kernel_size[0], first.stride[0]))


def _stem(like: nn.Conv2d, channels: int, kernel: int, stride: int) -> nn.Conv2d:
    """Another first convolution, initialised as torchvision does."""
    made = nn.Conv2d(channels, like.out_channels, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    return made
