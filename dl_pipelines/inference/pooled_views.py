"""Takes a detour out of exported graphs: how torch writes global average pooling of images with the channels last.

It is a gather by indices computed from the batch, which gives what it is given. It asks for the shape of an early
layer's output, so that OpenVINO (2026.4) leaves that layer's quantization unfused: on ResNet-18 at 224 pixels int8 was
a tenth slower, and its logits six times as far off. Not export itself (export.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def drop_pooled_views(model: onnx.ModelProto) -> int:
    """Read each pooled tensor [N, C, 1, 1] itself in place of `as_strided` of it, in place; returns how many.

    Only a mean over the last two axes that keeps them, flattened and gathered back to four dimensions, is taken out.
    """
    graph = model.graph
    made_by = {name: node for node in graph.node for name in node.output}
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.value_info}
    dropped = 0
    for node in graph.node:
        flat = made_by.get(node.input[0]) if node.op_type == "Gather" else None
        mean = made_by.get(flat.input[0]) if flat is not None and flat.op_type == "Reshape" else None
        if mean is None or mean.op_type != "ReduceMean" or ranks.get(node.output[0]) != 4:
            continue
        if _keeps_last_two(mean, graph):
            _read(graph, node.output[0], mean.output[0])
            dropped += 1
    if dropped:
        _sweep(graph)
    return dropped


def _keeps_last_two(mean: onnx.NodeProto, graph: onnx.GraphProto) -> bool:
    from onnx import numpy_helper

    keeps = next((item.i for item in mean.attribute if item.name == "keepdims"), 1)
    axes = next((numpy_helper.to_array(item) for item in graph.initializer if item.name == mean.input[1]), None)
    return keeps == 1 and axes is not None and sorted(axes.ravel().tolist()) in ([-2, -1], [2, 3])


def _read(graph: onnx.GraphProto, instead_of: str, name: str) -> None:
    for node in graph.node:
        for place, given in enumerate(node.input):
            if given == instead_of:
                node.input[place] = name


def _sweep(graph: onnx.GraphProto) -> None:
    """Remove nodes, constants and shapes that nothing reads any more."""
    while True:
        used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        idle = [node for node in graph.node if not used & set(node.output)]
        if not idle:
            break
        for node in idle:
            graph.node.remove(node)
    made = {name for node in graph.node for name in node.output}
    for values, alive in ((graph.initializer, used), (graph.value_info, made)):
        for value in [value for value in values if value.name not in alive]:
            values.remove(value)  # pyright: ignore[reportArgumentType]
