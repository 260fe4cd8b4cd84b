"""What an ONNX file may hold: its own weights, known operators, one input and one output. Parsed, never run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dl_pipelines.inference.model_files import refused
from dl_pipelines.inference.onnx_sizes import Scope, check_sizes, with_names
from dl_pipelines.inference.onnx_tensors import check_tensor
from dl_pipelines.tasks.base import Signature, Tensor

if TYPE_CHECKING:
    import onnx

DOMAINS = ("", "ai.onnx", "com.microsoft")
"""Operators of the standard, and those built into ONNX Runtime (its quantized ones); others need a library loaded."""

LISTED = (
    *DOMAINS, "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview", "ai.onnx.preview.training", "com.microsoft.nchwc",
    "com.microsoft.experimental", "com.ms.internal.nhwc", "org.pytorch.aten",
)  # fmt: skip
"""ONNX Runtime lists these in every graph that it writes, whether or not an operator is of them."""

OPENS_FILES = ("EPContext", "Snpe")
"""Operators of com.microsoft that hold another program, or the path of one."""


def check_onnx(path: Path, signature: Signature | None = None) -> None:
    """See model_files.check_model_folder. Raises ModelFileError."""
    import onnx
    from google.protobuf.message import DecodeError

    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise refused(path.name, f"bytes that are no ONNX ({error})", "a whole model") from error
    if not model.HasField("graph") or not model.graph.node or not model.ir_version:
        raise refused(path.name, "no graph", "a whole model")
    if model.functions or model.training_info:
        what = model.functions[0].name if model.functions else "a training graph"
        raise refused(path.name, f"functions of its own ({what})", "operators only")
    if any(item.key == "ort_config" for item in model.metadata_props):
        raise refused(path.name, "settings for ONNX Runtime (ort_config)", "a model without")
    for opset in model.opset_import:
        _check_domain(path.name, opset.domain, "operator set", LISTED)
    _check_ends(path.name, model.graph, signature)
    _check_graph(path.name, model.graph, Scope())


def _check_domain(file: str, domain: str, what: str, known: tuple[str, ...] = DOMAINS) -> None:
    if domain not in known:
        raise refused(file, f"the {what} of {domain!r}", f"those of {', '.join(repr(name) for name in DOMAINS)}")


def _check_ends(file: str, graph: onnx.GraphProto, signature: Signature | None) -> None:
    weights = {item.name for item in graph.initializer}
    inputs = [item for item in graph.input if item.name not in weights]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise refused(file, f"{len(inputs)} inputs and {len(graph.output)} outputs", "one of each")
    if signature is not None:
        for found, wanted in ((inputs[0], signature.inputs[0]), (graph.output[0], signature.outputs[0])):
            _check_end(file, found, wanted)


def _check_end(file: str, found: onnx.ValueInfoProto, wanted: Tensor) -> None:
    """By name, type and every size that both of them know; the first is the batch, which must be free."""
    import onnx

    about = found.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(about.elem_type).name if about.elem_type else "none"
    sizes = [size.dim_value if size.HasField("dim_value") else -1 for size in about.shape.dim]
    like = len(sizes) == 1 + len(wanted.shape) and sizes[0] == -1
    like = like and all(-1 in pair or pair[0] == pair[1] for pair in zip(sizes[1:], wanted.shape, strict=True))
    if (found.name, dtype) != (wanted.name, wanted.dtype) or not like:
        raise refused(
            file, f"{found.name!r} of {dtype} {sizes}", f"{wanted.name!r} of {wanted.dtype} {[-1, *wanted.shape]}"
        )


def _check_graph(file: str, graph: onnx.GraphProto, outer: Scope) -> None:
    """The graph and every one inside it, which see what lies around them; protobuf has bounded the depth.

    Every tensor is looked at before its name counts, so that none hides behind another of its name.
    """
    if graph.sparse_initializer:
        raise refused(file, f"sparse weights ({graph.sparse_initializer[0].values.name})", "dense ones")
    for tensor in graph.initializer:
        check_tensor(file, tensor.name, tensor)
    for node in graph.node:
        _check_node(file, node)
    _check_names(file, graph)
    scope = with_names(graph, outer)
    check_sizes(file, graph, scope)
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _check_graph(file, inner, scope)


def _check_node(file: str, node: onnx.NodeProto) -> None:
    _check_domain(file, node.domain, f"operator {node.op_type}")
    if node.domain == "com.microsoft" and node.op_type in OPENS_FILES:
        raise refused(file, f"the operator {node.op_type}, which holds another program", "operators only")
    for attribute in node.attribute:
        if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
            raise refused(file, f"a sparse constant of {node.op_type}", "dense ones")
        for tensor in (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors):
            check_tensor(file, node.output[0] if node.output else tensor.name, tensor)
    given = [attribute.name for attribute in node.attribute]
    if len(given) != len(set(given)) or (node.op_type == "Constant" and len(given) != 1):
        raise refused(file, f"the attributes {', '.join(given) or 'none'} of {node.op_type}", "each once, one constant")


def _check_names(file: str, graph: onnx.GraphProto) -> None:
    """That no two weights or operators of a graph make the same name: which of them counts is the runtime's choice."""
    seen: set[str] = set()
    made = (name for node in graph.node for name in node.output if name)
    for name in (*(item.name for item in graph.initializer), *made):
        if name in seen:
            raise refused(file, f"the name {name!r} for two tensors", "one for each")
        seen.add(name)
