"""What a compression technique is: from an ONNX file and calibration rows to variants of it. It decides nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dl_pipelines.brief.registry import Params as BaseParams

if TYPE_CHECKING:
    import numpy as np


class TechniqueError(ValueError):
    """A variant can't be made from this model; the reason goes into the ledger, the others are still tried."""


@dataclass(frozen=True)
class Variant:
    """One ONNX file to be tried on every runtime. `failure` says why there is no file; `path` is None then."""

    name: str
    technique: str
    precision: str
    path: Path | None
    failure: str | None = None


class Technique(ABC):
    """A registered technique, made with its validated params. Registered in `compression/registry.py`."""

    name: ClassVar[str]
    Params: ClassVar[type[BaseParams]]

    def __init__(self, params: Any):
        self.params = params

    @property
    @abstractmethod
    def calibration_rows(self) -> int:
        """How many rows of the train split it wants to see; 0 when it needs none."""

    @abstractmethod
    def variants(self, base_onnx: Path, calibration_rows: np.ndarray, folder: Path) -> list[Variant]:
        """Write variants of `base_onnx` into `folder`; `calibration_rows` [M, ...] are inputs of the train split.

        Deterministic: the same file and rows give the same bytes. What can't be made is a Variant with a failure.
        """


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
