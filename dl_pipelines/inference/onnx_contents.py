"""What an ONNX file may hold: its own weights, known operators, one input and one output. Parsed, never run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from dl_pipelines.inference.model_files import LARGEST_BYTES, refused
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

MAKES_LARGE: Mapping[str, int] = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1}
"""The input of an operator that says how large its output is: with constants it is made when the model is loaded."""

LARGEST_ELEMENTS = LARGEST_BYTES // 4

BITS: Mapping[str, int] = {"DOUBLE": 64, "INT64": 64, "UINT64": 64, "COMPLEX64": 64, "COMPLEX128": 128, "FLOAT": 32,
                           "INT32": 32, "UINT32": 32, "FLOAT16": 16, "BFLOAT16": 16, "INT16": 16, "UINT16": 16,
                           "INT8": 8, "UINT8": 8, "BOOL": 8, "FLOAT8E4M3FN": 8, "FLOAT8E4M3FNUZ": 8, "FLOAT8E5M2": 8,
                           "FLOAT8E5M2FNUZ": 8, "FLOAT8E8M0": 8, "UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2,
                           "INT2": 2}  # fmt: skip
"""Bits of an element by the type's name (onnx.proto, TensorProto.DataType); texts have none."""


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
    for graph in _graphs(model.graph):
        _check_graph(path.name, graph)


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


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and every one inside it; protobuf has bounded the depth."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(inner)


def _check_graph(file: str, graph: onnx.GraphProto) -> None:
    if graph.sparse_initializer:
        raise refused(file, f"sparse weights ({graph.sparse_initializer[0].values.name})", "dense ones")
    constants: dict[str, Any] = {item.name: item for item in graph.initializer}
    for node in graph.node:
        _check_domain(file, node.domain, f"operator {node.op_type}")
        if node.domain == "com.microsoft" and node.op_type in OPENS_FILES:
            raise refused(file, f"the operator {node.op_type}, which holds another program", "operators only")
        for tensor in _tensors(file, node):
            constants[node.output[0] if node.output else ""] = tensor
    for name, tensor in constants.items():
        _check_tensor(file, name, tensor)
    for node in graph.node:
        place = MAKES_LARGE.get(node.op_type)
        if place is not None and place < len(node.input) and node.input[place] in constants:
            _check_made(file, node.op_type, constants[node.input[place]])


def _tensors(file: str, node: onnx.NodeProto) -> Iterable[onnx.TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
            raise refused(file, f"a sparse constant of {node.op_type}", "dense ones")
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors


def _check_tensor(file: str, name: str, tensor: onnx.TensorProto) -> None:
    """That its values lie in the file, and are as many as it says."""
    import onnx

    place = next((item.value for item in tensor.external_data if item.key == "location"), None)
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise refused(file, f"external data of {name!r} in {place!r}, {_where(place or '')}", "all weights inside it")
    if any(size < 0 for size in tensor.dims) or math.prod(tensor.dims) > LARGEST_ELEMENTS:
        raise refused(file, f"{name!r} of the size {list(tensor.dims)}", f"at most {LARGEST_ELEMENTS} elements")
    kind = onnx.TensorProto.DataType.Name(tensor.data_type) if tensor.data_type in range(64) else "unknown"
    count = math.prod(tensor.dims)
    if kind == "STRING":
        held, wanted = len(tensor.string_data), count
    elif kind not in BITS or tensor.HasField("segment"):
        raise refused(file, f"{name!r} of the type {kind}", "numbers")
    elif tensor.HasField("raw_data"):
        held, wanted = len(tensor.raw_data), math.ceil(count * BITS[kind] / 8)
    else:
        held, wanted = _listed(tensor), _spread(kind, count)
    if held != wanted:
        raise refused(
            file, f"{held} of the {wanted} bytes or values that {name!r} {list(tensor.dims)} has", "all of them"
        )


def _listed(tensor: onnx.TensorProto) -> int:
    fields = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
    return sum(len(field) for field in fields)


def _spread(kind: str, count: int) -> int:
    """How many numbers of a list field hold so many elements: complex ones are two, small ones share one."""
    if kind.startswith("COMPLEX"):
        return 2 * count
    return math.ceil(count * BITS[kind] / 8) if BITS[kind] < 8 else count


def _where(place: str) -> str:
    """In which way a location leaves the file."""
    if "://" in place:
        return "an address"
    if PurePosixPath(place).is_absolute() or PureWindowsPath(place).drive or PureWindowsPath(place).root:
        return "an absolute path"
    if ".." in PurePosixPath(place).parts or ".." in PureWindowsPath(place).parts:
        return "outside its folder"
    return "another file" if place else "without a location"


def _check_made(file: str, operator: str, tensor: onnx.TensorProto) -> None:
    from onnx import numpy_helper

    sizes = numpy_helper.to_array(tensor)
    count = math.prod(max(abs(int(size)), 1) for size in sizes.ravel())
    if count > LARGEST_ELEMENTS:
        raise refused(file, f"{operator} to the size {sizes.tolist()}", f"at most {LARGEST_ELEMENTS} elements")
