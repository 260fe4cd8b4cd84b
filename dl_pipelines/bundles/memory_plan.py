"""How much memory a static graph needs and where each tensor may lie: an arena that is laid out before it runs.

Greedy by size: the largest tensor first, each at the lowest place that is free while it lives (Pisarchyk and Lee,
"Efficient Memory Management for Deep Neural Net Inference", 2020, section 5). No tensor shares memory with the one
that it is made of, so a runtime that works in place needs less.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import onnx

ALIGNMENT = 16
"""Bytes; what vector instructions of the usual controllers ask for."""


@dataclass(frozen=True)
class Buffer:
    """A tensor that lives from step `first` to step `last`, both included; a step is a node in the graph's order."""

    name: str
    size: int
    first: int
    last: int

    def meets(self, other: Buffer) -> bool:
        """Whether both live at some step."""
        return self.first <= other.last and other.first <= self.last


def place(buffers: Sequence[Buffer], alignment: int = ALIGNMENT) -> dict[str, int]:
    """An offset in bytes for each buffer, so that no two that live at once overlap."""
    placed: list[tuple[int, Buffer]] = []
    for buffer in sorted(buffers, key=lambda item: (-item.size, item.first, item.name)):
        at = 0
        for offset, other in sorted(placed, key=lambda item: item[0]):
            if not buffer.meets(other):
                continue
            if at + buffer.size <= offset:
                break
            at = max(at, _aligned(offset + other.size, alignment))
        placed.append((at, buffer))
    return {buffer.name: offset for offset, buffer in placed}


def _aligned(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def lifetimes(model: onnx.ModelProto, sizes: Mapping[str, int]) -> list[Buffer]:
    """When each tensor of a graph lives, in the order in which they are made.

    The input is there from the first step on, the outputs until the last. `sizes` are bytes by name.
    """
    graph = model.graph
    weights = {item.name for item in graph.initializer}
    made = {item.name: 0 for item in graph.input if item.name not in weights}
    used = dict(made)
    for step, node in enumerate(graph.node):
        for name in _reads(node):
            if name in made:
                used[name] = step
        for name in node.output:
            if name:
                made[name] = used[name] = step
    used |= {item.name: len(graph.node) - 1 for item in graph.output}
    return [Buffer(name, sizes[name], first, used[name]) for name, first in made.items()]


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """What a node reads, in its branches and loops too."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _reads(inner)


def plan(model: onnx.ModelProto, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The plan as plain data; `tensors` are those of one run (static_graph.every_tensor). All sizes are bytes.

    `peak_bytes` is what lives at the fullest step, `arena_bytes` what the offsets need; `weights_bytes` may stay in
    read-only memory. What operators need for themselves is not counted.
    """
    buffers = lifetimes(model, {name: value.nbytes for name, value in tensors.items()})
    offsets = place(buffers)
    steps = [
        {
            "step": step, "operator": node.op_type,
            "live_bytes": sum(item.size for item in buffers if item.first <= step <= item.last),
        }
        for step, node in enumerate(model.graph.node)
    ]  # fmt: skip
    return {
        "batch": 1,
        "alignment": ALIGNMENT,
        "weights_bytes": weights_bytes(model),
        "peak_bytes": max(step["live_bytes"] for step in steps),
        "arena_bytes": max(_aligned(offsets[item.name] + item.size, ALIGNMENT) for item in buffers),
        "steps": steps,
        "tensors": [
            {
                "name": item.name, "dtype": str(tensors[item.name].dtype), "shape": list(tensors[item.name].shape),
                "bytes": item.size, "offset": offsets[item.name], "first": item.first, "last": item.last,
            }
            for item in buffers
        ],
    }  # fmt: skip


def weights_bytes(model: onnx.ModelProto) -> int:
    """Bytes of all constants of a graph."""
    from onnx import numpy_helper

    return sum(numpy_helper.to_array(item).nbytes for item in model.graph.initializer)


def operators(model: onnx.ModelProto) -> dict[str, Any]:
    """Operator sets and how often each operator occurs, sorted, as plain data."""
    counts: dict[tuple[str, str], int] = {}
    for node in model.graph.node:
        key = (node.domain or "ai.onnx", node.op_type)
        counts[key] = counts.get(key, 0) + 1
    return {
        "opsets": {item.domain or "ai.onnx": item.version for item in model.opset_import},
        "operators": [
            {"domain": domain, "operator": name, "count": count} for (domain, name), count in sorted(counts.items())
        ],
    }
