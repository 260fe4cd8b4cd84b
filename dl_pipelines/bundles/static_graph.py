"""A graph with every shape fixed, one row at a time: folded, cleaned, and with integer operators where it is int8.

ONNX Runtime's optimiser does the folding; only its levels that do not depend on this machine's processor are used
(onnxruntime.ai, "Graph optimizations": basic and extended).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dl_pipelines.bundles.base import BundleError

if TYPE_CHECKING:
    import numpy as np
    import onnx

Level = Literal["basic", "extended"]


def fix(source: Path, target: Path, rows: np.ndarray, level: Level = "basic") -> Path:
    """Write `source` for one of `rows` [N, ...] at a time, folded, with the shape of every tensor in the file.

    `extended` turns DequantizeLinear - operator - QuantizeLinear into operators on integers, some of them ONNX
    Runtime's own (com.microsoft). Raises BundleError.
    """
    import onnx

    model = onnx.load(str(source))
    if len(model.graph.input) != 1 or len(model.graph.output) != 1:
        raise BundleError(f"found a graph with {len(model.graph.input)} inputs; expected one input and one output")
    for size, dimension in zip((1, *rows.shape[1:]), model.graph.input[0].type.tensor_type.shape.dim, strict=True):
        dimension.Clear()
        dimension.dim_value = size
    model.graph.output[0].type.tensor_type.shape.dim[0].Clear()
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    del model.graph.value_info[:]
    target.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(target))
    _optimise(target, level)
    target.write_bytes(_cleaned(onnx.load(str(target))).SerializeToString(deterministic=True))
    target.write_bytes(_with_shapes(target, rows).SerializeToString(deterministic=True))
    return target


def _with_shapes(path: Path, rows: np.ndarray) -> onnx.ModelProto:
    """The graph with what its tensors are when it runs. Raises BundleError where that depends on the row."""
    import onnx
    from onnx import helper

    try:
        runs = [
            {name: (value.dtype, value.shape) for name, value in found.items()} for found in every_tensor(path, rows)
        ]
    except Exception as error:  # ONNX Runtime's error types are not public
        raise _refused(error) from error
    kinds = runs[0]
    moving = [name for name in kinds if any(other[name] != kinds[name] for other in runs)]
    if moving:
        raise BundleError(
            f"found tensors whose shape depends on the row ({', '.join(moving[:3])}); expected fixed ones, that can "
            "be laid out; make a mobile or edge bundle"
        )
    model = onnx.load(str(path))
    ends = {item.name for item in (*model.graph.input, *model.graph.output)}
    model.graph.value_info.extend(
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), shape)
        for name, (dtype, shape) in kinds.items()
        if name not in ends
    )
    return model


def _refused(error: Exception) -> BundleError:
    told = str(error).strip().splitlines()
    return BundleError(
        f"found a graph that can't be fixed to one row ({told[0][:200] if told else type(error).__name__}); expected a "
        "network whose forward works for any batch"
    )


def _optimise(path: Path, level: Level) -> None:
    """Replace a file by what ONNX Runtime's optimiser makes of it. Raises BundleError."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = {"basic": levels.ORT_ENABLE_BASIC, "extended": levels.ORT_ENABLE_EXTENDED}[level]
    options.optimized_model_filepath = str(path.with_suffix(".optimised.onnx"))
    options.log_severity_level = 4
    try:
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's error types are not public
        raise _refused(error) from error
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


def every_tensor(path: Path, rows: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """For each of `rows` [N, ...]: every tensor of a graph by name, the input and each node's outputs."""
    import numpy as np
    import onnx

    model = onnx.load(str(path))
    given = model.graph.input[0].name
    names = [name for node in model.graph.node for name in node.output if name]
    shown = {item.name for item in model.graph.output}
    model.graph.output.extend([onnx.ValueInfoProto(name=name) for name in names if name not in shown])
    session = _plain_session(model.SerializeToString())
    for row in rows:
        one = np.ascontiguousarray(row[None])
        yield {given: one, **dict(zip(names, session.run(names, {given: one}), strict=True))}


def _plain_session(model: bytes) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
