"""Static int8: weights a channel and activations a tensor to eight bits; the calibration that loses least is taken.

Where even that misses the budget, the layers that cost most stay in float (sensitive_layers.py). The graphs themselves
are written in qdq.py. On ResNet-18 all operators that the quantizer knows are best left to it: OpenVINO then computes
every convolution and addition in int8, and symmetric activations, dedicated pairs or kept ReLUs are no faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.compression import qdq
from dl_pipelines.compression.base import Network, Technique, TechniqueError, Variant
from dl_pipelines.compression.sensitive_layers import Search
from dl_pipelines.inference.runtimes import ModelRunError, RuntimeFileError

if TYPE_CHECKING:
    import numpy as np

    from dl_pipelines.compression.workshop import Workshop

PROBE_ROWS = 32
"""Of the ranking of layers."""
Plain = dict[str, Any]


class StaticInt8(Technique):
    """`static_int8` (full range), `static_int8_reduced` (seven bits a weight), `static_int8_mixed` where both miss."""

    name = "static_int8"
    phase = "quantize"
    template_row = "QUANT"

    class Params(BaseParams):
        """What calibrates, which ranges of weights are tried, what stays in float."""

        calibration_rows: int = Field(default=256, ge=2, le=100_000, description="of the train split")
        methods: tuple[qdq.Method, ...] = Field(
            default=qdq.METHODS, min_length=1, description="of calibration; of several, the one that loses least"
        )
        ranges: tuple[Literal["full", "reduced"], ...] = Field(
            default=("full", "reduced"), min_length=1, description="reduced: for a CPU without VNNI"
        )
        per_channel: bool = Field(default=True, description="whether each output channel has its scale")
        in_float: tuple[str, ...] = Field(default=(), description="layers (names in the ONNX graph) that stay in float")
        sensitive: Literal["auto", "off"] = Field(
            default="auto", description="auto: when int8 misses the budget, search for layers to leave in float"
        )
        evaluations: int = Field(default=12, ge=2, le=1000, description="graphs that this search may score")

    params: Params

    def variants(self, start: Network, shop: Workshop) -> list[Variant]:
        """See Technique.variants."""
        bench = _Quantizing(start, shop, self.params, shop.calibrate(self.params.calibration_rows))
        made = [self._variant(bench, wanted) for wanted in self.params.ranges]
        usable = [wanted for wanted, variant in zip(self.params.ranges, made, strict=True) if variant.path]
        if self.params.sensitive == "auto" and usable and not any(bench.choose(wanted)["meets"] for wanted in usable):
            made.append(self._mixed(bench, min(usable, key=lambda wanted: min(bench.choose(wanted)["loss"].values()))))
        return made

    def _variant(self, bench: _Quantizing, wanted: str) -> Variant:
        name = self.name if wanted == "full" else f"{self.name}_{wanted}"
        try:
            path = bench.write(name, wanted, bench.choose(wanted)["method"])
        except TechniqueError as error:
            return Variant(name, self.name, "int8", None, str(error))
        return Variant(name, self.name, "int8", path, details=bench.told(wanted))

    def _mixed(self, bench: _Quantizing, wanted: str) -> Variant:
        """This range with its sensitive layers in float."""
        name = f"{self.name}_mixed"
        try:
            found = bench.sensitive(wanted)
            if found["in_float"] is None:
                raise TechniqueError(
                    f"found no layers to leave in float that meet the budget, in {found['evaluations']} graphs; "
                    "raise evaluations, or compression.max_loss"
                )
            path = bench.write(name, wanted, bench.choose(wanted)["method"], list(found["in_float"]))
        except (TechniqueError, RuntimeFileError, ModelRunError) as error:  # those made before are good without it
            return Variant(name, self.name, "int8", None, str(error))
        return Variant(name, self.name, "int8", path, details={**bench.told(wanted), **found})


@dataclass(frozen=True)
class _Quantizing:
    """The graphs of one network and how they are scored: on validation rows, by the first runtime that takes them."""

    start: Network
    shop: Workshop
    params: StaticInt8.Params
    rows: np.ndarray

    def prepared(self) -> Path:
        path = qdq.prepare(self.start.onnx, self.shop.folder / "prepared.onnx")
        known = qdq.layers(path)
        for name in self.params.in_float:
            if name not in known:
                raise TechniqueError(f"found no layer {name!r} for in_float; expected of {', '.join(known)}")
        return path

    def write(self, name: str, wanted: str, method: qdq.Method, in_float: Sequence[str] = ()) -> Path:
        """Raises TechniqueError."""
        prepared, folder = self.prepared(), self.shop.folder
        ranges = qdq.calibrate(prepared, self.rows, method, folder / f"ranges_{method}.json")
        return qdq.quantize(
            prepared, ranges, method, folder / f"{name}.onnx", wanted == "reduced", self.params.per_channel,
            [*self.params.in_float, *in_float],
        )  # fmt: skip

    def choose(self, wanted: str) -> Plain:
        """The calibration that loses least, of those that lose the same the one that is nearest to float.

        `method`, whether it `meets` the budget, `loss` and mean `difference` of an answer by method, `failed` methods.
        """
        import numpy as np

        def measure() -> Plain:
            expected = self._answers(self.start.onnx, "fp32")
            outputs, loss, failed = dict[str, np.ndarray](), dict[str, float](), dict[str, str]()
            for method in self.params.methods:
                self.shop.say(f"calibrating by {method}, {wanted} range")
                try:
                    found = self._answers(self.write(f"{method}_{wanted}", wanted, method))
                    loss[method], outputs[method] = self.shop.loss(found)["value"], found
                except TechniqueError as error:
                    failed[method] = str(error)
            if not outputs:
                raise TechniqueError(next(iter(failed.values())))
            difference = {method: float(np.abs(found - expected).mean()) for method, found in outputs.items()}
            best = min(outputs, key=lambda method: (loss[method], difference[method]))
            meets = self.shop.within_budget(outputs[best])
            return {"method": best, "meets": meets, "loss": loss, "difference": difference, "failed": failed}

        return self.shop.decide_once(f"calibration_{wanted}", measure)

    def _answers(self, path: Path, precision: str = "int8", inputs: np.ndarray | None = None) -> np.ndarray:
        """To `inputs`, or to the validation rows, on the first runtime that takes the graph. Raises TechniqueError."""
        reasons: list[TechniqueError] = []
        for runtime in self.shop.compression.runtimes:
            try:
                return self.shop.outputs(path, runtime, precision, inputs)
            except TechniqueError as error:
                reasons.append(error)
        raise reasons[0]

    def told(self, wanted: str) -> Plain:
        """For the ledger."""
        found = self.choose(wanted)
        keys = ("method", "loss", "difference", *(["failed"] if found["failed"] else []))
        return {"calibration": {"rows": len(self.rows), **{key: found[key] for key in keys}}}

    def sensitive(self, wanted: str) -> Plain:
        """`in_float`: layers that stay in float, with the loss that each would cost, or None; `evaluations`."""

        def measure() -> Plain:
            layers = [name for name in qdq.layers(self.prepared()) if name not in self.params.in_float]
            method = self.choose(wanted)["method"]
            search = Search(
                self.shop, lambda in_float: self.write("tried", wanted, method, in_float), layers, self._answers,
                self.rows[:PROBE_ROWS], self.params.evaluations,
            )  # fmt: skip
            found = search.find(self.start.onnx)
            return {"in_float": found, "evaluations": search.scored}

        return self.shop.decide_once(f"sensitive_{wanted}", measure)


def quantize(base: Path, target: Path, rows: np.ndarray, reduce_range: bool, per_channel: bool) -> None:
    """Write the int8 QDQ form of `base`, calibrated (min and max) by `rows` [M, ...]. Raises TechniqueError."""
    prepared, ranges = target.with_suffix(".prepared.onnx"), target.with_suffix(".ranges.json")
    try:
        qdq.prepare(base, prepared)
        qdq.calibrate(prepared, rows, "minmax", ranges)
        qdq.quantize(prepared, ranges, "minmax", target, reduce_range, per_channel)
    finally:
        for path in (prepared, ranges):
            path.unlink(missing_ok=True)
