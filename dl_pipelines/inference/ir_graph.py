"""A graph of OpenVINO's IR as its XML tells it: layers, ports, edges, and what its constants make. Not the reading."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from dl_pipelines.inference.made_sizes import LARGEST_ELEMENTS, MOST_SIZES, Numbers, Places, check_made, product
from dl_pipelines.inference.model_files import refused

TYPES = {"u8": "uint8", "i8": "int8", "u16": "uint16", "i16": "int16", "i32": "int32", "i64": "int64", "u32": "uint32",
         "u64": "uint64", "f16": "float16", "f32": "float32", "f64": "float64", "boolean": "bool"}  # fmt: skip

PLACES: Places = {
    "Broadcast": ((1,),), "DynamicBroadcast": ((1,),), "Tile": ((1,),), "Range": ((0, 1, 2),), "OneHot": ((1,),),
    "Pad": ((1, 2),), "Interpolate": ((1,), (2,)), "RandomUniform": ((0,),), "Eye": ((0, 1), (3,)),
    "ConvolutionBackpropData": ((2,),), "GroupConvolutionBackpropData": ((2,),), "Col2Im": ((1,),),
}  # fmt: skip
PASSES = ("Convert", "Reshape", "Squeeze", "Unsqueeze")
"""Layers whose values are those of their first input."""


@dataclass
class Port:
    """What a layer takes or gives: its type as OpenVINO spells it there (`FP32`), sizes (-1 is free)."""

    side: str
    number: str
    precision: str
    names: str
    sizes: list[int] = field(default_factory=list)


@dataclass
class Layer:
    """One operator."""

    kind: str
    name: str
    output_names: str | None = None
    data: dict[str, str] = field(default_factory=dict)
    ports: list[Port] = field(default_factory=list)

    def port(self, side: str, given: dict[str, str]) -> None:
        """One more of its ports."""
        self.ports.append(Port(side, given["id"], given.get("precision", ""), given.get("names", "")))

    def taken(self) -> list[Port]:
        """The ports of what it takes, in their order."""
        return [port for port in self.ports if port.side == "input"]

    def check(self, file: str) -> None:
        """That nothing that it gives is larger than a model may be, whatever the batch. Raises ModelFileError."""
        for port in self.ports:
            sizes = [size for size in port.sizes if size != -1]
            if product(sizes) > LARGEST_ELEMENTS:
                raise refused(file, f"{self.name!r} of the size {sizes}", f"at most {LARGEST_ELEMENTS} elements")


@dataclass
class Graph:
    """The layers by their numbers, and for each port that takes something where it comes from."""

    layers: dict[str, Layer] = field(default_factory=dict)
    edges: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)

    def layer(self, number: str, layer: Layer) -> None:
        """One more layer. Raises ValueError where its number is taken."""
        if number in self.layers:
            raise ValueError(f"two layers of the number {number}")
        self.layers[number] = layer

    def edge(self, given: dict[str, str]) -> None:
        """One more edge. Raises ValueError where its port takes something already, LookupError where it has none."""
        end = given["to-layer"], given["to-port"]
        if end in self.edges:
            raise ValueError(f"two edges to the port {end[1]} of the layer {end[0]}")
        self.edges[end] = given["from-layer"], given["from-port"]

    def names(self, layer: str, port: Port) -> set[str]:
        """The names of the tensor that a port takes."""
        maker, number = self.edges[layer, port.number]
        return {
            name for made in self.layers[maker].ports if made.side == "output" and made.number == number
            for name in split_names(made.names)
        }  # fmt: skip

    def check(self, file: str, weights: Path) -> None:
        """That no layer makes more by constants than a model may hold. Raises ModelFileError."""
        for number, layer in self.layers.items():

            def values(place: int, number: str = number, layer: Layer = layer) -> Numbers | None:
                taken = layer.taken()
                return self._values(file, number, taken[place], weights) if place < len(taken) else None

            check_made(file, layer.kind, PLACES, values)

    def _values(self, file: str, number: str, port: Port, weights: Path) -> Numbers | None:
        """The numbers of a constant that a port takes; None where what makes it is none."""
        import numpy as np

        seen: set[str] = set()
        while number not in seen:
            seen.add(number)
            number, _ = self.edges[number, port.number]
            layer = self.layers[number]
            if layer.kind == "Const":
                count = math.prod(shape_of(layer.data))
                kind = TYPES.get(layer.data["element_type"])
                if kind is None or count > MOST_SIZES:
                    raise refused(file, f"{count} sizes of the type {layer.data['element_type']}", "a few numbers")
                return np.fromfile(weights, np.dtype(kind), count, offset=whole(layer.data["offset"])).tolist()
            if layer.kind not in PASSES:
                return None
            port = layer.taken()[0]
        return None


def whole(text: str) -> int:
    """A whole number in digits alone, which every reader takes for the same. Raises ValueError."""
    if not re.fullmatch(r"-?[0-9]+", text):
        raise ValueError(f"found {text!r}; expected a whole number")
    return int(text)


def shape_of(data: dict[str, str]) -> list[int]:
    """The sizes that a constant says. Raises ValueError."""
    shape = data.get("shape", "").strip()
    return [whole(item.strip()) for item in shape.split(",")] if shape else []


def split_names(names: str) -> set[str]:
    """Names of one tensor; a comma in a name is escaped."""
    return {name.replace("\\,", ",") for name in re.split(r"(?<!\\),", names) if name}
