"""Weights and activations are rounded while training as int8 will round them (Jacob et al., 2018, section 3).

Weights of convolutions and linear layers: symmetric int8, a scale for each output channel, always of the weights as
they are. Their inputs: uint8, a scale for each tensor, from ranges that were measured before: there is no state, so
that a training that goes on is bitwise the undisturbed one. Gradients pass straight through (Bengio et al., 2013).

Norms go by their running statistics, as the exported network does; folded into a convolution, a norm scales whole
output channels, so that rounding before it or after it is the same. The int8 graph rounds more than this: outputs,
biases, and what pooling, sums and activations take that no layer does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.brief.sections import Training
from dl_pipelines.models.recipe import Recipe
from dl_pipelines.tasks.base import Task
from dl_pipelines.training.changes import RecipeChange

BATCH = 64
"""Rows at once, where ranges are measured."""
WEIGHTS, REDUCED_WEIGHTS = 127, 64
"""Largest whole number of a weight; the range is symmetric."""
ACTIVATIONS = 255
"""Largest whole number of an activation; the least is 0."""

Ranges = Mapping[str, tuple[float, float]]
"""Smallest and largest input of each layer, by its name."""


class FakeQuantized(RecipeChange):
    """The layers in `ranges` are rounded, the others stay as they are. State and its names are those of the plan."""

    name = "fake_quantized"

    class Params(BaseParams):
        """`reduced` is ONNX Runtime's `reduce_range`, for CPUs without VNNI."""

        ranges: dict[str, tuple[float, float]] = Field(
            min_length=1, description="layer -> smallest and largest of its inputs, see input_ranges"
        )
        reduced: bool = Field(default=False, description="weights of seven bits in place of eight")

    params: Params

    def apply(self, recipe: Recipe, task: Task, statistics: Mapping[str, Any], training: Training) -> Recipe:
        """See RecipeChange. The network's own layers are changed in place; raises ValueError for unknown ones."""
        there = layers_of(recipe.network)
        unknown = [name for name in self.params.ranges if name not in there]
        if unknown:
            raise ValueError(
                f"found ranges of {unknown[0]!r}; expected layers of the network that can be rounded: "
                f"{', '.join(there) or 'it has none'}"
            )
        for name, (low, high) in self.params.ranges.items():
            layer = there[name]
            layer.__class__ = ROUNDED[type(layer)]  # names, hooks and identity of the parameters stay
            layer.input_scale, layer.input_zero = scale_and_zero(low, high)
            layer.weight_highest = REDUCED_WEIGHTS if self.params.reduced else WEIGHTS
        for layer in recipe.network.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):  # pyright: ignore[reportPrivateUsage]
                layer.register_forward_pre_hook(_keep_statistics)
        return recipe


def layers_of(network: nn.Module) -> dict[str, Any]:
    """What can be rounded: convolutions and linear layers that are used as such, by name."""
    return {name: layer for name, layer in network.named_modules() if type(layer) in ROUNDED}


def input_ranges(network: nn.Module, rows: np.ndarray) -> dict[str, tuple[float, float]]:
    """Smallest and largest input of each layer of a network in eval mode for rows [M, ...]; 0 is always inside.

    Layers that the rows never reach are left out. Raises ValueError without rows.
    """
    if not len(rows):
        raise ValueError("found no calibration rows; expected rows of the train split")
    found: dict[str, tuple[float, float]] = {}

    def look(name: str, given: torch.Tensor) -> None:
        low, high = found.get(name, (0.0, 0.0))
        found[name] = min(low, float(given.min())), max(high, float(given.max()))

    handles = [
        layer.register_forward_pre_hook(lambda _, given, name=name: look(name, given[0]))
        for name, layer in layers_of(network).items()
    ]
    with torch.no_grad():
        for at in range(0, len(rows), BATCH):
            network(torch.from_numpy(np.ascontiguousarray(rows[at : at + BATCH])))
    for handle in handles:
        handle.remove()
    return found


def scale_and_zero(low: float, high: float) -> tuple[float, int]:
    """Of whole numbers 0..255 for `low`..`high`, widened to hold 0, which is one of them exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / ACTIVATIONS
    return (scale, round(-low / scale)) if scale > np.finfo(np.float32).tiny else (1.0, 0)


def rounded_weight(weight: torch.Tensor, highest: int) -> torch.Tensor:
    """Float32 [O, ...] at the nearest of the 2 `highest` + 1 steps of each output channel."""
    largest = weight.detach().float().abs().flatten(1).amax(dim=1)
    scale = torch.where(largest > 0, largest / highest, torch.ones_like(largest))
    zero = torch.zeros(len(scale), dtype=torch.int32, device=weight.device)
    return torch.fake_quantize_per_channel_affine(weight.float(), scale, zero, 0, -highest, highest)


class Rounding:
    """A layer whose weight and input are rounded; a class to put on a layer that is there already."""

    input_scale: float
    input_zero: int
    weight_highest: int

    def rounded(self, inputs: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and weight. Outside of the range the gradient of an input is 0."""
        given = torch.fake_quantize_per_tensor_affine(inputs.float(), self.input_scale, self.input_zero, 0, ACTIVATIONS)
        return given, rounded_weight(weight, self.weight_highest)


class RoundingLinear(Rounding, nn.Linear):
    """See Rounding."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As the layer's own."""
        return functional.linear(*self.rounded(input, self.weight), self.bias)


class RoundingConv1d(Rounding, nn.Conv1d):
    """See Rounding."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As the layer's own."""
        return self._conv_forward(*self.rounded(input, self.weight), self.bias)


class RoundingConv2d(Rounding, nn.Conv2d):
    """See Rounding."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As the layer's own."""
        return self._conv_forward(*self.rounded(input, self.weight), self.bias)


ROUNDED: Mapping[type[nn.Module], type[Rounding]] = {
    nn.Linear: RoundingLinear, nn.Conv1d: RoundingConv1d, nn.Conv2d: RoundingConv2d,
}  # fmt: skip


def _keep_statistics(layer: nn.Module, _: Any) -> None:
    layer.eval()
