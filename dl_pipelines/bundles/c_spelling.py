"""The same graph without what emx-onnx-cgen 1.4 refuses, where that can be said otherwise and exactly.

Slices that run backwards are gathers; a direction that is the default is left out; a product of integer matrices whose
weights have a scale for each column is a QGemm, which may have one; a QGemm that gives floats is its parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import onnx

OURS = "com.microsoft"


def respelled(model: onnx.ModelProto, tensors: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """A copy in the generator's words; `tensors` are those of one run (static_graph.every_tensor)."""
    import onnx
    from onnx import helper, numpy_helper

    made = onnx.ModelProto()
    made.CopyFrom(model)
    constants = {item.name: numpy_helper.to_array(item) for item in made.graph.initializer}
    speller = _Speller(made, constants, {**constants, **tensors})
    nodes = [spelled for node in made.graph.node for spelled in speller.nodes(node)]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    domains = {item.domain for item in made.opset_import}
    if any(node.domain == OURS for node in nodes) and OURS not in domains:
        made.opset_import.append(helper.make_opsetid(OURS, 1))
    return made


class _Speller:
    """Nodes for a node; what they need beside it goes into the graph at once."""

    def __init__(self, model: onnx.ModelProto, constants: Mapping[str, Any], known: Mapping[str, Any]):
        self.graph, self.constants, self.known = model.graph, constants, known

    def nodes(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        if node.op_type in ("GRU", "LSTM", "RNN"):
            return [_without_default(node)]
        if node.op_type == "Slice" and len(node.input) == 5 and all(name in self.constants for name in node.input[1:]):
            return self._slice(node)
        if node.op_type == "QLinearMatMul":
            return self._product(node)
        if node.op_type == "QGemm" and len(node.input) < 9:
            return self._float_gemm(node)
        return [node]

    def _slice(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        import numpy as np
        from onnx import helper

        starts, ends, axes, steps = (self.constants[name].tolist() for name in node.input[1:5])
        if len(steps) != 1 or steps[0] > 0:
            return [node]
        length = self.known[node.input[0]].shape[axes[0]]
        end = None if ends[0] < -length else ends[0]
        places = np.arange(length)[slice(starts[0], end, steps[0])]
        given = [node.input[0], self._constant(f"{node.output[0]}_places", places.astype(np.int64))]
        return [helper.make_node("Gather", given, node.output, name=node.name, axis=axes[0])]

    def _product(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """QLinearMatMul of [..., K] with weights [K, N] that have N scales."""
        import numpy as np
        from onnx import helper

        left, result = self.known[node.input[0]], self.known[node.output[0]]
        if self.known[node.input[4]].size == 1 or self.known[node.input[3]].ndim != 2:
            return [node]
        flat, product = f"{node.output[0]}_rows", f"{node.output[0]}_product"
        inputs = [flat, *node.input[1:6], "", *node.input[6:8]]
        rows = left.size // left.shape[-1]
        self._tensor(flat, left.dtype, (rows, left.shape[-1]))
        self._tensor(product, result.dtype, (rows, result.shape[-1]))
        before = self._constant(f"{flat}_shape", np.array([rows, left.shape[-1]], np.int64))
        after = self._constant(f"{product}_shape", np.array(result.shape, np.int64))
        return [
            helper.make_node("Reshape", [node.input[0], before], [flat], name=f"{node.name}_rows"),
            helper.make_node("QGemm", inputs, [product], name=node.name, domain=OURS, alpha=1.0, transA=0, transB=0),
            helper.make_node("Reshape", [product, after], node.output, name=f"{node.name}_shape"),
        ]

    def _float_gemm(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """A QGemm that gives floats: the sum of integer products and the bias, times the scales."""
        import numpy as np
        from onnx import TensorProto, helper

        settings = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        left, left_scale, left_zero, right, scale, zero, *rest = node.input
        if settings.get("transA") or any(name not in self.constants for name in (left_scale, right, scale, zero)):
            return [node]
        weights = self.constants[right].T if settings.get("transB") else self.constants[right]
        factor = settings.get("alpha", 1.0) * self.constants[left_scale] * self.constants[scale]
        out = node.output[0]
        given = [left, self._constant(f"{out}_weights", np.ascontiguousarray(weights)), left_zero]
        given += [zero] if self.constants[zero].any() else []
        names = [f"{out}_sum", *([f"{out}_biased"] if rest and rest[0] else []), f"{out}_number"]
        for name in names:
            dtype = np.float32 if name.endswith("_number") else np.int32
            self._tensor(name, np.dtype(dtype), self.known[out].shape)
        nodes = [helper.make_node("MatMulInteger", given, names[:1], name=node.name)]
        if len(names) == 3:
            nodes.append(helper.make_node("Add", [names[0], rest[0]], [names[1]], name=names[1]))
        nodes.append(helper.make_node("Cast", [names[-2]], [names[-1]], name=names[-1], to=TensorProto.FLOAT))
        factors = self._constant(f"{out}_factor", np.asarray(factor, np.float32))
        return [*nodes, helper.make_node("Mul", [names[-1], factors], [out], name=out)]

    def _constant(self, name: str, value: np.ndarray) -> str:
        from onnx import numpy_helper

        self.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def _tensor(self, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        from onnx import helper

        kind = helper.np_dtype_to_tensor_dtype(dtype)
        self.graph.value_info.append(helper.make_tensor_value_info(name, kind, shape))


def _without_default(node: onnx.NodeProto) -> onnx.NodeProto:
    import onnx

    made = onnx.NodeProto()
    made.CopyFrom(node)
    kept = [item for item in node.attribute if item.name != "direction" or item.s != b"forward"]
    del made.attribute[:]
    made.attribute.extend(kept)
    return made
