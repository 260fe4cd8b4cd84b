"""Faults put into copies of model files on purpose, to see that the parity chain notices them. Never what serves.

Where a fault goes is chosen the same way each time: the first place, in the order of the graph, at which it matters.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from dl_pipelines.inference.runtimes import ModelRunError, RuntimeFileError

if TYPE_CHECKING:
    import numpy as np

Fault = Literal["norm-swap", "dropped-operator", "perturbed-weights"]
FAULTS: tuple[Fault, ...] = get_args(Fault)

WHAT: dict[Fault, str] = {
    "norm-swap": "a normalisation by constants",
    "dropped-operator": "an operator whose output is like its input",
    "perturbed-weights": "a matrix of weights",
}

MATTERS = 0.1
"""A place is taken when the fault moves the answers by so much of their size (rounding.noise)."""
LEAST = 1e-3
"""No place where it moves them less is taken, even if there is no better one: nothing would be there to notice."""
MOST_TRIES = 60
STRENGTH = 1.0
"""Noise on perturbed weights, in units of their own deviation."""


class FaultError(ValueError):
    """A fault that can't be injected here; says what can."""


@dataclass(frozen=True)
class Injected:
    """What was done, and how far it moved the answers, in units of their size (infinite: they are not finite)."""

    fault: Fault
    told: str
    moved: float


class Graph(ABC):
    """A model file whose places for faults are known. `places` are names for a person, in the order of the graph."""

    suffix: ClassVar[str]

    @classmethod
    @abstractmethod
    def read(cls, path: Path) -> Graph:
        """A fresh copy in memory."""

    @abstractmethod
    def places(self, fault: Fault) -> list[tuple[str, Callable[[], None]]]:
        """What the fault would do where, and the function that does it, once, to this copy."""

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write this copy."""


def inject(fault: Fault, source: Path, target: Path, moved: Callable[[Path], float]) -> Injected:
    """Write `source` (ONNX or IR) with the fault to `target`; `moved(path)` tells how far a file's answers are off.

    Raises FaultError where nothing in the graph can have this fault, or none of it matters.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    read = _reader(source)
    tried: list[tuple[float, int]] = []
    for place in range(min(len(read(source).places(fault)), MOST_TRIES)):
        told = _spoil(read(source), fault, place, target)
        try:
            tried.append((moved(target), place))
        except (RuntimeFileError, ModelRunError):  # this operator can't be left out
            continue
        if tried[-1][0] >= MATTERS:
            return Injected(fault, told, tried[-1][0])
    best, place = max(tried, default=(0.0, 0))
    if best < LEAST:
        others = [name for name in FAULTS if name != fault and read(source).places(name)]
        raise FaultError(
            f"found no place for {fault} in {source.name}; expected {WHAT[fault]} that moves its "
            f"answers; inject {' or '.join(others) or 'nothing'} there, or take another link with --at"
        )
    return Injected(fault, _spoil(read(source), fault, place, target), best)


def _spoil(graph: Graph, fault: Fault, place: int, target: Path) -> str:
    told, change = graph.places(fault)[place]
    change()
    graph.save(target)
    return told


def _reader(source: Path) -> Callable[[Path], Graph]:
    if source.suffix == ".xml":
        from dl_pipelines.inference.ir_faults import IrGraph

        return IrGraph.read
    from dl_pipelines.inference.onnx_faults import OnnxGraph

    return OnnxGraph.read


def swapped(first: np.ndarray, second: np.ndarray, added: bool, multiplied: bool) -> tuple[np.ndarray, np.ndarray]:
    """Constants of (x - mean) / deviation with both exchanged, each in its own shape and type.

    `added`: the first is minus the mean; `multiplied`: the second is one over the deviation.
    """
    import numpy as np

    with np.errstate(divide="ignore"):
        mean = -first if added else first
        deviation = 1 / second if multiplied else second
        wrong_mean, wrong_deviation = _like(deviation, first), _like(mean, second)
        return (
            (-wrong_mean if added else wrong_mean).astype(first.dtype),
            (1 / wrong_deviation if multiplied else wrong_deviation).astype(second.dtype),
        )


def _like(values: np.ndarray, other: np.ndarray) -> np.ndarray:
    import numpy as np

    return values.reshape(other.shape) if values.size == other.size else np.full(other.shape, values.mean())


def perturbed(weights: np.ndarray) -> np.ndarray:
    """Weights with noise of STRENGTH deviations; whole numbers stay within their type's range."""
    import numpy as np

    values = weights.astype(np.float64)
    values = values + np.random.default_rng(0).normal(0, STRENGTH * values.std(), values.shape)
    if weights.dtype.kind in "iu":
        limits: Any = np.iinfo(weights.dtype)
        values = np.clip(np.round(values), limits.min, limits.max)
    return values.astype(weights.dtype)
