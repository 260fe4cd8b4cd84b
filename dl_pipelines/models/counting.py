"""What each layer of a network costs, counted for one record: output shape, multiply-adds, memory of its answer.

Nothing is measured here: the counts are the same wherever the network runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dl_pipelines.models.layers import CONSTANTS, NONE, WHOLE, layer_rows

if TYPE_CHECKING:
    import numpy as np

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def counted(network: torch.nn.Module, inputs: np.ndarray) -> list[dict[str, Any]]:
    """The rows of a network's layers with what one record costs; the same for the same network, wherever it runs.

    `output_shape` is without the batch ("none" for a layer that is not called). `macs` are multiply-adds of
    convolutions, linear maps, recurrences and products of matrices; what is element by element is not counted.
    `activation_bytes` are those of a layer's answers, 0 where an answer lies in the memory of one before it.
    """
    rows = [{**row, "output_shape": NONE, "macs": 0, "activation_bytes": 0} for row in layer_rows(network)]
    with evaluating(network), sdpa_kernel(SDPBackend.MATH), _Products() as products:
        count = _Count(rows, network, products)
        with looked_at(network, rows, count.before, count.after):
            network(batch_of(network, inputs, 1))
    return rows


class _Products(TorchDispatchMode):
    """Multiply-adds of all products since it was entered, as torch's own formulas count them.

    Torch's FlopCounterMode counts the same, but imports the compiler for it: 1.2 s.
    """

    count = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        flops = flop_registry.get(func._overloadpacket)
        if flops is not None:
            self.count += flops(*args, **(kwargs or {}), out_val=answer) // 2
        return answer


class _Count:
    """Hooks that fill the rows; what a block computes itself is what was counted in it and in none of its layers."""

    def __init__(self, rows: list[dict[str, Any]], network: torch.nn.Module, products: _Products):
        self.rows, self.products, self._open = rows, products, list[list[int]]()
        self._kept: list[torch.Tensor] = [*network.parameters(), *network.buffers()]
        self._places = {value.untyped_storage().data_ptr() for value in self._kept}

    def before(self, place: int, module: torch.nn.Module, given: Any) -> None:
        # Kept until the end: memory that is free again would look like that of an earlier answer.
        self._kept += _tensors(given)
        self._places |= {value.untyped_storage().data_ptr() for value in _tensors(given)}
        self._open.append([self.products.count, 0])

    def after(self, place: int, module: torch.nn.Module, given: Any, answer: Any) -> None:
        start, inside = self._open.pop()
        whole = self.products.count - start
        if self._open:
            self._open[-1][1] += whole
        row, tensors = self.rows[place], list(_tensors(answer))
        by_formula = macs(module, given, answer)
        row["macs"] += whole - inside if by_formula is None else by_formula
        for value in tensors:
            self._kept.append(value)
            if value.untyped_storage().data_ptr() not in self._places:
                self._places.add(value.untyped_storage().data_ptr())
                row["activation_bytes"] += value.numel() * value.element_size()
        if tensors:
            row["output_shape"] = _shape(tensors[0])


def macs(module: torch.nn.Module, given: Any, answer: Any) -> int | None:
    """Multiply-adds of one call of a convolution, a linear map or a recurrence, by formula; None for all others."""
    layer: Any = module
    name = type(module).__name__
    if "Conv" in name and hasattr(layer, "kernel_size") and hasattr(layer, "groups"):
        # A transposed one has as many products for each number that it is given as the other for each that it gives.
        ends = (given[0], layer.out_channels) if layer.transposed else (answer, layer.in_channels)
        return ends[0].numel() * ends[1] // layer.groups * prod(layer.kernel_size)
    if "Linear" in name and hasattr(layer, "in_features"):
        return answer.numel() * layer.in_features
    if name in GATES:
        size, ways, steps = layer.hidden_size, 1 + layer.bidirectional, given[0].numel() // layer.input_size
        back = getattr(layer, "proj_size", 0) or size
        inputs = [layer.input_size, *[back * ways] * (layer.num_layers - 1)]
        projected = size * back if back != size else 0
        return steps * ways * sum(GATES[name] * size * (wide + back) + projected for wide in inputs)
    return None


@contextmanager
def looked_at(
    network: torch.nn.Module, rows: list[dict[str, Any]], before: Callable[..., None], after: Callable[..., None]
) -> Iterator[None]:
    """Call both with the place of its row around the forward of each layer, and of each block that computes itself."""
    hooks = []
    for place, row in enumerate(rows):
        if row["type"] == CONSTANTS:
            continue
        module = network if row["name"] == WHOLE else network.get_submodule(row["name"])
        hooks.append(module.register_forward_pre_hook(partial(before, place)))
        hooks.append(module.register_forward_hook(partial(after, place)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def evaluating(network: torch.nn.Module) -> Iterator[None]:
    """In evaluation mode, without gradients, on one thread, and a Transformer's layer as the modules it is made of.

    Threads that wait for one another, on a machine that does something else too, would hide what a layer takes.
    """
    training, fast, threads = network.training, torch.backends.mha.get_fastpath_enabled(), torch.get_num_threads()
    network.eval()
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.set_num_threads(threads)
        network.train(training)


def batch_of(network: torch.nn.Module, inputs: np.ndarray, size: int) -> torch.Tensor:
    """The first rows, over again where there are fewer, where the network is."""
    import numpy as np

    device = next((value.device for value in (*network.parameters(), *network.buffers())), torch.device("cpu"))
    return torch.from_numpy(np.array(inputs[np.arange(size) % len(inputs)])).to(device)


def _tensors(found: Any) -> Iterator[torch.Tensor]:
    """Those in tuples, lists and mappings."""
    if isinstance(found, torch.Tensor):
        yield found
    elif isinstance(found, dict):
        yield from _tensors(list(found.values()))
    elif isinstance(found, tuple | list):
        for item in found:
            yield from _tensors(item)


def _shape(value: torch.Tensor) -> str:
    """`64 x 28 x 28`, without a batch of one in front."""
    sides = value.shape[1:] if value.ndim > 1 and value.shape[0] == 1 else value.shape
    return " x ".join(map(str, sides)) or "1"
