"""The layer table of a network: what section 3 of the report shows, counted from the modules themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PURPOSES = {
    "Convolutional": "local features of the input",
    "Pooling": "a coarser grid; less to compute, small shifts ignored",
    "Dense/FC": "from features to the outputs",
    "Dropout": "less overfitting: a share of the features is left out while training",
    "Batch Norm": "stable, faster training",
}
_ACTIVATIONS = ("ReLU", "GELU", "SiLU", "Tanh", "Sigmoid", "LeakyReLU", "Softmax")


def layer_table(module: torch.nn.Module) -> list[dict[str, Any]]:
    """One dict a kind of layer: type, count, configuration, parameters (number), activation, purpose."""
    rows: dict[str, dict[str, Any]] = {}
    leaves = list(_leaves(module))
    for position, leaf in enumerate(leaves):
        kind = _kind(leaf)
        if kind is None:
            continue
        row = rows.setdefault(kind, {"type": kind, "count": 0, "configuration": [], "parameters": 0, "activation": []})
        row["count"] += 1
        row["parameters"] += sum(parameter.numel() for parameter in leaf.parameters())
        row["configuration"].append(_configuration(leaf))
        after = [type(other).__name__ for other in leaves[position + 1 : position + 3]]
        row["activation"] += [name for name in after if name in _ACTIVATIONS][:1]
    return [
        {**row, "configuration": "; ".join(dict.fromkeys(row["configuration"])),
         "activation": ", ".join(dict.fromkeys(row["activation"])) or "none", "purpose": PURPOSES[kind]}
        for kind, row in rows.items()
    ]  # fmt: skip


def count_parameters(module: torch.nn.Module) -> int:
    """Trainable numbers of a module."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def _leaves(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    children = list(module.children())
    if not children:
        yield module
    for child in children:
        yield from _leaves(child)


def _kind(leaf: torch.nn.Module) -> str | None:
    name = type(leaf).__name__
    for word, kind in (("Conv", "Convolutional"), ("Pool", "Pooling"), ("Linear", "Dense/FC"),
                       ("Dropout", "Dropout"), ("BatchNorm", "Batch Norm")):  # fmt: skip
        if word in name:
            return kind
    return None


def _configuration(leaf: Any) -> str:
    name = type(leaf).__name__
    if "Conv" in name:
        return f"{leaf.in_channels}->{leaf.out_channels}, {'x'.join(map(str, leaf.kernel_size))}"
    if "Linear" in name:
        return f"{leaf.in_features}->{leaf.out_features}"
    if "Dropout" in name:
        return f"p={leaf.p:g}"
    if "BatchNorm" in name:
        return f"{leaf.num_features} channels"
    size = getattr(leaf, "kernel_size", None) or getattr(leaf, "output_size", "")
    return f"{name.removesuffix('2d')} {size}"
