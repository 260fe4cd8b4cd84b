"""An int8 graph of a float graph, in ONNX's QDQ format: ranges from calibration rows, then the file. Chooses nothing.

Activations uint8, weights int8: what ONNX Runtime advises on x86-64 (onnxruntime.ai, "Quantize ONNX models"). Without
VNNI the product of both saturates at 16 bits: a reduced range keeps weights to seven. OpenVINO reads the same graph.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dl_pipelines.compression.base import TechniqueError, checked_bytes, short

if TYPE_CHECKING:
    import numpy as np
    import onnx

Method = Literal["minmax", "entropy", "percentile"]
"""How a tensor's range is told from its values: all of them, the least divergence (Migacz, 2017), all but 1 of 10^5."""
METHODS: tuple[Method, ...] = ("minmax", "entropy", "percentile")

BATCH_ROWS, BATCH_BYTES = 64, 1_000_000
"""Of calibration rows at once: histograms need every activation of a batch at the same time."""
LAYERS = (
    "Add", "AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "Gemm", "GlobalAveragePool",
    "InstanceNormalization", "LayerNormalization", "LeakyRelu", "MatMul", "Mul", "Sigmoid", "Softmax",
)  # fmt: skip
"""Operators that compute and that the quantizer knows; the others only move numbers."""


def prepare(base: Path, target: Path) -> Path:
    """Write `base` with its shapes told, as the quantizer asks for. Raises TechniqueError."""
    from onnxruntime.quantization import shape_inference

    if not target.exists():
        raw = target.with_suffix(".raw.onnx")
        with _told("prepare the graph"):
            shape_inference.quant_pre_process(str(base), str(raw), skip_optimization=True, skip_symbolic_shape=True)
            raw.replace(target)
    return target


def layers(prepared: Path) -> list[str]:
    """Names of the layers that a quantized graph may leave in float, in the graph's order."""
    import onnx

    return [node.name for node in onnx.load(str(prepared)).graph.node if node.op_type in LAYERS and node.name]


