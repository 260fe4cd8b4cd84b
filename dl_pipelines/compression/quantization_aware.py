"""Quantization-aware fine-tuning: weights that were trained while they and the activations were rounded to int8.

For networks that lose too much by post-training quantization; its graph is as fast, so that it is not tried where that
stays within the budget. What is rounded while training is training/change_fake_quantized.py's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.brief.sections import Training
from dl_pipelines.compression.base import Network, Technique, TechniqueError, Variant
from dl_pipelines.compression.static_int8 import quantize
from dl_pipelines.compression.workshop import Workshop
from dl_pipelines.training.changes import ChangeRef

if TYPE_CHECKING:
    import numpy as np

    from dl_pipelines.training.change_fake_quantized import Ranges


class QuantizationAware(Technique):
    """`quantization_aware` (and `quantization_aware_reduced`): int8 of a fine-tuned network, which comes with it."""

    name = "quantization_aware"
    phase = "quantize"
    template_row = "QUANT"
    trains = True

    class Params(BaseParams):
        """When it is tried, and how the network is tuned."""

        when: Literal["missed", "always"] = Field(
            default="missed", description="missed: unless int8 without training stays within the budget"
        )
        epochs: int = Field(default=3, ge=1, le=1000, description="of fine-tuning")
        rate: float = Field(default=0.1, gt=0, le=1, description="of the trained model's learning rate")
        calibration_rows: int = Field(default=256, ge=2, le=100_000, description="train rows that give the ranges")
        ranges: tuple[Literal["full", "reduced"], ...] = Field(
            default=("full",), min_length=1, description="bits of the weights: full 8, reduced 7 for CPUs without VNNI"
        )

    params: Params

    def unsuited(self, start: Network, shop: Workshop) -> str | None:
        """See Technique.unsuited. Looks at the int8 files of this phase so far: all are of the same network."""
        if self.params.when == "always":
            return None
        budget = shop.compression.max_loss
        for row in shop.ledger():
            if row["phase"] == self.phase and row["precision"] == "int8" and _stays_within(row, budget):
                return f"not needed: {row['variant']} stays within the budget"
        return None

    def variants(self, start: Network, shop: Workshop) -> list[Variant]:
        """See Technique.variants."""
        from dl_pipelines.training.change_fake_quantized import input_ranges

        rows = shop.calibrate(self.params.calibration_rows)
        layers = input_ranges(shop.module(start), rows)
        if not layers:
            raise TechniqueError(f"found no convolution or linear layer in {start.name}; int8 covers nothing else")
        made: list[Variant] = []
        for wanted in self.params.ranges:
            name = self.name if wanted == "full" else f"{self.name}_reduced"
            try:
                made.append(self._variant(name, wanted == "reduced", layers, rows, start, shop))
            except TechniqueError as error:
                first = shop.compression.runtimes[:1]
                made.append(Variant(name, self.name, "int8", None, str(error), runtimes=first))
        return made

    def _variant(
        self, name: str, reduced: bool, layers: Ranges, rows: np.ndarray, start: Network, shop: Workshop
    ) -> Variant:  # fmt: skip
        network, training = self._tuned(f"{name}_fp32", layers, reduced, start, shop)
        path = shop.folder / f"{name}.onnx"
        quantize(network.onnx, path, rows, reduced, True)
        details = {
            "of": start.name, "epochs": training.epochs, "learning_rate": training.learning_rate,
            "layers": len(layers), "calibration_rows": len(rows),
        }  # fmt: skip
        return Variant(name, self.name, "int8", path, network=replace(network, name=name), details=details)

    def _tuned(
        self, name: str, layers: Ranges, reduced: bool, start: Network, shop: Workshop
    ) -> tuple[Network, Training]:  # fmt: skip
        """The network as it is after fine-tuning, without rounding, and how it was tuned."""
        change = ChangeRef(name="fake_quantized", params={"ranges": dict(layers), "reduced": reduced})
        job = shop.job_for(name, start.plan, (change,), start.weights, epochs=self.params.epochs)
        rate = job.training.learning_rate * self.params.rate
        job = replace(job, training=job.training.model_copy(update={"learning_rate": rate}))
        return shop.export(name, start.plan, shop.train(job)), job.training


def _stays_within(row: Mapping[str, Any], budget: float) -> bool:
    """Whether a row of the ledger was kept, or answers as its network, lost no more than allowed and is no faster."""
    losses = [row["loss"], *row["slices"].values()]
    within = all(loss is not None and loss["high"] <= budget for loss in losses)
    return row["kept"] or (row["parity_passed"] is True and within)
