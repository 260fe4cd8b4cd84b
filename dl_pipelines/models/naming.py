"""Names of weights in files, told from those of a network: a wrapper's prefix, timm's names, a stem's channels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch

from dl_pipelines.models.timm_names import as_torchvision
from dl_pipelines.models.weights import learned

Tensors = Mapping[str, torch.Tensor]


def as_named(
    network: torch.nn.Module, tensors: Tensors, stem: Sequence[str]
) -> tuple[dict[str, torch.Tensor], str | None]:
    """The file's tensors by the names of the network, and the parameter of the stem that was given other channels.

    Of all ways to name them the one by which most fit: as they are, without or with a prefix (`module.`, a backbone's
    name), as torchvision names the networks that timm names otherwise.
    """
    wanted = dict(network.state_dict())
    counted = [name for name, _ in learned(network)]
    found = max(_candidates(tensors, counted), key=lambda named: sum(_fits(named, wanted, name) for name in counted))
    adapted = None
    for name in [name for name in found if name in wanted]:
        same = _same(found[name], wanted[name])
        if same is None and name in stem:
            same = _with_channels(found[name], wanted[name])
            adapted = adapted if same is None else name
        found[name] = found[name] if same is None else same
    return found, adapted


def _candidates(tensors: Tensors, counted: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """The file's tensors in every way to name them, the simplest first."""
    for named in (tensors, *as_torchvision(tensors)):
        for start in _prefixes(named):
            inner = {name.removeprefix(start): value for name, value in named.items() if name.startswith(start)}
            for place in _prefixes(counted):
                yield {place + name: value for name, value in inner.items()}


def _fits(found: Tensors, wanted: Tensors, name: str) -> bool:
    return name in found and _same(found[name], wanted[name]) is not None


def _same(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor | None:
    """As the network holds it, a convolution of 1 x 1 as a linear map; None for another shape."""
    if found.shape == wanted.shape:
        return found
    if found.ndim == 4 and wanted.ndim == 2 and found.shape == (*wanted.shape, 1, 1):
        return found.flatten(1)
    return None


def _with_channels(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor | None:
    """Weights [O, C, k, k] for another number of channels: their mean, so that a grey image gives the same answer."""
    if found.ndim != 4 or wanted.ndim != 4 or found[:, 0].shape != wanted[:, 0].shape:
        return None
    before, after = found.shape[1], wanted.shape[1]
    return (found.mean(1, keepdim=True) * (before / after)).expand(wanted.shape).contiguous()


def _prefixes(names: Iterable[str]) -> list[str]:
    """None, and those that at least half of the names share, the shortest first."""
    names = list(names)
    found = [""]
    longest = max((name.count(".") for name in names), default=0)
    for depth in range(1, longest + 1):
        starts = [".".join(name.split(".")[:depth]) + "." for name in names if name.count(".") >= depth]
        found += [start for start in dict.fromkeys(starts) if 2 * starts.count(start) >= len(names)]
    return found
