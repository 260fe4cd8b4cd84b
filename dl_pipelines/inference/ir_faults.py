"""Places for faults in OpenVINO's IR, quantized or not. What a fault is for: faults.py."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dl_pipelines.inference.faults import Fault, Graph, perturbed, swapped
from dl_pipelines.inference.runtimes import openvino

ACTIVATIONS = ("Relu", "PRelu", "Sigmoid", "Tanh", "HardSigmoid", "HSwish", "Swish", "Elu", "Gelu", "SoftPlus", "Erf",
               "Softmax", "Clamp")  # fmt: skip
KEPT = ("Parameter", "Result", "Constant", "Convert", "FakeQuantize", "ShapeOf", "Reshape")
"""Operators that are not dropped: nothing, or nothing but the format, would change."""
FETCHES = ("Gather", "GatherND", "Unsqueeze", "Squeeze", "Reshape", "StridedSlice", "Slice", "Broadcast", "Convert")
NUMBERS = ("f32", "f16", "i8", "u8")
LEAST_WEIGHTS = 16


class IrGraph(Graph):
    """An `.xml` with its `.bin`."""

    def __init__(self, model: Any):
        self._model = model

    @classmethod
    def read(cls, path: Path) -> IrGraph:
        """See Graph."""
        return cls(openvino().Core().read_model(str(path)))

    def save(self, path: Path) -> None:
        """See Graph."""
        openvino().save_model(self._model, str(path), compress_to_fp16=False)

    def places(self, fault: Fault) -> list[tuple[str, Callable[[], None]]]:
        """See Graph."""
        found: dict[Fault, Callable[[], Iterator[tuple[str, Callable[[], None]]]]] = {
            "norm-swap": self._normalisations, "dropped-operator": self._droppable, "perturbed-weights": self._weights,
        }  # fmt: skip
        return list(found[fault]())

    def _normalisations(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """(x - mean) / deviation, also as sum and product; first those whose constants nothing else reads."""
        for _, told, change in sorted(self._scaled(), key=lambda item: item[0]):  # a stable sort
            yield told, change

    def _scaled(self) -> Iterator[tuple[bool, str, Callable[[], None]]]:
        """Whether its constants are shared, what is swapped, how."""
        for divided in self._model.get_ordered_ops():
            if divided.get_type_name() not in ("Divide", "Multiply"):
                continue
            shifted = divided.input_value(0).get_node()
            if shifted.get_type_name() not in ("Subtract", "Add") or _restores(shifted):
                continue
            mean, deviation = _root(shifted.input_value(1).get_node()), _root(divided.input_value(1).get_node())
            if mean is None or deviation is None or shifted.input_value(0).get_node().get_type_name() == "Erf":
                continue
            how = shifted.get_type_name() == "Add", divided.get_type_name() == "Multiply"
            told = f"mean ({mean.get_friendly_name()}) and deviation ({deviation.get_friendly_name()}) swapped"
            shared = any(len(node.output(0).get_target_inputs()) > 1 for node in (mean, deviation))
            yield shared, told, functools.partial(_swap, mean, deviation, *how)

    def _droppable(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Activations first, then every other operator with one output like its first input."""
        like = [node for node in self._model.get_ordered_ops() if _is_like_its_input(node)]
        for node in sorted(like, key=lambda item: item.get_type_name() not in ACTIVATIONS):
            yield f"{node.get_type_name()} {node.get_friendly_name()} dropped", functools.partial(_bypass, node)

    def _weights(self) -> Iterator[tuple[str, Callable[[], None]]]:
        for node in self._model.get_ordered_ops():
            if node.get_type_name() != "Constant" or node.get_element_type().get_type_name() not in NUMBERS:
                continue
            values = node.data
            if values.ndim > 1 and values.size >= LEAST_WEIGHTS:
                told = f"weights {node.get_friendly_name()} {list(values.shape)} of {values.dtype} perturbed"
                yield told, functools.partial(_perturb, node)


def _restores(shifted: Any) -> bool:
    """Whether it subtracts a zero point from whole numbers: quantization's own scaling is no normalisation."""
    node = shifted.input_value(0).get_node()
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
        if node.get_type_name() in ("FakeQuantize", "Constant"):
            return True
    return node.get_type_name() in ("FakeQuantize", "Constant")


def _root(node: Any) -> Any | None:
    """The float constants that a tensor is, or is fetched from."""
    while node.get_type_name() in FETCHES:
        node = node.input_value(0).get_node()
    is_float = node.get_type_name() == "Constant" and node.get_element_type().get_type_name() in ("f32", "f16")
    return node if is_float else None


def _swap(mean: Any, deviation: Any, added: bool, multiplied: bool) -> None:
    wrong = swapped(mean.data, deviation.data, added, multiplied)
    for node, values in zip((mean, deviation), wrong, strict=True):
        _put(node, values)


def _perturb(node: Any) -> None:
    _put(node, perturbed(node.data))


def _put(node: Any, values: Any) -> None:
    """Every reader of the constant reads these instead."""
    import numpy as np

    fresh = openvino().op.Constant(np.ascontiguousarray(values))
    fresh.set_friendly_name(node.get_friendly_name())
    for reader in list(node.output(0).get_target_inputs()):
        reader.replace_source_output(fresh.output(0))


def _is_like_its_input(node: Any) -> bool:
    if node.get_type_name() in KEPT or not node.inputs() or len(node.outputs()) != 1:
        return False
    given, gives = node.input_value(0), node.output(0)
    return (
        given.get_node().get_type_name() != "Constant"
        and given.get_element_type() == gives.get_element_type()
        and given.get_partial_shape() == gives.get_partial_shape()
    )


def _bypass(node: Any) -> None:
    for reader in list(node.output(0).get_target_inputs()):
        reader.replace_source_output(node.input_value(0))
