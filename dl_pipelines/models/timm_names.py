"""timm's names of MobileNetV3's and EfficientNet's weights in those of torchvision; of ResNets both have the same."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch

Tensors = Mapping[str, torch.Tensor]
STEM = "conv_stem.weight"
_PARTS = re.compile(r"blocks\.(\d+)\.(\d+)\.(conv_pwl|conv_pw|conv_dw|conv|bn\d|se\.conv_reduce|se\.conv_expand)\.(.+)")


def as_torchvision(tensors: Tensors) -> Iterator[dict[str, torch.Tensor]]:
    """The tensors as torchvision's MobileNetV3 and as its EfficientNet name them; nothing where they are not timm's."""
    for start in [name.removesuffix(STEM) for name in tensors if name.endswith(STEM)]:
        own = {name.removeprefix(start): value for name, value in tensors.items()}
        yield _of_torchvision(own, flat=True)
        yield _of_torchvision(own, flat=False)


def _of_torchvision(tensors: Tensors, flat: bool) -> dict[str, torch.Tensor]:
    """Timm's MobileNetV3 (`flat`: blocks are numbered through) or EfficientNet (by stage) in torchvision's names.

    Both number the parts of a block in the order of the computation: 1 x 1, depthwise, squeeze and excite, 1 x 1.
    """
    parts = [part for name in tensors if (part := _PARTS.fullmatch(name))]
    blocks = sorted({(int(part[1]), int(part[2])) for part in parts})
    stages = 1 + max((stage for stage, _ in blocks), default=0)
    last = f"features.{len(blocks) if flat else stages + 1}"
    fixed = {"conv_stem": "features.0.0", "bn1": "features.0.1"}
    if flat:
        fixed |= {"conv_head": "classifier.0", "classifier": "classifier.3"}
    else:
        fixed |= {"conv_head": f"{last}.0", "bn2": f"{last}.1", "classifier": "classifier.1"}
    found: dict[str, torch.Tensor] = {}
    for name, value in tensors.items():
        part = _PARTS.fullmatch(name)
        if part is None:
            module, _, kind = name.rpartition(".")
            found[f"{fixed.get(module, module)}.{kind}"] = value
            continue
        block = int(part[1]), int(part[2])
        place = f"features.{1 + blocks.index(block)}" if flat else f"features.{1 + block[0]}.{block[1]}"
        found[f"{place}.{_part(tensors, name, part[3])}.{part[4]}"] = value
    return found


def _part(tensors: Tensors, name: str, part: str) -> str:
    """Where torchvision keeps a part of a block."""
    block = name[: name.index(part)]
    there = [
        unit for unit in ("conv_pw", "conv_dw", "se.conv_reduce", "conv_pwl") if f"{block}{unit}.weight" in tensors
    ]
    if "conv_pwl" not in there:  # the first block has no 1 x 1 convolution in front, and calls its last one so
        there = [unit for unit in ("conv_dw", "se.conv_reduce", "conv_pw") if unit in there]
    if not there:  # a convolution and a norm, no block
        return {"conv": "0", "bn1": "1"}[part]
    if part.startswith("se."):
        return f"block.{there.index('se.conv_reduce')}.{'fc1' if part.endswith('reduce') else 'fc2'}"
    if part.startswith("bn"):
        convolutions = [unit for unit in there if not unit.startswith("se.")]
        return f"block.{there.index(convolutions[int(part[2:]) - 1])}.1"
    return f"block.{there.index(part)}.0"
