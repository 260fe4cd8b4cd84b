"""The layers of a network, one by one and by kind: what section 3 of the report shows, read from the modules.

Nothing is run here: `counting.py` adds what a forward tells of each layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

CONSTANTS = "Learned constants"
ACTIVATION = "Activation"
BETWEEN = "Between layers"
PURPOSES = {
    "Convolutional": "local features of the input",
    "Recurrent": "carries what was seen from step to step",
    "Attention": "weighs the steps or parts by what is asked of them",
    "Embedding": "a learned vector for each name",
    "Pooling": "a coarser grid; less to compute, small shifts ignored",
    "Dense/FC": "from features to the outputs",
    "Dropout": "less overfitting: a share of the features is left out while training",
    "Batch Norm": "stable, faster training",
    "Layer Norm": "stable training, whatever the batch",
    ACTIVATION: "what is not linear",
    CONSTANTS: "parameters that no layer holds",
    BETWEEN: "what blocks compute themselves: scaling, reshaping, sums, products",
}
"""What a kind of layer is for."""
_WORDS = (
    ("LSTM", "Recurrent"), ("GRU", "Recurrent"), ("RNN", "Recurrent"),
    ("Embedding", "Embedding"), ("Conv", "Convolutional"), ("Pool", "Pooling"), ("Linear", "Dense/FC"),
    ("Dropout", "Dropout"), ("BatchNorm", "Batch Norm"), ("LayerNorm", "Layer Norm"), ("RMSNorm", "Layer Norm"),
    ("GroupNorm", "Layer Norm"), ("InstanceNorm", "Layer Norm"),
)  # fmt: skip
"""What the name of a module's class contains, and the kind that it is of."""
_ACTIVATIONS = (
    "ReLU", "ReLU6", "LeakyReLU", "PReLU", "ELU", "GELU", "SiLU", "Mish", "Hardswish", "Hardsigmoid", "Tanh", "Sigmoid",
    "Softmax", "LogSoftmax", "Softplus",
)  # fmt: skip
IN_FORWARD = "in the block's forward, if any"
NONE, WHOLE = "none", "the network itself"
SHOWN = 8
"""Configurations and shapes that a kind of layer lists."""


def layer_table(module: torch.nn.Module) -> list[dict[str, Any]]:
    """One dict a kind of layer: type, count, configuration, parameters (number), activation, purpose."""
    return by_kind(layer_rows(module))


def layer_rows(module: torch.nn.Module) -> list[dict[str, Any]]:
    """One dict a layer: name (its path), type, configuration, parameters (number), activation; in order.

    Every parameter is in one row. A block that is no sequence may apply a function that no module names: it has a row
    too, and so has the network as a whole, for what lies in none of them.
    """
    rows: list[dict[str, Any]] = []
    layers, seen = list(_layers(module)), set[int]()
    for position, (name, layer, parent) in enumerate(layers):
        kind = _kind(layer)
        row = {"name": name, "type": kind, "configuration": _configuration(layer), "activation": NONE, "parameters": 0}
        if kind != BETWEEN:
            row["parameters"] = _count(layer.parameters(), seen)
            row["activation"] = _activation(kind, layers[position + 1 : position + 3], parent)
        rows.append(row)
    alone = [(name, value) for name, value in module.named_parameters() if id(value) not in seen]
    rows += [_row(name, CONSTANTS, "x".join(map(str, value.shape)) or "1", value.numel()) for name, value in alone]
    return rows + [_row(name or WHOLE, BETWEEN, type(block).__name__) for name, block in blocks(module)]


