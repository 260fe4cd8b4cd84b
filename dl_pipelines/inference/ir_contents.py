"""What OpenVINO's IR may hold: an XML without a document type, known operators, weights inside the `.bin`. Never run.

Read by expat with every declaration refused, so that no entity is expanded and nothing is fetched.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from dl_pipelines.inference.model_files import refused
from dl_pipelines.tasks.base import Signature, Tensor

LARGEST_XML = 64_000_000
DEEPEST = 100
OPSETS = re.compile(r"opset\d{1,2}")
"""OpenVINO's own operators; another version means an extension, which is a library that it would load."""
VERSIONS = ("10", "11")

TYPES = {"u8": "uint8", "i8": "int8", "u16": "uint16", "i16": "int16", "i32": "int32", "i64": "int64", "u32": "uint32",
         "u64": "uint64", "f16": "float16", "f32": "float32", "f64": "float64", "boolean": "bool"}  # fmt: skip


def check_ir(xml: Path, weights: Path, signature: Signature | None = None) -> None:
    """See model_files.check_model_folder. Raises ModelFileError."""
    from xml.parsers import expat

    if xml.stat().st_size > LARGEST_XML:
        raise refused(xml.name, f"{xml.stat().st_size} bytes", f"at most {LARGEST_XML}")
    reader = _Reader(xml.name, weights.name, weights.stat().st_size)
    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.StartDoctypeDeclHandler = lambda *_: reader.refuse("a document type", "plain elements")
    parser.EntityDeclHandler = lambda *_: reader.refuse("an entity", "plain elements")
    parser.ProcessingInstructionHandler = lambda *_: reader.refuse("a processing instruction", "plain elements")
    try:
        parser.Parse(xml.read_bytes(), True)
    except expat.ExpatError as error:
        raise refused(xml.name, f"XML that is not whole ({error})", "a whole model") from error
    reader.check_ends(signature)


@dataclass
class _Reader:
    """What the parser has seen: the path of tags, the layer it is in, the ends of the graph."""

    file: str
    weights: str
    size: int
    path: list[str] = field(default_factory=list)
    layers: list[dict[str, str]] = field(default_factory=list)
    inputs: list[tuple[str, str, list[int]]] = field(default_factory=list)
    outputs: int = 0

    def refuse(self, found: str, expected: str) -> NoReturn:
        raise refused(self.file, found, expected)

    def start(self, tag: str, given: dict[str, str]) -> None:
        if not self.path and (tag != "net" or given.get("version") not in VERSIONS):
            self.refuse(f"<{tag}> of version {given.get('version')!r}", f"<net> of version {' or '.join(VERSIONS)}")
        self.path.append(tag)
        if len(self.path) > DEEPEST:
            self.refuse(f"more than {DEEPEST} elements inside one another", "a graph")
        if tag == "layer":
            self._layer(given)
        elif tag == "data" and self.path[-2] == "layer":
            self._data(given)

    def end(self, tag: str) -> None:
        self.path.pop()
        if tag == "layer":
            self.layers.pop()

    def _layer(self, given: dict[str, str]) -> None:
        self.layers.append(given)
        version, kind = given.get("version", ""), given.get("type", "")
        if not OPSETS.fullmatch(version):
            self.refuse(f"the operator {kind} of {version!r}", "operators of OpenVINO's own sets")
        if kind == "Result" and self.path == ["net", "layers", "layer"]:
            self.outputs += 1

    def _data(self, given: dict[str, str]) -> None:
        layer = self.layers[-1]
        if layer.get("type") == "Parameter" and self.path == ["net", "layers", "layer", "data"]:
            shape = [int(size) if size.isdecimal() else -1 for size in given.get("shape", "").split(",")]
            self.inputs.append((layer.get("name", ""), given.get("element_type", ""), shape))
        if layer.get("type") == "Const" or "offset" in given:
            self._check_const(layer.get("name", ""), given)

    def _check_const(self, name: str, given: dict[str, str]) -> None:
        """That the bytes are in the `.bin`, and enough for the shape."""
        shape = given.get("shape", "").strip()
        try:
            offset, size = int(given["offset"]), int(given["size"])
            sizes = [int(item) for item in shape.split(",")] if shape else []
        except (KeyError, ValueError):
            self.refuse(f"no place of the weights of {name!r}", f"an offset and a size in {self.weights}")
        if offset < 0 or size < 0 or offset + size > self.size:
            self.refuse(
                f"weights of {name!r} at {offset} to {offset + size}", f"the {self.size} bytes of {self.weights}"
            )
        bits = _bits(given.get("element_type", ""))
        if bits is not None and (min(sizes, default=0) < 0 or math.ceil(math.prod(sizes) * bits / 8) != size):
            self.refuse(f"{size} bytes for {name!r} of {given['element_type']} {sizes}", "as many as its shape needs")

    def check_ends(self, signature: Signature | None) -> None:
        if len(self.inputs) != 1 or self.outputs != 1:
            self.refuse(f"{len(self.inputs)} inputs and {self.outputs} outputs", "one of each")
        if signature is not None:
            self._check_input(signature.inputs[0])

    def _check_input(self, wanted: Tensor) -> None:
        name, kind, shape = self.inputs[0]
        like = len(shape) == 1 + len(wanted.shape) and shape[0] == -1
        like = like and all(-1 in pair or pair[0] == pair[1] for pair in zip(shape[1:], wanted.shape, strict=True))
        if (name, TYPES.get(kind)) != (wanted.name, wanted.dtype) or not like:
            self.refuse(f"{name!r} of {kind} {shape}", f"{wanted.name!r} of {wanted.dtype} {[-1, *wanted.shape]}")


def _bits(kind: str) -> int | None:
    """Of an element: the number in the type's name (`f32`, `u4`, `nf4`, `f8e4m3`); None where there is none."""
    if kind == "boolean":
        return 8
    found = re.match(r"[a-z]+(\d+)", kind)
    return int(found.group(1)) if found else None
