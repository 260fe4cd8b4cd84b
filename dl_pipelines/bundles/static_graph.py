"""A graph with every shape fixed, one row at a time: folded, cleaned, and with integer operators where it is int8.

ONNX Runtime's optimiser does the folding; only its levels that do not depend on this machine's processor are used
(onnxruntime.ai, "Graph optimizations": basic and extended).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dl_pipelines.bundles.base import BundleError

if TYPE_CHECKING:
    import numpy as np
    import onnx

Level = Literal["basic", "extended"]


def fix(source: Path, target: Path, shape: Sequence[int], level: Level = "basic") -> Path:
    """Write `source` for inputs of exactly `shape` (with the batch), folded.

    `extended` turns DequantizeLinear - operator - QuantizeLinear into operators on integers, some of them ONNX
    Runtime's own (com.microsoft). Raises BundleError.
    """
    import onnx

    model = onnx.load(str(source))
    if len(model.graph.input) != 1 or len(model.graph.output) != 1:
        raise BundleError(f"found a graph with {len(model.graph.input)} inputs; expected one input and one output")
    for size, dimension in zip(shape, model.graph.input[0].type.tensor_type.shape.dim, strict=True):
        dimension.Clear()
        dimension.dim_value = size
    model.graph.output[0].type.tensor_type.shape.dim[0].Clear()
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = shape[0]
    del model.graph.value_info[:]
    target.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(target))
    _optimise(target, level)
    target.write_bytes(_cleaned(onnx.load(str(target))).SerializeToString(deterministic=True))
    return target


def _optimise(path: Path, level: Level) -> None:
    """Replace a file by what ONNX Runtime's optimiser makes of it. Raises BundleError."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = {"basic": levels.ORT_ENABLE_BASIC, "extended": levels.ORT_ENABLE_EXTENDED}[level]
    options.optimized_model_filepath = str(path.with_suffix(".optimised.onnx"))
    options.log_severity_level = 3
    try:
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's error types are not public
        told = str(error).strip().splitlines()
        raise BundleError(
            f"found a graph that can't be fixed to one row ({told[0][:200] if told else type(error).__name__}); "
            "expected a network whose forward works for any batch"
        ) from error
    path.with_suffix(".optimised.onnx").replace(path)


def _cleaned(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the optimiser's traces: operator sets that nothing uses, notes, an order that depends on a hash."""
    used = {node.domain for node in model.graph.node}
    kept = [(item.domain, item.version) for item in model.opset_import if item.domain in used]
    del model.opset_import[:]
    for domain, version in sorted(kept):
        model.opset_import.add(domain=domain, version=version)
    del model.metadata_props[:]
    model.producer_name = model.producer_version = ""
    for thing in (model.graph, *model.graph.node):
        del thing.metadata_props[:]
        thing.ClearField("doc_string")
    weights = sorted(model.graph.initializer, key=lambda item: item.name)
    del model.graph.initializer[:]
    model.graph.initializer.extend(weights)
    del model.graph.value_info[:]
    return model


def run_rows(path: Path, rows: np.ndarray) -> np.ndarray:
    """Answers [N, ...] of a graph for one row at a time, every operator as it is written. Raises BundleError."""
    import numpy as np

    session = _plain_session(path.read_bytes())
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: np.ascontiguousarray(row[None])})[0] for row in rows])


def tensors(path: Path, row: np.ndarray) -> dict[str, np.ndarray]:
    """Every tensor of a graph by name when it runs on `row` [...]: the input, each node's outputs."""
    import numpy as np
    import onnx

    model = onnx.load(str(path))
    names = [name for node in model.graph.node for name in node.output if name]
    shown = {item.name for item in model.graph.output}
    model.graph.output.extend([onnx.ValueInfoProto(name=name) for name in names if name not in shown])
    session = _plain_session(model.SerializeToString())
    given = {model.graph.input[0].name: np.ascontiguousarray(row[None])}
    return {**given, **dict(zip(names, session.run(names, given), strict=True))}


def _plain_session(model: bytes) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
