"""Dynamic int8: matrix products in eight bits, with scales of the activations taken as they come; no calibration rows.

ONNX Runtime takes one scale of a whole batch, so that an answer depends on who else asks: each vector gets its own here
(Yao et al., 2022, ZeroQuant: token-wise). Recurrent layers have no such operator: by default only their weights are
eight bits, and `recurrent: dynamic` asks for ONNX Runtime's, whose answers depend on the batch (parity then refuses).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.compression.base import Network, Technique, TechniqueError, Variant, checked_bytes, of_ranges, short

if TYPE_CHECKING:
    import onnx

    from dl_pipelines.compression.workshop import Workshop

RECURRENT = ("LSTM", "GRU")
QUANTIZED = ("MatMulInteger", "DynamicQuantizeLSTM", "DequantizeLinear")
"""Operators that a graph has only once something of it was quantized."""
HALF, STEPS = 128, 127
"""The zero of an activation and the steps on each side of it: symmetric in uint8, the fastest kind on x86-64."""
LEAST = 1e-30
"""A vector of zeros is divided by this."""


class DynamicInt8(Technique):
    """Two variants by default: `dynamic_int8` (full range) and `dynamic_int8_reduced` (weights of seven bits).

    Without VNNI the product of uint8 and int8 saturates at 16 bits: that is what the seven bits are for.
    """

    name = "dynamic_int8"
    phase = "quantize"
    template_row = "QUANT"

    class Params(BaseParams):
        """Which weight ranges are tried, whether each output channel has its scale, what becomes of LSTM and GRU."""

        ranges: tuple[Literal["full", "reduced"], ...] = Field(default=("full", "reduced"), min_length=1)
        per_channel: bool = True
        recurrent: Literal["weights", "dynamic"] = Field(
            default="weights", description="dynamic: ONNX Runtime's LSTM, whose answers depend on the batch"
        )

    params: Params

    def variants(self, start: Network, shop: Workshop) -> list[Variant]:
        """See Technique.variants."""
        given = self.params

        def write(path: Path, reduced: bool) -> None:
            quantize(start.onnx, path, reduced, given.per_channel, given.recurrent == "dynamic")

        return of_ranges(self.name, given.ranges, shop.folder, write)


def quantize(base: Path, target: Path, reduce_range: bool, per_channel: bool, whole_lstm: bool) -> None:
    """Write the dynamic int8 form of `base`. Raises TechniqueError."""
    import onnx
    from onnxruntime import quantization

    prepared, raw = target.with_suffix(".prepared.onnx"), target.with_suffix(".raw.onnx")
    try:
        # Weights of recurrent layers leave the exporter as cut and joined constants: folding makes them one again.
        quantization.shape_inference.quant_pre_process(str(base), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_dynamic(
            str(prepared),
            str(raw),
            op_types_to_quantize=["MatMul", "Gemm", *(["LSTM"] if whole_lstm else [])],
            per_channel=per_channel,
            reduce_range=reduce_range,
            weight_type=quantization.QuantType.QInt8,
        )
        model = onnx.load(str(raw))
        _scale_each_vector(model.graph)
        _store_recurrent_weights(model.graph)
        target.write_bytes(_tidied(model))
    except TechniqueError:
        raise
    except Exception as error:  # the quantizer and its sessions raise whatever an unforeseen graph leads them to
        raise TechniqueError(short(error)) from error
    finally:
        for path in (prepared, raw):
            path.unlink(missing_ok=True)


def _scale_each_vector(graph: onnx.GraphProto) -> None:
    """In place of one scale of a whole tensor: one along the last axis, which a product sums over."""
    import numpy as np
    from onnx import helper, numpy_helper

    nodes: list[onnx.NodeProto] = []
    zeros, scales = dict[str, str](), set[str]()
    factors: dict[str, tuple[str, str]] = {}
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = zeros.get(name, name)
        scale = next((name for name in node.input if name in scales), None)
        product = next((name for name in node.input if name in factors), None)
        if node.op_type == "DynamicQuantizeLinear":
            nodes += _quantize_vectors(node.input[0], node.output[0], node.output[1])
            scales.add(node.output[1])
            zeros[node.output[2]] = "int8_zero"
        elif scale and node.op_type == "Mul":
            factors[node.output[0]] = scale, next(name for name in node.input if name != scale)
        elif product and node.op_type == "Mul":
            # One factor after the other: ONNX Runtime fuses a product with the product of both scales, and then takes
            # the first activation's scale for all.
            scale, weights = factors[product]
            whole = next(name for name in node.input if name != product)
            nodes.append(helper.make_node("Mul", [whole, weights], [f"{product}_part"], f"{product}_weights"))
            nodes.append(helper.make_node("Mul", [f"{product}_part", scale], list(node.output), node.name))
        else:
            nodes.append(node)
    if zeros:
        _replace(graph, nodes)
        constants = {"int8_axis": np.array([-1], np.int64), "int8_steps": np.float32(STEPS),
                     "int8_least": np.float32(LEAST), "int8_half": np.float32(HALF),
                     "int8_zero": np.uint8(HALF)}  # fmt: skip
        graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())


def _quantize_vectors(given: str, whole: str, scale: str) -> list[onnx.NodeProto]:
    """Nodes from `given` [..., K] to `whole` uint8 [..., K] and its `scale` [..., 1]."""
    from onnx import TensorProto, helper

    size, most, safe, share, rounded, shifted = (
        f"{whole}_{name}" for name in ("size", "most", "safe", "share", "rounded", "shifted")
    )
    return [
        helper.make_node("Abs", [given], [size], f"{whole}_abs"),
        helper.make_node("ReduceMax", [size, "int8_axis"], [most], f"{whole}_max", keepdims=1),
        helper.make_node("Max", [most, "int8_least"], [safe], f"{whole}_least"),
        helper.make_node("Div", [safe, "int8_steps"], [scale], f"{whole}_scale"),
        helper.make_node("Div", [given, scale], [share], f"{whole}_div"),
        helper.make_node("Round", [share], [rounded], f"{whole}_round"),
        helper.make_node("Add", [rounded, "int8_half"], [shifted], f"{whole}_shift"),
        helper.make_node("Cast", [shifted], [whole], f"{whole}_cast", to=TensorProto.UINT8),
    ]


def _replace(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    del graph.node[:]
    graph.node.extend(nodes)


def _store_recurrent_weights(graph: onnx.GraphProto) -> None:
    """Weights [directions, gates x hidden, inputs] of what stayed LSTM or GRU, in int8 with a scale a gate's row."""
    import numpy as np
    from onnx import helper, numpy_helper

    known = {item.name: item for item in graph.initializer}
    nodes = []
    for node in graph.node:
        for place in (1, 2) if node.op_type in RECURRENT else ():
            name = node.input[place]
            if name not in known:
                continue
            weights = numpy_helper.to_array(known[name])
            scale = np.maximum(np.abs(weights).max(axis=(0, 2)) / STEPS, LEAST).astype(np.float32)
            small = np.clip(np.round(weights / scale[:, None]), -STEPS, STEPS).astype(np.int8)
            graph.initializer.extend([
                numpy_helper.from_array(small, f"{name}_int8"), numpy_helper.from_array(scale, f"{name}_scale"),
            ])  # fmt: skip
            nodes.append(
                helper.make_node("DequantizeLinear", [f"{name}_int8", f"{name}_scale"], [f"{name}_restored"], axis=1)
            )
            node.input[place] = f"{name}_restored"
        nodes.append(node)
    _replace(graph, nodes)
    used = {name for node in nodes for name in node.input} | {item.name for item in graph.output}
    kept = [item for item in graph.initializer if item.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _tidied(model: onnx.ModelProto) -> bytes:
    """The graph in one spelling, checked, and that something in it was quantized. Raises TechniqueError."""
    if not any(node.op_type in QUANTIZED for node in model.graph.node):
        raise TechniqueError("found no operator that dynamic int8 covers; the graph would stay as it is")
    return checked_bytes(model)
