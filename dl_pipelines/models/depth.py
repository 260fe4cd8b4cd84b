"""How deep each parameter of a network lies: its layers from the input to the head, read from the module tree.

No forward is run: modules count in the order in which a network registers them, which for ours and for torchvision's
and timm's is that of the computation.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from dl_pipelines.models.layers import is_attention


def depths(network: nn.Module) -> list[list[str]]:
    """Names of the parameters of each layer, the stem first, the head last; every parameter is in one.

    A layer is a block of a sequence (a residual or attention block, whatever is in it), or a module without modules of
    its own. Norms, which only hold vectors, belong to the layer before them, and so do parameters that no layer holds
    (a ViT's places; those of the very beginning belong to the first layer).
    """
    found: list[list[str]] = []
    waiting: list[str] = []
    known = {name for name, _ in network.named_parameters()}
    for pieces, matrices in _pieces(network, _numbers(network)):
        names = [name for name in pieces if name in known]  # one that is shared is known by its first name
        if matrices and names:
            found.append([*waiting, *names])
            waiting = []
        elif found:
            found[-1] += names
        else:
            waiting += names
    if waiting:
        found.append(waiting)
    return found


def _pieces(module: nn.Module, whole: int, prefix: str = "", element: bool = False) -> Iterator[tuple[list[str], bool]]:
    """Names of parameters that lie equally deep, in order, and whether a layer with weights holds them."""
    if _is_layer(module, whole, element):
        names = [prefix + name for name, _ in module.named_parameters()]
        if names:
            yield names, any(value.ndim > 1 for value in module.parameters())
        return
    own = [prefix + name for name, _ in module.named_parameters(recurse=False)]
    if own:
        yield own, False
    for name, child in module.named_children():
        yield from _pieces(child, whole, f"{prefix}{name}.", is_sequence(module))


def _is_layer(module: nn.Module, whole: int, element: bool) -> bool:
    """Whether it is not looked into: one without modules, an attention, a block of a sequence that is no trunk."""
    if is_attention(module) or not any(True for _ in module.children()):
        return True
    return element and not is_sequence(module) and not (_numbers(module) > whole / 2 and _has_blocks(module))


def _has_blocks(module: nn.Module) -> bool:
    """Whether somewhere in it is a sequence of modules that hold modules: then it is a trunk, not a block."""
    return any(
        is_sequence(inner) and any(any(True for _ in child.children()) for child in inner.children())
        for inner in module.modules()
    )


def _numbers(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def is_sequence(module: nn.Module) -> bool:
    """Whether it is nothing but a list of modules; a class of its own, even one that is a sequence, is a block."""
    return type(module) in (nn.Sequential, nn.ModuleList, nn.ModuleDict)
