"""What a tensor of an ONNX file may be: its values lie in the file, and are as many as its shape says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from dl_pipelines.inference.made_sizes import LARGEST_ELEMENTS
from dl_pipelines.inference.model_files import refused

if TYPE_CHECKING:
    import onnx

BITS: Mapping[str, int] = {"DOUBLE": 64, "INT64": 64, "UINT64": 64, "COMPLEX64": 64, "COMPLEX128": 128, "FLOAT": 32,
                           "INT32": 32, "UINT32": 32, "FLOAT16": 16, "BFLOAT16": 16, "INT16": 16, "UINT16": 16,
                           "INT8": 8, "UINT8": 8, "BOOL": 8, "FLOAT8E4M3FN": 8, "FLOAT8E4M3FNUZ": 8, "FLOAT8E5M2": 8,
                           "FLOAT8E5M2FNUZ": 8, "FLOAT8E8M0": 8, "UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2,
                           "INT2": 2}  # fmt: skip
"""Bits of an element by the type's name (onnx.proto, TensorProto.DataType); texts have none."""


def check_tensor(file: str, name: str, tensor: onnx.TensorProto) -> None:
    """That its values lie in the file, and are as many as it says. Raises ModelFileError."""
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
