"""What a compression technique is: from the network that the chain has reached to variants of it. It decides nothing.

A variant with a `network` of its own (searched, distilled, pruned) is what later steps begin from when it is taken; one
without is a graph of the network it began from (quantized, another precision). The chain is `compress.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.models.plan import NetworkPlan

if TYPE_CHECKING:
    import onnx

    from dl_pipelines.compression.workshop import Workshop

Phase = Literal["search", "distill", "prune", "quantize", "precision"]
PHASES: tuple[Phase, ...] = ("search", "distill", "prune", "quantize", "precision")
"""The order in which techniques are tried, whatever the order in the brief; within a phase in the brief's."""

Objective = Literal["latency", "size", "energy"]


class TechniqueError(ValueError):
    """A variant can't be made from this model; the reason goes into the ledger, the others are still tried."""


@dataclass(frozen=True)
class Network:
    """A trained network of the chain, its weights (safetensors) and its float32 export; paths are in the work folder.

    `name` is that of its variant: `pruned_40`; the trained network's is `fp32`.
    """

    name: str
    plan: NetworkPlan
    weights: Path
    onnx: Path


@dataclass(frozen=True)
class Variant:
    """One file to be tried on every runtime, or on `runtimes` alone. `failure` says why there is no file.

    `path` is ONNX, or OpenVINO's `.xml` with the `.bin` beside it (then `runtimes` is ("openvino",)). `precision` is
    what the runtime is opened with: fp32, int8, bf16, fp16. `network` is set where the variant is another network: its
    `onnx` is its float32 export, and `path` that or a graph made from it (int8). `details` are plain data for the
    ledger: what was measured or chosen on the way.
    """

    name: str
    technique: str
    precision: str
    path: Path | None
    failure: str | None = None
    network: Network | None = None
    runtimes: tuple[str, ...] | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    untried: bool = False
    """Whether there was nothing to try: `failure` is then why the technique does not suit."""


class Technique(ABC):
    """A registered technique, made with its validated params. Registered in `compression/registry.py`."""

    name: ClassVar[str]
    phase: ClassVar[Phase]
    template_row: ClassVar[Literal["QUANT", "PRUNE", "DISTIL", "NAS", "MIXED"]]
    """The row of the template's table that it belongs to."""
    trains: ClassVar[bool] = False
    """Whether it trains: the brief's sections on training are then part of what the artifact depends on."""
    Params: ClassVar[type[BaseParams]]

    def __init__(self, params: Any):
        self.params = params

    def unsuited(self, start: Network, shop: Workshop) -> str | None:
        """Why there is nothing to try here (another objective, another kind of network), or None."""
        return None

    @abstractmethod
    def variants(self, start: Network, shop: Workshop) -> list[Variant]:
        """Write variants of `start` into `shop.folder`.

        Deterministic but for what goes through `shop.decide_once`: the same network and rows give the same bytes. An
        interrupted call is made again in the same folder and goes on from what it finds. What can't be made is a
        Variant with a failure, or a TechniqueError for all of it.
        """


def share_name(share: float) -> str:
    """A share (0..1) as it stands in names of variants and files, in percent of four digits: 0.5 as 50, 0.125 as 12_5.

    Shares of one technique have to differ in it: what they write is found again by its name.
    """
    return f"{100 * share:.4g}".replace(".", "_")


def short(error: Exception) -> str:
    """What a library raised, as a reason tells it: its kind and the first 200 characters."""
    return f"{type(error).__name__}: {str(error).strip()[:200]}"


def checked_bytes(model: onnx.ModelProto, shapes: bool = False) -> bytes:
    """A graph in one spelling, without what tools noted in it. Raises onnx's error where it isn't sound.

    `shapes`: they are inferred and compared too, which takes operators that all are ONNX's own.
    """
    import onnx

    onnx.checker.check_model(model, full_check=shapes)
    del model.metadata_props[:]
    return model.SerializeToString(deterministic=True)


def of_ranges(
    technique: str, ranges: Sequence[str], folder: Path, write: Callable[[Path, bool], None]
) -> list[Variant]:  # fmt: skip
    """A variant for each range of weights (`full`, `reduced`); `write(path, reduced)` may raise TechniqueError."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for wanted in ranges:
        name = technique if wanted == "full" else f"{technique}_reduced"
        path = folder / f"{name}.onnx"
        try:
            write(path, wanted == "reduced")
        except TechniqueError as error:
            made.append(Variant(name, technique, "int8", None, str(error)))
        else:
            made.append(Variant(name, technique, "int8", path))
    return made
