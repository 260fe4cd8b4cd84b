"""Channels cut out of a network for good, and the same cuts made again on a network of the same family.

A cut is plain data: making it again traces nothing. Which channels go is `channel_groups.py`'s; nothing is trained.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dl_pipelines.models.channel_groups import Importance, Loss, NotPrunable, as_cuts, cutter, groups_of, least
from dl_pipelines.models.plan import Cut
from dl_pipelines.tasks.base import Task

if TYPE_CHECKING:
    import numpy as np

TOLERANCE = 1e-3
"""Largest difference, as a share of the largest output, between a cut network and the whole one without the channels:
both sum the same numbers in float32, in another order."""


def prune(
    network: nn.Module, task: Task, rows: np.ndarray, share: float, of: Mapping[str, int] | None = None,
    importance: Importance = "magnitude", multiple: int = 8, loss: Loss | None = None,
) -> tuple[Cut, ...]:  # fmt: skip
    """Cut about `share` (0..1) of the channels of each layer that can lose some, in place; the cuts.

    The share is of the `widths` of another network, `of`, where this one lost some before. What is left is the nearest
    `multiple`, at least one: runtimes compute eight channels at a time. Layers that share channels lose the same ones,
    those whose importance is least: `magnitude` is the mean L2 norm of all weights at a channel (Li et al., 2017; over
    the group: Fang et al., 2023), `batch_norm` the size of its scale (Liu et al., 2017), `taylor` what the `loss` (a
    scalar of the network) would change by to first order (Molchanov et al., 2019). Outputs, attention, and layers that
    share channels with norms over channels stay. `rows` [N, ...] are inputs to trace; on them the cut network must
    answer as the whole one does when nobody reads these channels. Raises NotPrunable.
    """
    was_training, example = network.training, torch.from_numpy(rows.copy())
    network.eval()
    try:
        groups = groups_of(network, example)
        chosen = least(network, groups, share, of or widths(network), importance, multiple, loss)
        if not chosen:
            raise NotPrunable(_too_narrow(share, multiple))
        cuts = as_cuts(channels for _, channels in chosen)
        if not _alike(network, task, cuts, example):
            wrong = [name for name, channels in chosen if not _alike(network, task, as_cuts([channels]), example)]
            raise NotPrunable(_mixed(wrong))
        cut(network, task, cuts)
    finally:
        network.zero_grad(set_to_none=True)
        network.train(was_training)
    return cuts


def cut(network: nn.Module, task: Task, cuts: Sequence[Cut]) -> None:
    """Make cuts again, in place and in their order, on a network of the same family and params, whatever its weights.

    Raises ValueError when they don't fit it.
    """
    layers = dict(network.named_modules())
    for name, outputs, positions in cuts:
        layer = layers.get(name)
        takes = None if layer is None else cutter(layer)
        if layer is None or takes is None:
            found = "has no such layer" if layer is None else f"has a {type(layer).__name__} there"
            raise ValueError(
                f"found a cut of {name!r}, but the network {found}; expected the network that the cuts were made for: "
                "the same family and params; prune it again"
            )
        channels = takes.get_out_channels(layer) if outputs else takes.get_in_channels(layer)
        _require_positions(name, outputs, positions, channels)
        (takes.prune_out_channels if outputs else takes.prune_in_channels)(layer, sorted(positions))
    _require_whole(network, task)


def widths(network: nn.Module) -> dict[str, int]:
    """Outputs of each convolution and dense layer, by its name."""
    return {
        name: layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)
    }


def _require_positions(name: str, outputs: bool, positions: Sequence[int], channels: int) -> None:
    side = "outputs" if outputs else "inputs"
    if len(positions) == channels and set(positions) == set(range(channels)):
        raise ValueError(f"found a cut of all {channels} {side} of {name!r}; expected some to stay; prune it again")
    if not positions or len(set(positions)) != len(positions) or min(positions) < 0 or max(positions) >= channels:
        told = ", ".join(map(str, positions[:6])) + (" ..." if len(positions) > 6 else "")
        raise ValueError(
            f"found a cut of the {side} {told or 'none'} of {name!r}, which has {channels}; expected different ones "
            f"below {channels}: the cuts of a network of the same family and params; prune it again"
        )


def _alike(network: nn.Module, task: Task, cuts: Sequence[Cut], example: torch.Tensor) -> bool:
    """Whether a cut copy answers as the whole network does when nobody reads the channels that go."""
    whole, smaller = copy.deepcopy(network), copy.deepcopy(network)
    with torch.no_grad():
        for name, outputs, positions in cuts:
            if not outputs:
                reader: Any = whole.get_submodule(name)
                reader.weight[:, list(positions)] = 0
        try:
            cut(smaller, task, cuts)
            expected, found = whole(example), smaller(example)
        except (ValueError, RuntimeError):
            return False
    return bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max())


def _require_whole(network: nn.Module, task: Task) -> None:
    """That the layers still fit one another and give what the signature says. Raises ValueError."""
    signature, was_training = task.signature(), network.training
    given, wanted = signature.inputs[0], signature.outputs[0].shape
    sizes = [2, *(2 if size == -1 else size for size in given.shape)]
    network.eval()
    try:
        with torch.no_grad():
            found = network(torch.zeros(sizes, dtype=getattr(torch, given.dtype))).shape[1:]
    except RuntimeError as error:
        raise ValueError(
            f"found cuts after which the layers don't fit one another ({str(error).splitlines()[0][:160]}); expected "
            "all cuts of a network of the same family and params; prune it again"
        ) from error
    finally:
        network.train(was_training)
    if len(found) != len(wanted) or any(size not in (other, -1) for other, size in zip(found, wanted, strict=True)):
        raise ValueError(f"found outputs of {list(found)} after the cuts; expected {list(wanted)}; prune it again")


def _too_narrow(share: float, multiple: int) -> str:
    return (
        f"found no layer that loses channels at a share of {share:g} in multiples of {multiple}; expected wider "
        "layers; lower the technique's multiple, or raise its shares or the family's width"
    )


def _mixed(names: list[str]) -> str:
    return (
        f"found that without channels of {', '.join(names) or 'several layers together'} the network does not answer "
        "as it should: an operator between layers mixes channels; expected operators that take each alone; make the "
        "network smaller by its family's params, or by distillation"
    )
