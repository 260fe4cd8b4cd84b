"""Sixteen bits in place of 32: computed so where the processor has units for it, else only stored so, and called that.

bf16 (Kalamkar et al., 2019, arXiv:1905.12322) needs no other graph: OpenVINO is told to compute in it. fp16 halves the
weights too; where nothing computes in it, loading makes them float32 again: that helps the objective size alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.compression.base import Network, Technique, TechniqueError, Variant, checked_bytes, short
from dl_pipelines.inference.precision import missing_units
from dl_pipelines.inference.runtimes import RuntimeFileError, save_openvino

if TYPE_CHECKING:
    import onnx

    from dl_pipelines.compression.workshop import Workshop

LARGEST = 65504.0
"""The largest float16."""
LEAST_VALUES = 64
"""Smaller constants stay as they are: half of nothing is not worth a node."""
STORED = "fp16_stored"
"""The precision of weights that only lie in float16: runtimes compute in float32."""


class MixedPrecision(Technique):
    """`bf16`, `fp16` (OpenVINO) and `fp16_graph` (ONNX Runtime); for the objective size `fp16_stored` of each."""

    name = "mixed_precision"
    phase = "precision"
    template_row = "MIXED"

    class Params(BaseParams):
        """Which number formats are tried."""

        formats: tuple[Literal["bf16", "fp16"], ...] = Field(default=("bf16", "fp16"), min_length=1)

    params: Params

    def variants(self, start: Network, shop: Workshop) -> list[Variant]:
        """See Technique.variants."""
        return list(self._all(start, shop))

    def _all(self, start: Network, shop: Workshop) -> Iterator[Variant]:
        folder, formats = shop.folder, self.params.formats
        if "bf16" in formats:
            yield self._computed("bf16", "bf16", "openvino", lambda: start.onnx)
        if "fp16" in formats:
            yield self._computed("fp16", "fp16", "openvino", lambda: _half_ir(start.onnx, folder / "fp16"))
            yield self._computed(
                "fp16_graph", "fp16", "onnxruntime", lambda: write_half(start.onnx, folder / "fp16_graph.onnx")
            )
        if "fp16" in formats and shop.compression.objective == "size":
            yield self._made(STORED, STORED, "openvino", lambda: _half_ir(start.onnx, folder / STORED))
            graph = f"{STORED}_graph"
            yield self._made(
                graph, STORED, "onnxruntime", lambda: store_half(start.onnx, folder / f"{graph}.onnx")
            )  # fmt: skip

    def _computed(self, name: str, precision: str, runtime: str, make: Callable[[], Path]) -> Variant:
        """In a precision that the processor has units for, or why not."""
        why = missing_units(precision)
        if why is not None:
            return Variant(name, self.name, precision, None, why, runtimes=(runtime,))
        return self._made(name, precision, runtime, make)

    def _made(self, name: str, precision: str, runtime: str, make: Callable[[], Path]) -> Variant:
        details = {"computed_in": "fp32", "stored_in": "fp16"} if precision == STORED else {"computed_in": precision}
        try:
            path = make()
        except (TechniqueError, RuntimeFileError) as error:
            return Variant(name, self.name, precision, None, str(error), runtimes=(runtime,))
        return Variant(name, self.name, precision, path, runtimes=(runtime,), details=details)


def _half_ir(base: Path, folder: Path) -> Path:
    """OpenVINO's IR with weights in float16."""
    return save_openvino(base, folder / "model.xml", half_weights=True)[0]


def write_half(base: Path, target: Path) -> Path:
    """Write `base` in float16, but for the types of its inputs and outputs. Raises TechniqueError."""
    import warnings

    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of weights that float16 rounds to zero: the loss tells what that costs
            model: Any = convert_float_to_float16(onnx.load(str(base)), keep_io_types=True)
        target.write_bytes(checked_bytes(model))
    except Exception as error:  # the converter raises whatever an unforeseen graph leads it to
        raise TechniqueError(f"could not write the graph in float16: {short(error)}") from error
    return target


def store_half(base: Path, target: Path) -> Path:
    """Write `base` with its large float32 constants in float16, each made float32 again where it is read.

    A constant beyond what float16 holds stays. Raises TechniqueError when none is left.
    """
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(str(base))
    casts: list[onnx.NodeProto] = []
    for item in model.graph.initializer:
        if item.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(item)
        if values.size < LEAST_VALUES or not np.abs(values).max() <= LARGEST:
            continue
        name, stored = item.name, f"{item.name}_fp16"
        item.CopyFrom(numpy_helper.from_array(values.astype(np.float16), stored))
        casts.append(helper.make_node("Cast", [stored], [name], f"{stored}_read", to=TensorProto.FLOAT))
    if not casts:
        raise TechniqueError("found no weights that float16 holds; the graph would stay as it is")
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    target.write_bytes(checked_bytes(model))
    return target
