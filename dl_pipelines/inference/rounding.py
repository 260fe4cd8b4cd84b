"""How far rounding alone moves a network's answers: the yardstick for a file in fewer bits. It makes no file to serve.

The float32 graph is rounded anew in the plainest way: weights of every product to seven bits with one scale a channel,
what goes into a product and comes out of it to eight bits over the range it has on these rows (Nagel et al., 2021, "A
White Paper on Neural Network Quantization", section 2). What other quantizers lose is of that size, whatever their way.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import onnx

WEIGHTS: Mapping[str, tuple[int, ...]] = {"Conv": (1,), "ConvTranspose": (1,), "MatMul": (0, 1), "Gemm": (0, 1),
                                          "LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2)}  # fmt: skip
"""Which inputs of a product may be weights."""
INPUTS: Mapping[str, tuple[int, ...]] = {**dict.fromkeys(WEIGHTS, (0,)), "MatMul": (0, 1), "Gemm": (0, 1)}
"""Which inputs may be activations."""

WEIGHT_STEPS = 63
"""Seven bits, symmetric: what a `reduced` variant has, which CPUs without VNNI need."""
ACTIVATION_STEPS = 255
LEAST = 1e-30
SMALLEST = 0.005
"""An explained difference is at least so large: half a step of eight bits over a range of some deviations."""


def noise(reference: np.ndarray, other: np.ndarray) -> float:
    """How far `other` [N, ...] lies from `reference` [N, ...]: the mean over rows of the root mean square difference.

    In units of the answers' size: half the row's own root mean square, half the median row's, so that neither a row
    near zero nor a single large one decides. Infinite where something is not finite.
    """
    import numpy as np

    before = reference.reshape(len(reference), -1).astype(np.float64)
    after = other.reshape(len(other), -1).astype(np.float64)
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        return float("inf")
    size = np.sqrt((before**2).mean(axis=1))
    apart = np.sqrt(((after - before) ** 2).mean(axis=1))
    return float((apart / np.maximum((size + np.median(size)) / 2, LEAST)).mean())


def explained(graph: Path, inputs: np.ndarray) -> float:
    """`noise` of a float32 ONNX file rounded as above, on `inputs` [N, ...]; at least SMALLEST.

    Raises ValueError for a file that can't be rounded, and where an answer is not finite: any noise would be below it.
    """
    try:
        before, after = _answers(_folded(graph), inputs), _answers(rounded(graph, inputs), inputs)
    except Exception as error:  # ONNX Runtime's errors have types that are not public
        raise ValueError(f"found {graph.name}, which can't be rounded ({error}); expected a float32 graph") from error
    found = noise(before[0], after[0])
    if not math.isfinite(found):
        raise ValueError(f"found answers of {graph.name}, rounded or not, that are not finite; expected finite ones")
    return max(found, SMALLEST)


def rounded(path: Path, inputs: np.ndarray) -> onnx.ModelProto:
    """The graph with rounding in front of and behind every product whose tensors are float32."""
    from onnx import numpy_helper

    model = _folded(path)
    weights = {item.name: item for item in model.graph.initializer}
    named: dict[str, None] = {}
    for node in model.graph.node:
        for place in WEIGHTS.get(node.op_type, ()):
            found = weights.get(node.input[place]) if place < len(node.input) else None
            if found is not None and len(found.dims) > 1 and found.data_type == 1:
                found.CopyFrom(numpy_helper.from_array(_round_weights(numpy_helper.to_array(found), node), found.name))
        if node.op_type in WEIGHTS:
            given = (node.input[place] for place in INPUTS[node.op_type] if place < len(node.input))
            named |= dict.fromkeys(name for name in (*given, *node.output) if name and name not in weights)
    _round_activations(model, _ranges(model, list(named), inputs))
    return model


def _round_weights(values: np.ndarray, node: onnx.NodeProto) -> np.ndarray:
    """Float32 weights of a product, with one scale for each of its outputs."""
    import numpy as np

    transposed = any(item.name == "transB" and item.i for item in node.attribute)
    along = {"MatMul": values.ndim - 1, "Gemm": 0 if transposed else 1, "Conv": 0}.get(node.op_type, 1)
    others = tuple(axis for axis in range(values.ndim) if axis != along)
    step = np.maximum(np.abs(values).max(axis=others, keepdims=True, initial=0) / WEIGHT_STEPS, LEAST)
    return (np.round(values / step) * step).astype(np.float32)


def _folded(path: Path) -> onnx.ModelProto:
    """With its constants computed, as ONNX Runtime does it: weights are then where they are used. Raises ValueError."""
    import onnx
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        options = _options()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def _options() -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return options


def _answers(model: onnx.ModelProto, inputs: np.ndarray, batch: int = 64) -> list[np.ndarray]:
    """Every output of the graph, [N, ...] each; numbers without a batch become [batches]."""
    import numpy as np
    import onnxruntime as ort

    session = ort.InferenceSession(model.SerializeToString(), _options(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts = [session.run(None, {name: inputs[at : at + batch]}) for at in range(0, len(inputs), batch)]
    return [np.concatenate([np.atleast_1d(np.asarray(item)) for item in items]) for items in zip(*parts, strict=True)]


def _ranges(model: onnx.ModelProto, names: Sequence[str], inputs: np.ndarray) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of float32 tensors on these rows, zero among them; others are left out."""
    import numpy as np
    import onnx

    whole = onnx.shape_inference.infer_shapes(model)
    floats = {item.name for item in (*whole.graph.value_info, *whole.graph.output) if _is_float(item)}
    probed, kept = onnx.ModelProto(), [name for name in names if name in floats]
    probed.CopyFrom(model)
    for name in kept:
        for kind in ("ReduceMin", "ReduceMax"):
            place = f"{name}/{kind}"
            probed.graph.node.append(onnx.helper.make_node(kind, [name], [place], keepdims=0))
            probed.graph.output.append(onnx.helper.make_tensor_value_info(place, onnx.TensorProto.FLOAT, []))
    found = _answers(probed, inputs)[len(model.graph.output) :]
    limits = {
        name: (min(float(found[2 * place].min()), 0.0), max(float(found[2 * place + 1].max()), 0.0))
        for place, name in enumerate(kept)
    }
    return {name: pair for name, pair in limits.items() if np.isfinite(pair).all()}


def _is_float(item: onnx.ValueInfoProto) -> bool:
    return item.type.tensor_type.elem_type == 1


def _round_activations(model: onnx.ModelProto, ranges: Mapping[str, tuple[float, float]]) -> None:
    """A quantization and its inverse behind whatever makes one of these tensors; who reads it gets the rounded one."""
    import numpy as np
    from onnx import helper, numpy_helper

    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = f"{name}/rounded" if name in ranges else name
        nodes.append(node)
        for name in node.output:
            if name not in ranges:
                continue
            low, high = ranges[name]
            step = np.float32(max((high - low) / ACTIVATION_STEPS, LEAST))
            zero = np.uint8(np.clip(round(-low / float(step)), 0, ACTIVATION_STEPS))
            constants = {f"{name}/step": step, f"{name}/zero": zero}
            model.graph.initializer.extend(
                numpy_helper.from_array(np.asarray(value), place) for place, value in constants.items()
            )
            nodes.append(helper.make_node("QuantizeLinear", [name, *constants], [f"{name}/whole"]))
            nodes.append(helper.make_node("DequantizeLinear", [f"{name}/whole", *constants], [f"{name}/rounded"]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