def calibrate(prepared: Path, rows: np.ndarray, method: Method, target: Path) -> Path:
    """Write the ranges of all activations over `rows` [M, ...], as ONNX Runtime keeps them (JSON).

    Raises TechniqueError when there are no rows or a range is not finite.
    """
    import numpy as np
    from onnxruntime import quantization

    if target.exists():
        return target
    if not len(rows):
        raise TechniqueError("found no calibration rows; expected rows of the train split")
    options = {"symmetric": False}
    augmented = target.with_suffix(".onnx")
    with _told("calibrate the graph"), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numpy on what is not finite, which is looked at below
        calibrator: Any = quantization.create_calibrator(
            prepared, _operators(), str(augmented), _method(method), extra_options=options
        )
        batch = max(1, min(BATCH_ROWS, BATCH_BYTES // max(rows[0].nbytes, 1)))
        name = _input(prepared)
        for at in range(0, len(rows), batch):
            calibrator.collect_data(_once({name: np.ascontiguousarray(rows[at : at + batch])}))
        ranges: Any = calibrator.compute_data()
    augmented.unlink(missing_ok=True)
    for tensor, found in ranges.items():
        if not all(np.isfinite(value).all() for value in found.range_value):
            raise TechniqueError(
                f"found values of {tensor!r} on the calibration rows that are not finite; expected a network whose "
                "activations are; look at its training and at the rows"
            )
    quantization.save_tensors_data(ranges, target)
    return target


def quantize(
    prepared: Path, ranges: Path, method: Method, target: Path, reduce_range: bool = False, per_channel: bool = True,
    in_float: Sequence[str] = (),
) -> Path:  # fmt: skip
    """Write the int8 form of a prepared graph, all but the layers `in_float`, by ranges that `method` found.

    Raises TechniqueError: that names the layer which can't be quantized.
    """
    try:
        target.write_bytes(_quantized(prepared, ranges, method, target, reduce_range, per_channel, in_float))
    except TechniqueError:
        raise
    except Exception as error:  # the quantizer raises whatever an unforeseen graph leads it to
        raise TechniqueError(_culprit(prepared, ranges, method, target, in_float, error)) from error
    return target


def _quantized(
    prepared: Path, ranges: Path, method: Method, target: Path, reduce_range: bool, per_channel: bool,
    in_float: Sequence[str] = (), only: Sequence[str] = (),
) -> bytes:  # fmt: skip
    from onnxruntime import quantization

    raw = target.with_suffix(".raw.onnx")
    try:
        quantization.quantize_static(
            str(prepared), str(raw), None, quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=_operators(), activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8, per_channel=per_channel, reduce_range=reduce_range,
            calibrate_method=_method(method), nodes_to_exclude=list(in_float), nodes_to_quantize=list(only),
            calibration_cache_path=str(ranges),
        )  # fmt: skip
        return _tidied(raw)
    finally:
        raw.unlink(missing_ok=True)


def _culprit(
    prepared: Path, ranges: Path, method: Method, target: Path, in_float: Sequence[str], error: Exception
) -> str:  # fmt: skip
    """Which layer alone can't be quantized, and how to go on without it."""
    import onnx

    kinds = {node.name: node.op_type for node in onnx.load(str(prepared)).graph.node}
    for name in layers(prepared):
        if name in in_float:
            continue
        try:
            _quantized(prepared, ranges, method, target, False, True, only=[name])
        except TechniqueError:
            continue  # nothing in it that int8 covers
        except Exception as found:  # noqa: BLE001 - as above
            return (
                f"found the {kinds[name]} {name!r}, which can't be quantized ({short(found)}); expected weights and "
                f"ranges that int8 covers; leave it in float with in_float: [{name}]"
            )
    return f"found a graph that can't be quantized ({short(error)}); expected operators that ONNX Runtime quantizes"


def _operators() -> list[str]:
    """All that the quantizer knows, in one order."""
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return sorted({*QDQRegistry, *QLinearOpsRegistry})


def _method(method: Method) -> Any:
    from onnxruntime.quantization import CalibrationMethod

    names = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
    return CalibrationMethod[names[method]]


def _input(path: Path) -> str:
    import onnx

    return onnx.load(str(path)).graph.input[0].name


def _once(feed: dict[str, np.ndarray]) -> Any:
    """One batch, as the calibrator asks for it."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [feed]

        def get_next(self) -> dict[str, np.ndarray] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
            return self.left.pop() if self.left else None

    return Reader()


def _tidied(path: Path) -> bytes:
    """The graph in one spelling, checked, and that something in it was quantized. Raises TechniqueError."""
    import onnx

    model: onnx.ModelProto = onnx.load(str(path))
    if not any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        raise TechniqueError("found no operator that int8 covers; the graph would stay as it is")
    _free_answers(model.graph)
    return checked_bytes(model)


def _free_answers(graph: onnx.GraphProto) -> None:
    """Leave the graph's outputs in float: rounded to 256 values, logits would tie.

    Not those of a convolution, which ONNX Runtime has in int8 only with a quantized output.
    """
    made_by = {name: node for node in graph.node for name in node.output}
    for output in graph.output:
        restored = made_by[output.name]
        rounded = made_by.get(restored.input[0]) if restored.op_type == "DequantizeLinear" else None
        if rounded is None or rounded.op_type != "QuantizeLinear" or rounded.input[0] not in made_by:
            continue
        maker = made_by[rounded.input[0]]
        readers = sum(list(node.input).count(rounded.input[0]) for node in graph.node)
        if readers > 1 or maker.op_type in ("Conv", "ConvTranspose"):
            continue
        maker.output[list(maker.output).index(rounded.input[0])] = output.name
        for node in (restored, rounded):
            graph.node.remove(node)
        used = {name for node in graph.node for name in node.input}
        for item in [item for item in graph.initializer if item.name not in used]:
            graph.initializer.remove(item)


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """What a library raises becomes the reason that there is no graph."""
    try:
        yield
    except Exception as error:  # these tools and their sessions raise whatever an unforeseen graph leads them to
        raise TechniqueError(f"could not {what}: {short(error)}") from error
