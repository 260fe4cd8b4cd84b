"""Says in fewer nodes what an ONNX graph says, before OpenVINO's converter makes several of each: for IR alone.

A quantized bias becomes the numbers that it stands for, zero points of zero go, a convolution's bias is added in its
own shape (the converter would work the shape out in the graph, eleven nodes a convolution). Answers stay the same to
the bit; the `.xml` of ResNet-18 in int8 has half the bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import onnx

Constants = dict[str, "onnx.TensorProto"]


def make_lean(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model, changed in place."""
    constants = {item.name: item for item in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, int] = {name: len(item.dims) for name, item in constants.items()}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            _drop_zero_point(node, constants)
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            weights[node.output[0]] = weights[node.input[0]]
            if _restored(node, constants):
                continue
        nodes += _added(node, constants, weights) if node.op_type == "Conv" else [node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input} | {value.name for value in model.graph.output}
    del model.graph.initializer[:]
    model.graph.initializer.extend(item for name, item in constants.items() if name in used)
    return model


def _drop_zero_point(node: onnx.NodeProto, constants: Constants) -> None:
    """Zero is what is taken where none is given; of a quantizer that also says the type, unsigned."""
    from onnx import TensorProto

    zero = constants.get(node.input[2]) if len(node.input) > 2 else None
    if zero is None or _values(zero).any():
        return
    if node.op_type == "DequantizeLinear" or zero.data_type == TensorProto.UINT8:
        del node.input[2:]


def _restored(node: onnx.NodeProto, constants: Constants) -> bool:
    """Whether it was of a bias (32 bits), which is now a float constant of its output's name."""
    import numpy as np
    from onnx import TensorProto, numpy_helper

    whole, scale = constants[node.input[0]], constants.get(node.input[1])
    if whole.data_type != TensorProto.INT32 or scale is None or len(node.input) > 2 or len(whole.dims) != 1:
        return False
    values = _values(whole).astype(np.float32) * _values(scale)
    constants[node.output[0]] = numpy_helper.from_array(values.astype(np.float32), node.output[0])
    return True


def _added(node: onnx.NodeProto, constants: Constants, weights: dict[str, int]) -> list[onnx.NodeProto]:
    """A convolution and the addition of its bias [1, C, 1, ...], named as the converter would."""
    from onnx import helper, numpy_helper

    bias = constants.get(node.input[2]) if len(node.input) > 2 else None
    if bias is None or node.input[1] not in weights:
        return [node]
    shape = (1, -1, *[1] * (weights[node.input[1]] - 2))
    gives = node.output[0]
    name, given = f"{gives}/Bias", f"{gives}/WithoutBiases"
    constants[name] = numpy_helper.from_array(_values(bias).reshape(shape), name)
    addition = helper.make_node("Add", [given, name], [gives], node.name)
    del node.input[2:]
    node.output[0], node.name = given, f"{node.name}/WithoutBiases"
    return [node, addition]


def _values(item: onnx.TensorProto) -> np.ndarray:
    from onnx import numpy_helper

    return numpy_helper.to_array(item)
