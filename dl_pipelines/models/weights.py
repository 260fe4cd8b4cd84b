"""Weights of another network or file, taken over where name and shape fit; never what was fitted on a window.

Which ones a training begins from is decided elsewhere: `training/warm.py` (an earlier model), `finetune.py` (a file).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

STATISTICS = "statistics."
"""What a family keeps under this name was fitted on a window, not learned."""
AVERAGES = ("running_mean", "running_var", "num_batches_tracked")
"""Buffers of torch's normalising layers: averages over what was trained on, which belong to the weights."""


def copy_weights(
    network: torch.nn.Module, tensors: Mapping[str, torch.Tensor], copy: bool = True
) -> tuple[list[str], list[str]]:
    """Take over what a network learns where name and shape fit; the names of that, and of what stays fresh.

    Statistics and other buffers stay those of the network: they were fitted on its own window. A module whose rows
    stand for names says so by `tables` (a parameter's name to that of the buffer with its last rows' codes): its rows
    are taken by code, and what is new stays fresh. `copy` False only tells.
    """
    taken, fresh, tables = [], [], _tables(network)
    with torch.no_grad():
        for name, value in learned(network):
            found = tensors.get(name)
            if found is not None and name in tables:
                found = _by_code(value, found, network.get_buffer(tables[name]), tensors.get(tables[name]))
            if found is not None and found.shape == value.shape:
                taken.append(name)
                if copy:
                    value.copy_(found)
            else:
                fresh.append(name)
    return taken, fresh


def _tables(network: torch.nn.Module) -> dict[str, str]:
    """Parameters whose rows stand for codes, with the buffer that holds these."""
    found = {}
    for name, module in network.named_modules():
        start = f"{name}." if name else ""
        for parameter, buffer in getattr(module, "tables", {}).items():
            found[start + parameter] = start + buffer
    return found


def _by_code(
    value: torch.Tensor, before: torch.Tensor, codes: torch.Tensor, known: torch.Tensor | None
) -> torch.Tensor | None:  # fmt: skip
    """The rows of `value` with those of `before` in place of the ones with the same code; None where none fits.

    Rows that come before the coded ones (what is not known) are the same in both.
    """
    if known is None or before.shape[1:] != value.shape[1:]:
        return None
    first, old = len(value) - len(codes), {int(code): place for place, code in enumerate(known)}
    if first < 0 or first != len(before) - len(known):
        return None
    found = value.clone()
    found[:first] = before[:first]
    for place, code in enumerate(codes.tolist()):
        if code in old:
            found[first + place] = before[first + old[code]]
    return found


def learned(network: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors of what a network learns: its parameters, and the averages of its normalising layers."""
    averages = ((name, value) for name, value in network.named_buffers() if name.rpartition(".")[2] in AVERAGES)
    for name, value in (*network.named_parameters(), *averages):
        if not name.startswith(STATISTICS):
            yield name, value