def by_kind(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of layers summed up, one dict a kind, with what `counting.py` counted of each where it did."""
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(row["type"], []).append(row)
    return [_summed(kind, kinds[kind]) for kind in sorted(kinds, key=BETWEEN.__eq__)]


def _summed(kind: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    activations = dict.fromkeys(row["activation"] for row in rows if row["activation"] != NONE)
    found = {
        "type": kind, "count": len(rows), "configuration": _several(row["configuration"] for row in rows),
        "parameters": sum(row["parameters"] for row in rows),
        "activation": ", ".join(sorted(activations, key=IN_FORWARD.__eq__)) or NONE, "purpose": PURPOSES[kind],
    }  # fmt: skip
    if "macs" in rows[0]:
        found["output_shape"] = _several(row["output_shape"] for row in rows if row["output_shape"] != NONE)
        found |= {key: sum(row[key] for row in rows) for key in ("macs", "activation_bytes")}
    return found


def _several(values: Iterable[str]) -> str:
    different = list(dict.fromkeys(values))
    more = len(different) - SHOWN
    return ("; ".join(different[:SHOWN]) or NONE) + (f"; {more} more" if more > 0 else "")


def _row(name: str, kind: str, configuration: str, parameters: int = 0) -> dict[str, Any]:
    return {"name": name, "type": kind, "configuration": configuration, "activation": NONE, "parameters": parameters}


def count_parameters(module: torch.nn.Module) -> int:
    """Trainable numbers of a module."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def is_attention(module: torch.nn.Module) -> bool:
    """Whether it is one layer: an attention that holds nothing but its linear maps."""
    children = [type(child).__name__ for child in module.children()]
    return "Atten" in type(module).__name__ and bool(children) and all("Linear" in child for child in children)


def blocks(module: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """Paths and modules of what holds layers and computes something itself, and the network unless it is a layer."""
    from torch import nn

    called = (nn.Sequential.forward, nn.Module.forward)
    inside = {id(inner) for _, layer, _ in _layers(module) for inner in layer.modules()}
    for name, block in module.named_modules():
        if id(block) not in inside and (not name or type(block).forward not in called):
            yield name, block


def _count(parameters: Any, seen: set[int]) -> int:
    """Numbers of the parameters that were not counted yet: two layers may share one."""
    fresh = [value for value in parameters if id(value) not in seen]
    seen |= {id(value) for value in fresh}
    return sum(value.numel() for value in fresh)


def _layers(
    module: torch.nn.Module, prefix: str = "", parent: Any = None, seen: set[int] | None = None
) -> Iterator[tuple[str, torch.nn.Module, Any]]:  # fmt: skip
    """Paths and modules without children, each with the block that it is in; an attention is one, whatever is in it.

    A module that is used in two places comes once; what is never called (a list of parameters) does not.
    """
    from torch import nn

    seen = set() if seen is None else seen
    children = list(module.named_children())
    if not children or is_attention(module):
        if id(module) not in seen and (children or type(module).forward is not nn.Module.forward):
            yield prefix.removesuffix(".") or WHOLE, module, parent
        seen.add(id(module))
        return
    for name, child in children:
        yield from _layers(child, f"{prefix}{name}.", module, seen)


def _kind(layer: torch.nn.Module) -> str:
    if is_attention(layer):
        return "Attention"
    name = type(layer).__name__
    return ACTIVATION if name in _ACTIVATIONS else next((kind for word, kind in _WORDS if word in name), BETWEEN)


def _activation(kind: str, after: list[tuple[str, torch.nn.Module, Any]], parent: Any) -> str:
    """What is applied to the layer's answer, as far as modules say it."""
    if kind == "Recurrent":
        return "Sigmoid and Tanh of its gates"
    if kind not in ("Convolutional", "Dense/FC"):
        return NONE
    mine = takewhile(lambda item: item[2] is parent and _kind(item[1]) not in ("Convolutional", "Dense/FC"), after)
    names = [type(layer).__name__ for _, layer, _ in mine if _kind(layer) == ACTIVATION]
    if names or parent is None or type(parent).__name__ in ("Sequential", "Conv2dNormActivation"):
        return names[0] if names else NONE
    function = getattr(parent, "activation", None)
    name = getattr(function, "__name__", "")
    return {known.lower(): known for known in _ACTIVATIONS}.get(name, name) or IN_FORWARD


def _configuration(layer: Any) -> str:
    name, kind = type(layer).__name__, _kind(layer)
    if kind == "Attention":
        wide = getattr(layer, "embed_dim", None) or max(child.out_features for child in layer.children())
        heads = getattr(layer, "num_heads", 1)
        return f"{wide} wide, {heads} head{'s' if heads > 1 else ''}"
    if kind == "Recurrent":
        layers = getattr(layer, "num_layers", 1)
        both = ", both directions" if getattr(layer, "bidirectional", False) else ""
        return f"{name} {layer.input_size}->{layer.hidden_size}" + (f", {layers} layers" if layers > 1 else "") + both
    if kind == "Embedding":
        return f"{layer.num_embeddings} names, {layer.embedding_dim} wide"
    if kind == "Convolutional":
        dilation = max(layer.dilation)
        wide = f", dilation {dilation}" if dilation > 1 else ""
        return f"{layer.in_channels}->{layer.out_channels}, {'x'.join(map(str, layer.kernel_size))}{wide}"
    if kind == "Dense/FC":
        return f"{layer.in_features}->{layer.out_features}"
    if kind == "Dropout":
        return f"p={layer.p:g}"
    if kind == "Batch Norm":
        return f"{layer.num_features} channels"
    if kind == "Layer Norm":
        return f"{name} over {_width(layer)}"
    if kind != "Pooling":
        return name
    size = getattr(layer, "kernel_size", None) or getattr(layer, "output_size", "")
    return f"{name.removesuffix('2d')} {size}"


def _width(layer: Any) -> str:
    for name in ("normalized_shape", "num_channels", "num_features"):
        if hasattr(layer, name):
            shape = getattr(layer, name)
            return "x".join(map(str, shape)) if isinstance(shape, tuple) else str(shape)
    return "its input"
