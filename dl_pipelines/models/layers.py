"""The layer table of a network: what section 3 of the report shows, counted from the modules themselves."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

CONSTANTS = "Learned constants"
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
    CONSTANTS: "parameters that no layer holds",
}
"""What a kind of layer is for."""
_WORDS = (
    ("LSTM", "Recurrent"), ("GRU", "Recurrent"), ("RNN", "Recurrent"),
    ("Embedding", "Embedding"), ("Conv", "Convolutional"), ("Pool", "Pooling"), ("Linear", "Dense/FC"),
    ("Dropout", "Dropout"), ("BatchNorm", "Batch Norm"), ("LayerNorm", "Layer Norm"), ("RMSNorm", "Layer Norm"),
    ("GroupNorm", "Layer Norm"), ("InstanceNorm", "Layer Norm"),
)  # fmt: skip
"""What the name of a module's class contains, and the kind that it is of."""
_ACTIVATIONS = ("ReLU", "GELU", "SiLU", "Tanh", "Sigmoid", "LeakyReLU", "Softmax", "ELU", "Softplus")
IN_FORWARD = "in the block's forward, if any"


def layer_table(module: torch.nn.Module) -> list[dict[str, Any]]:
    """One dict a kind of layer: type, count, configuration, parameters (number), activation, purpose.

    Every parameter is in one row. A block that is no sequence may apply a function that no module names.
    """
    rows: dict[str, dict[str, Any]] = {}
    layers, seen = list(_layers(module)), set[int]()
    for position, (layer, parent) in enumerate(layers):
        kind = _kind(layer)
        if kind is None:
            continue
        row = rows.setdefault(kind, {"type": kind, "count": 0, "configuration": [], "parameters": 0, "activation": []})
        row["count"] += 1
        row["parameters"] += _count(layer.parameters(), seen)
        row["configuration"].append(_configuration(layer))
        row["activation"] += _activation(kind, layers[position + 1 : position + 3], parent)
    alone = [value for value in module.parameters() if id(value) not in seen]
    if alone:
        shapes = ["x".join(map(str, value.shape)) or "1" for value in alone]
        rows[CONSTANTS] = {"type": CONSTANTS, "count": len(alone), "configuration": shapes,
                           "parameters": _count(alone, seen), "activation": []}  # fmt: skip
    return [
        {**row, "configuration": "; ".join(dict.fromkeys(row["configuration"])),
         "activation": ", ".join(sorted(dict.fromkeys(row["activation"]), key=IN_FORWARD.__eq__)) or "none",
         "purpose": PURPOSES[kind]}
        for kind, row in rows.items()
    ]  # fmt: skip


def count_parameters(module: torch.nn.Module) -> int:
    """Trainable numbers of a module."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def _count(parameters: Any, seen: set[int]) -> int:
    """Numbers of the parameters that were not counted yet: two layers may share one."""
    fresh = [value for value in parameters if id(value) not in seen]
    seen |= {id(value) for value in fresh}
    return sum(value.numel() for value in fresh)


def _layers(module: torch.nn.Module, parent: Any = None) -> Iterator[tuple[torch.nn.Module, Any]]:
    """Modules without children, each with the block that it is in; an attention is one layer, whatever is in it."""
    children = list(module.children())
    if not children or _kind(module) == "Attention":
        yield module, parent
        return
    for child in children:
        yield from _layers(child, module)


def _kind(layer: torch.nn.Module) -> str | None:
    name, children = type(layer).__name__, [type(child).__name__ for child in layer.children()]
    if "Atten" in name and children and all("Linear" in child for child in children):
        return "Attention"
    if children:
        return None
    return next((kind for word, kind in _WORDS if word in name), None)


def _activation(kind: str, after: list[tuple[torch.nn.Module, Any]], parent: Any) -> list[str]:
    """What is applied to the layer's answer, as far as modules say it."""
    if kind == "Recurrent":
        return ["Sigmoid and Tanh of its gates"]
    if kind not in ("Convolutional", "Dense/FC"):
        return []
    mine = takewhile(lambda item: item[1] is parent and _kind(item[0]) not in ("Convolutional", "Dense/FC"), after)
    names = [type(layer).__name__ for layer, _ in mine if type(layer).__name__ in _ACTIVATIONS][:1]
    if names or parent is None or type(parent).__name__ == "Sequential":
        return names
    function = getattr(parent, "activation", None)
    name = getattr(function, "__name__", "")
    return [{known.lower(): known for known in _ACTIVATIONS}.get(name, name) or IN_FORWARD]


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
    size = getattr(layer, "kernel_size", None) or getattr(layer, "output_size", "")
    return f"{name.removesuffix('2d')} {size}"


def _width(layer: Any) -> str:
    for name in ("normalized_shape", "num_channels", "num_features"):
        if hasattr(layer, name):
            shape = getattr(layer, name)
            return "x".join(map(str, shape)) if isinstance(shape, tuple) else str(shape)
    return "its input"
