"""What an ONNX file grows to when it is loaded: the sizes that its constants say. Nothing is computed."""

from __future__ import annotations

import math
from collections import ChainMap
from typing import TYPE_CHECKING, Any

from dl_pipelines.inference.made_sizes import (
    MOST_SIZES,
    Numbers,
    Places,
    check_count,
    check_made,
    padded,
    product,
)
from dl_pipelines.inference.model_files import refused

if TYPE_CHECKING:
    import onnx

PLACES: Places = {
    "ConstantOfShape": ((0,),), "Expand": ((1,),), "Tile": ((1,),), "Range": ((0, 1, 2),), "OneHot": ((1,),),
    "Pad": ((1,),), "Resize": ((1,), (2,), (3,)), "Upsample": ((1,),), "CenterCropPad": ((1,),), "MaxUnpool": ((2,),),
    "Col2Im": ((1,),), "DFT": ((1,),), "HannWindow": ((0,),), "HammingWindow": ((0,),), "BlackmanWindow": ((0,),),
    "MelWeightMatrix": ((0, 1),),
}  # fmt: skip
ATTRIBUTES = {"shape": product, "output_shape": product, "scales": product, "repeats": product, "pads": padded}
"""Lists of an operator itself that say it, in this or an earlier set of operators."""
PASSES = ("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten")
"""Operators whose values are those of their first input."""
MOST_STEPS = 1000
"""So many of them behind one another; an inner graph that uses an outer one's names anew could make them a circle."""

Scope = ChainMap[str, Any]
"""What makes a name from constants alone: a tensor, or an operator; None for others. Inner graphs come first."""


def with_names(graph: onnx.GraphProto, outer: Scope) -> Scope:
    """The names of a graph before those around it; operators may stand in any order."""
    names: dict[str, Any] = {name: None for node in graph.node for name in node.output if name}
    names |= {item.name: None for item in graph.input}
    scope = outer.new_child(names | {item.name: item for item in graph.initializer})
    readers: dict[str, list[int]] = {}
    missing = [0] * len(graph.node)
    for place, node in enumerate(graph.node):
        for name in {name for name in node.input if name and scope.get(name) is None}:
            readers.setdefault(name, []).append(place)
            missing[place] += 1
    ready = [place for place, count in enumerate(missing) if not count]
    while ready:
        node = graph.node[ready.pop()]
        for name in filter(None, node.output):
            scope[name] = node
            for place in readers.get(name, ()):
                missing[place] -= 1
                ready += [place] if not missing[place] else []
    return scope


def check_sizes(file: str, graph: onnx.GraphProto, scope: Scope) -> None:
    """That no operator of a graph makes more by constants than a model may hold. Raises ModelFileError."""
    for node in graph.node:

        def values(place: int, node: onnx.NodeProto = node) -> Numbers | None:
            return _values(file, node.input[place], scope) if place < len(node.input) else None

        check_made(file, node.op_type, PLACES, values)
        for attribute in node.attribute:
            if attribute.name in ATTRIBUTES and (numbers := [*attribute.ints, *attribute.floats]):
                check_count(file, node.op_type, numbers, ATTRIBUTES[attribute.name])


def _values(file: str, name: str, scope: Scope) -> Numbers | None:
    """The numbers of a constant; None for what is given or measured when the model runs.

    Raises ModelFileError for what other operators compute from constants alone: exporters write the result.
    """
    import onnx

    source, steps = scope.get(name), 0
    while isinstance(source, onnx.NodeProto) and source.op_type in PASSES and source.input and steps < MOST_STEPS:
        source, steps = scope.get(source.input[0]), steps + 1
    if source is None:
        return None
    if isinstance(source, onnx.TensorProto):
        return _numbers(file, source)
    if source.op_type != "Constant":
        raise refused(file, f"sizes that {source.op_type} computes from constants", "the sizes themselves")
    told = source.attribute[0]
    return _numbers(file, told.t) if told.HasField("t") else _listed(told)


def _listed(told: onnx.AttributeProto) -> Numbers:
    """The numbers of an attribute that is no tensor."""
    if told.HasField("i"):
        return [told.i]
    return [told.f] if told.HasField("f") else [*told.ints, *told.floats]


def _numbers(file: str, tensor: onnx.TensorProto) -> Numbers:
    from onnx import numpy_helper

    if math.prod(tensor.dims) > MOST_SIZES:
        raise refused(file, f"sizes of {list(tensor.dims)} numbers", f"at most {MOST_SIZES}")
    found = numpy_helper.to_array(tensor)
    if found.dtype.kind not in "iufb":
        raise refused(file, f"sizes of the type {found.dtype}", "numbers")
    return found.ravel().tolist()
