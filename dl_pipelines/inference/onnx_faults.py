"""Places for faults in an ONNX graph, quantized or not. What a fault is for: faults.py."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dl_pipelines.inference.faults import Fault, Graph, perturbed, swapped

if TYPE_CHECKING:
    import numpy as np
    import onnx

Places = list[tuple[str, Callable[[], None]]]

ACTIVATIONS = ("Relu", "LeakyRelu", "PRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu", "Gelu", "Softplus",
               "Erf", "Softmax")  # fmt: skip
KEPT = ("Identity", "Cast", "QuantizeLinear", "DequantizeLinear", "Constant", "Shape", "Reshape")
"""Operators that are not dropped: nothing, or nothing but the format, would change."""
FETCHES = ("Gather", "GatherND", "Unsqueeze", "Squeeze", "Reshape", "Slice", "Expand", "Cast")
"""Operators between a table of constants and where it is used."""
NUMBERS = {1: "float32", 10: "float16", 3: "int8", 2: "uint8"}
"""Types of weights by their number in onnx.proto."""
LEAST_WEIGHTS = 16


class OnnxGraph(Graph):
    """An ONNX file with all weights inside it."""

    def __init__(self, model: onnx.ModelProto):
        self._model, self._graph = model, model.graph
        self._constants = {item.name: item for item in model.graph.initializer}
        self._makers = {name: node for node in model.graph.node for name in node.output}
        self._readers = Counter(name for node in model.graph.node for name in node.input)

    @classmethod
    def read(cls, path: Path) -> OnnxGraph:
        """See Graph."""
        import onnx

        return cls(onnx.load(str(path)))

    def save(self, path: Path) -> None:
        """See Graph."""
        path.write_bytes(self._model.SerializeToString(deterministic=True))

    def places(self, fault: Fault) -> Places:
        """See Graph."""
        found: dict[Fault, Callable[[], Iterator[tuple[str, Callable[[], None]]]]] = {
            "norm-swap": self._normalisations, "dropped-operator": self._droppable, "perturbed-weights": self._weights,
        }  # fmt: skip
        return list(found[fault]())

    def _normalisations(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """(x - mean) / deviation, also as sum and product; then the scale and shift of layers that normalise.

        First those whose constants nothing else reads: a one or a two that is shared is arithmetic.
        """
        found = [item for node in self._graph.node if node.op_type in ("Div", "Mul") for item in self._scaled(node)]
        for _, told, change in sorted(found, key=lambda item: item[0]):  # a stable sort
            yield told, change
        for node in self._graph.node:
            if node.op_type in ("LayerNormalization", "BatchNormalization") and len(node.input) > 2:
                scale, shift = (self._constants.get(name) for name in node.input[1:3])
                if scale is not None and shift is not None:
                    yield f"scale and shift of {node.name} swapped", functools.partial(self._swap, scale, shift)

    def _scaled(self, divided: onnx.NodeProto) -> Iterator[tuple[bool, str, Callable[[], None]]]:
        """Whether its constants are shared, what is swapped, how."""
        shifted = self._makers.get(divided.input[0])
        if shifted is None or shifted.op_type not in ("Sub", "Add"):
            return
        before = self._makers.get(shifted.input[0])
        mean, deviation = self._root(shifted.input[1]), self._root(divided.input[1])
        if mean is None or deviation is None or mean is deviation or (before is not None and before.op_type == "Erf"):
            return
        change = functools.partial(self._swap, mean, deviation, shifted.op_type == "Add", divided.op_type == "Mul")
        shared = max(self._readers[mean.name], self._readers[deviation.name]) > 1
        yield shared, f"mean ({mean.name}) and deviation ({deviation.name}) swapped", change

    def _root(self, name: str) -> onnx.TensorProto | None:
        """The float constants that a tensor is, or is fetched from."""
        while name not in self._constants:
            node = self._makers.get(name)
            if node is None or node.op_type not in FETCHES:
                return None
            name = node.input[0]
        return self._constants[name] if self._constants[name].data_type == 1 else None

    def _swap(
        self, first: onnx.TensorProto, second: onnx.TensorProto, added: bool = False, multiplied: bool = False
    ) -> None:
        from onnx import numpy_helper

        wrong = swapped(numpy_helper.to_array(first), numpy_helper.to_array(second), added, multiplied)
        for tensor, values in zip((first, second), wrong, strict=True):
            self._put(tensor, values)

    def _perturb(self, tensor: onnx.TensorProto) -> None:
        from onnx import numpy_helper

        self._put(tensor, perturbed(numpy_helper.to_array(tensor)))

    def _put(self, tensor: onnx.TensorProto, values: np.ndarray) -> None:
        from onnx import numpy_helper

        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    def _droppable(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Activations first, then every other operator with one output like its first input."""
        shapes = _shapes(self._model)
        like = [
            node
            for node in self._graph.node
            if node.op_type not in KEPT
            and len(node.output) == 1
            and node.input
            and node.input[0] not in self._constants
            and node.input[0] in shapes
            and shapes[node.input[0]] == shapes.get(node.output[0])
        ]
        for node in sorted(like, key=lambda item: item.op_type not in ACTIVATIONS):  # a stable sort
            yield f"{node.op_type} {node.name or node.output[0]} dropped", functools.partial(_bypass, node)

    def _weights(self) -> Iterator[tuple[str, Callable[[], None]]]:
        for tensor in self._graph.initializer:
            kind = NUMBERS.get(tensor.data_type)
            if kind and len(tensor.dims) > 1 and math.prod(tensor.dims) >= LEAST_WEIGHTS:
                told = f"weights {tensor.name} {list(tensor.dims)} of {kind} perturbed"
                yield told, functools.partial(self._perturb, tensor)


def _bypass(node: onnx.NodeProto) -> None:
    given = node.input[0]
    node.op_type, node.domain = "Identity", ""
    del node.input[:], node.attribute[:]
    node.input.append(given)


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, tuple[int | str, ...]]]:
    """Type and sizes of every tensor that has them, as far as the graph alone tells."""
    import onnx

    whole = onnx.shape_inference.infer_shapes(model)
    found = {}
    for item in (*whole.graph.input, *whole.graph.value_info, *whole.graph.output):
        about = item.type.tensor_type
        if about.HasField("shape"):
            sizes = tuple(
                size.dim_value if size.HasField("dim_value") else size.dim_param or "?" for size in about.shape.dim
            )
            found[item.name] = about.elem_type, sizes
    return found
