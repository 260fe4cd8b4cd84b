"""Static int8: weights a channel and activations a tensor to eight bits, ranges from calibration rows (QDQ format).

Activations uint8, weights int8: what ONNX Runtime advises on x86-64 (onnxruntime.ai, "Quantize ONNX models"). Without
VNNI the product of both saturates at 16 bits: the `reduced` variant keeps weights to seven.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.compression.base import Network, Technique, TechniqueError, Variant, of_ranges

if TYPE_CHECKING:
    import numpy as np

    from dl_pipelines.compression.workshop import Workshop

CALIBRATION_BATCH = 64


class StaticInt8(Technique):
    """Two variants by default: `static_int8` (full range) and `static_int8_reduced` (weights of seven bits)."""

    name = "static_int8"
    phase = "quantize"
    template_row = "QUANT"

    class Params(BaseParams):
        """How many train rows calibrate, which weight ranges are tried, whether each output channel has its scale."""

        calibration_rows: int = Field(default=256, ge=1, le=100_000)
        ranges: tuple[Literal["full", "reduced"], ...] = Field(default=("full", "reduced"), min_length=1)
        per_channel: bool = True

    params: Params

    def variants(self, start: Network, shop: Workshop) -> list[Variant]:
        """See Technique.variants."""
        rows = shop.calibrate(self.params.calibration_rows)

        def write(path: Path, reduced: bool) -> None:
            quantize(start.onnx, path, rows, reduced, self.params.per_channel)

        return of_ranges(self.name, self.params.ranges, shop.folder, write)


def quantize(base: Path, target: Path, rows: np.ndarray, reduce_range: bool, per_channel: bool) -> None:
    """Write the int8 QDQ form of `base`, calibrated (min and max) by `rows` [M, ...]. Raises TechniqueError."""
    from onnxruntime import quantization

    if not len(rows):
        raise TechniqueError("found no calibration rows; expected rows of the train split")
    prepared, raw = target.with_suffix(".prepared.onnx"), target.with_suffix(".raw.onnx")
    try:
        quantization.shape_inference.quant_pre_process(
            str(base), str(prepared), skip_optimization=True, skip_symbolic_shape=True
        )
        quantization.quantize_static(
            str(prepared),
            str(raw),
            _reader(base, rows),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=per_channel,
            reduce_range=reduce_range,
        )
        target.write_bytes(_tidied(raw))
    except TechniqueError:
        raise
    except Exception as error:  # the quantizer and its sessions raise whatever an unforeseen graph leads them to
        raise TechniqueError(f"{type(error).__name__}: {str(error).strip()[:200]}") from error
    finally:
        for path in (prepared, raw):
            path.unlink(missing_ok=True)


def _reader(base: Path, rows: np.ndarray) -> Any:
    """The rows in batches as ONNX Runtime's calibrator asks for them."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader

    name = onnx.load(str(base)).graph.input[0].name

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[np.ndarray] = iter(
                [rows[at : at + CALIBRATION_BATCH] for at in range(0, len(rows), CALIBRATION_BATCH)]
            )

        def get_next(self) -> dict[str, np.ndarray] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
            batch = next(self.batches, None)
            return None if batch is None else {name: batch}

    return Reader()


def _tidied(path: Path) -> bytes:
    """The graph in one spelling, checked, and that something in it was quantized. Raises TechniqueError."""
    import onnx

    model = onnx.load(str(path))
    if not any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        raise TechniqueError("found no operator that int8 covers; the graph would stay as it is")
    onnx.checker.check_model(model)
    del model.metadata_props[:]
    return model.SerializeToString(deterministic=True)
