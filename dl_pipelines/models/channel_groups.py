"""Which layers share a channel, and which channels matter least. It cuts nothing: that is `pruned.py`'s.

torch-pruning traces a forward for what depends on what (Fang et al., 2023, "DepGraph: Towards Any Structural Pruning").
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import nn

from dl_pipelines.models.layers import is_attention
from dl_pipelines.models.plan import Cut

Importance = Literal["magnitude", "taylor", "batch_norm"]
Loss = Callable[[nn.Module], torch.Tensor]
Channels = dict[tuple[str, bool], set[int]]
"""What goes, by a module's name and whether its outputs are meant."""


class NotPrunable(ValueError):
    """No channel of this network can go; says which layers stand against it, and what to do instead."""


def cutter(layer: nn.Module) -> Any:
    """What takes channels from a layer, or None for a kind that is left alone.

    Only kinds whose channels don't touch one another: without one, the others give what they gave before. It has
    `prune_out_channels(layer, positions)`, `get_out_channels(layer)` and the same of inputs.
    """
    from torch.nn.utils import parametrize
    from torch_pruning import ops
    from torch_pruning.pruner.function import PrunerBox

    kind = ops.module2type(layer)
    grouped = isinstance(layer, nn.modules.conv._ConvNd) and layer.groups > 1 and kind != ops.OPTYPE.DEPTHWISE_CONV
    if grouped or parametrize.is_parametrized(layer):
        return None
    cuttable = (ops.OPTYPE.CONV, ops.OPTYPE.DEPTHWISE_CONV, ops.OPTYPE.LINEAR, ops.OPTYPE.BN)
    return PrunerBox[kind] if kind in cuttable else None


def groups_of(network: nn.Module, example: torch.Tensor) -> list[Any]:
    """Groups of layers whose channels may go, of a network in eval mode; `example` is an input of it.

    Raises NotPrunable when there is none.
    """
    import torch_pruning

    attentions = [inner for layer in network.modules() if is_attention(layer) for inner in layer.modules()]
    names = {layer: name for name, layer in network.named_modules()}
    why_not = {names[layer]: "is part of an attention" for layer in attentions}
    for layer, name in names.items():
        if isinstance(layer, nn.RNNBase):
            why_not[name] = f"is recurrent ({type(layer).__name__})"
    found, graph = list[Any](), torch_pruning.DependencyGraph()
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of parameters that no layer holds: what shares channels with them stays
            graph.build_dependency(network, example_inputs=(example,), verbose=False)
    except Exception as error:  # the tracer raises whatever an unforeseen operator leads it to
        why_not["the network"] = f"can't be traced ({type(error).__name__}: {str(error)[:120]})"
        raise NotPrunable(_nothing(why_not)) from error
    for group in graph.get_all_groups():
        reason = _reason(graph, group, attentions)
        if reason is None:
            found.append(group)
        else:
            why_not.setdefault(names[group[0].dep.target.module], reason)
    if not found:
        raise NotPrunable(_nothing(why_not))
    return found


def _nothing(why_not: dict[str, str]) -> str:
    told = "; ".join(f"{name} {reason}" for name, reason in list(why_not.items())[:6]) or "it has no such layer"
    return (
        f"found no layer whose channels can go ({told}); expected convolutions or dense layers between others; make "
        "the network smaller by its family's params, or by distillation"
    )


def _reason(graph: Any, group: Any, attentions: list[nn.Module]) -> str | None:
    """Why a group's channels stay, or None."""
    for dep, _ in group:
        layer = dep.target.module
        if isinstance(layer, nn.Parameter):
            return "shares channels with parameters that no layer holds"
        if type(layer).__name__ == "_OutputOp":
            return "gives the output"
        if layer not in graph._module2name:
            continue  # an operator between layers
        if graph.is_out_channel_pruning_fn(dep.handler) and not dep.target.outputs:
            return "gives the output"
        if layer in attentions:
            return "shares channels with an attention"
        if cutter(layer) is None and next(layer.parameters(), None) is not None:
            return f"shares channels with {graph._module2name[layer]} ({type(layer).__name__})"
    return None


def least(
    network: nn.Module, groups: list[Any], share: float, of: Mapping[str, int], importance: Importance, multiple: int,
    loss: Loss | None,
) -> list[tuple[str, Channels]]:  # fmt: skip
    """By the name of each group's first layer what goes in every layer of it: until about `share` of `of` is gone.

    What is left is the nearest `multiple`, at least one. The same network gives the same channels.
    """
    scores, chosen = _scores(network, importance, loss), list[tuple[str, Channels]]()
    for group in groups:
        first, graph = group[0].dep.target.module, group._DG
        channels, name = graph.get_out_channels(first), graph._module2name[first]
        kept = max(round(of[name] * (1 - share) / multiple), 1) * multiple
        found = scores(group)
        if kept >= channels or found is None:
            continue
        going = torch.argsort(found, stable=True)[: channels - kept].sort().values.tolist()
        taken: Channels = {}
        for dep, positions in graph.get_pruning_group(first, group[0].dep.handler, going):
            where, layer = graph._module2name.get(dep.target.module), dep.target.module
            if where is not None and cutter(layer) is not None:
                key = where, graph.is_out_channel_pruning_fn(dep.handler)
                taken.setdefault(key, set()).update(positions)
        chosen.append((name, taken))
    return chosen


def _scores(network: nn.Module, importance: Importance, loss: Loss | None) -> Callable[[Any], torch.Tensor | None]:
    """A group -> the importance of each of its channels, or None where nothing tells it."""
    from torch_pruning.pruner import importance as library

    if importance == "magnitude":
        return library.GroupMagnitudeImportance(p=2)
    if importance == "batch_norm":
        scales = library.BNScaleImportance()
        return lambda group: scales(group) if _has_norm(group) else None
    assert loss is not None, "taylor looks at gradients"
    with torch.enable_grad():
        network.zero_grad(set_to_none=True)
        loss(network).backward()
    return library.GroupTaylorImportance()


def _has_norm(group: Any) -> bool:
    return any(isinstance(dep.target.module, nn.modules.batchnorm._BatchNorm) for dep, _ in group)


def as_cuts(several: Iterable[Channels]) -> tuple[Cut, ...]:
    """One cut a layer and side: a layer that joins two groups' channels loses those of both at once."""
    merged: Channels = {}
    for channels in several:
        for key, positions in channels.items():
            merged.setdefault(key, set()).update(positions)
    return tuple((name, outputs, tuple(sorted(positions))) for (name, outputs), positions in merged.items())
