"""What OpenVINO's IR may hold: an XML without a document type, known operators, weights inside the `.bin`. Never run.

Read by expat with every declaration refused, so that no entity is expanded and nothing is fetched.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from dl_pipelines.inference.ir_graph import TYPES, Graph, Layer, shape_of, split_names, whole
from dl_pipelines.inference.model_files import refused
from dl_pipelines.tasks.base import Signature, Tensor

LARGEST_XML = 64_000_000
DEEPEST = 100
OPSETS = re.compile(r"opset\d{1,2}")
"""OpenVINO's own operators; another version means an extension, which is a library that it would load."""
GRAPHS = ("net", "body", "then_body", "else_body")
"""What has layers and edges of its own."""
VERSIONS = ("10", "11")


def check_ir(xml: Path, weights: Path, signature: Signature | None = None) -> None:
    """See model_files.check_model_folder. Raises ModelFileError."""
    from xml.parsers import expat

    if xml.stat().st_size > LARGEST_XML:
        raise refused(xml.name, f"{xml.stat().st_size} bytes", f"at most {LARGEST_XML}")
    reader = _Reader(xml.name, weights)
    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.CharacterDataHandler, parser.buffer_text = reader.text, True
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
    """What the parser has seen: the path of tags, the graphs and layers that it is in, the last graph that ended."""

    file: str
    weights: Path
    path: list[str] = field(default_factory=list)
    graphs: list[tuple[int, Graph]] = field(default_factory=list)
    """Those that it is in, each with how deep its layers lie."""
    layers: list[Layer] = field(default_factory=list)
    last: Graph = field(default_factory=Graph)

    def refuse(self, found: str, expected: str) -> NoReturn:
        raise refused(self.file, found, expected)

    def start(self, tag: str, given: dict[str, str]) -> None:
        if not self.path and (tag != "net" or given.get("version") not in VERSIONS):
            self.refuse(f"<{tag}> of version {given.get('version')!r}", f"<net> of version {' or '.join(VERSIONS)}")
        self.path.append(tag)
        if len(self.path) > DEEPEST:
            self.refuse(f"more than {DEEPEST} elements inside one another", "a graph")
        if tag == "layers":
            self._graph()
        elif tag == "layer":
            self._layer(given)
        elif tag == "edge" and self.graphs:
            self.graphs[-1][1].edge(given)
        elif self.path[-2:-1] == ["layer"] and tag == "data":
            self._data(self.layers[-1], given)
        elif self.path[-3:-1] in (["layer", "input"], ["layer", "output"]) and tag == "port":
            self.layers[-1].port(self.path[-2], given)

    def text(self, told: str) -> None:
        if self.path[-1] == "dim" and self.path[-4:-1] in (["layer", "input", "port"], ["layer", "output", "port"]):
            self.layers[-1].ports[-1].sizes.append(int(told) if told.strip().isdecimal() else -1)

    def end(self, tag: str) -> None:
        self.path.pop()
        if tag == "layer":
            self.layers.pop().check(self.file)
        elif self.graphs and len(self.path) == self.graphs[-1][0] - 2:
            _, self.last = self.graphs.pop()
            self.last.check(self.file, self.weights)

    def _graph(self) -> None:
        if self.path[-2:-1] not in ([name] for name in GRAPHS) or len(self.path) in (depth for depth, _ in self.graphs):
            self.refuse(f"layers in {'/'.join(self.path[:-1])}", f"them once in each of {', '.join(GRAPHS)}")
        self.graphs.append((len(self.path), Graph()))

    def _layer(self, given: dict[str, str]) -> None:
        version, kind = given.get("version", ""), given.get("type", "")
        if not OPSETS.fullmatch(version):
            self.refuse(f"the operator {kind} of {version!r}", "operators of OpenVINO's own sets")
        if self.path[-2:-1] != ["layers"]:
            self.refuse(f"a layer in {'/'.join(self.path[:-1])}", "them in layers only")
        layer = Layer(kind, given.get("name", ""), given.get("output_names"))
        self.layers.append(layer)
        self.graphs[-1][1].layer(given["id"], layer)

    def _data(self, layer: Layer, given: dict[str, str]) -> None:
        if layer.data:
            self.refuse(f"two data of {layer.name!r}", "one")
        layer.data = given
        if layer.kind == "Const" or "offset" in given:
            self._check_const(layer.name, given)

    def _check_const(self, name: str, given: dict[str, str]) -> None:
        """That the bytes are in the `.bin`, and enough for the shape."""
        held = self.weights.stat().st_size
        try:
            offset, size, sizes = whole(given["offset"]), whole(given["size"]), shape_of(given)
        except (KeyError, ValueError):
            self.refuse(f"no place of the weights of {name!r}", f"an offset and a size in {self.weights.name}")
        if offset < 0 or size < 0 or offset + size > held:
            self.refuse(
                f"weights of {name!r} at {offset} to {offset + size}", f"the {held} bytes of {self.weights.name}"
            )
        bits = _bits(given.get("element_type", ""))
        if bits is None:
            self.refuse(f"{name!r} of the type {given.get('element_type')!r}", "numbers")
        if min(sizes, default=0) < 0 or math.ceil(math.prod(sizes) * bits / 8) != size:
            self.refuse(f"{size} bytes for {name!r} of {given['element_type']} {sizes}", "as many as its shape needs")

    def check_ends(self, signature: Signature | None) -> None:
        """Of the outer graph, which ends last."""
        inputs = [layer for layer in self.last.layers.values() if layer.kind == "Parameter"]
        outputs = [(place, layer) for place, layer in self.last.layers.items() if layer.kind == "Result"]
        if len(inputs) != 1 or len(outputs) != 1:
            self.refuse(f"{len(inputs)} inputs and {len(outputs)} outputs", "one of each")
        if signature is not None:
            given = inputs[0].data
            shape = [int(size) if size.isdecimal() else -1 for size in given.get("shape", "").split(",")]
            self._check_end({inputs[0].name}, given.get("element_type", ""), shape, signature.inputs[0])
            place, result = outputs[0]
            port = result.taken()[0]
            names = self.last.names(place, port)
            if result.output_names is not None:
                names &= split_names(result.output_names)
            self._check_end(names, port.precision.lower().replace("fp", "f"), port.sizes, signature.outputs[0])

    def _check_end(self, names: set[str], kind: str, shape: list[int], wanted: Tensor) -> None:
        """By name, type and every size that both of them know; the first is the batch, which must be free."""
        like = len(shape) == 1 + len(wanted.shape) and shape[0] == -1
        like = like and all(-1 in pair or pair[0] == pair[1] for pair in zip(shape[1:], wanted.shape, strict=True))
        if wanted.name not in names or TYPES.get(kind) != wanted.dtype or not like:
            found = " or ".join(repr(name) for name in sorted(names)) or "no name"
            self.refuse(f"{found} of {kind} {shape}", f"{wanted.name!r} of {wanted.dtype} {[-1, *wanted.shape]}")


def _bits(kind: str) -> int | None:
    """Of an element: the number in the type's name (`f32`, `u4`, `nf4`, `f8e4m3`); None where there is none."""
    if kind == "boolean":
        return 8
    found = re.match(r"[a-z]+(\d+)", kind)
    return int(found.group(1)) if found else None
