"""What a network of a space costs by the brief's objective: exported and measured for a few, fitted for all others.

Latency is the exported model's on the fastest of the brief's runtimes, size that of its file. Energy goes by latency:
at one load a processor takes about the same power whatever runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch

    from dl_pipelines.compression.workshop import Workshop

UNITS = {"latency": "ms", "energy": "ms", "size": "MB"}
Features = tuple[float, float, float, float]


@dataclass(frozen=True)
class CostModel:
    """cost = weights . (1, layers, million parameters, million multiply-adds), no weight below 0.

    `error`: the mean share by which the measured ones are missed, each by the fit of the others.
    """

    weights: tuple[float, ...]
    error: float

    def cost(self, features: Features) -> float:
        """In the objective's unit."""
        return sum(weight * value for weight, value in zip(self.weights, features, strict=True))


def features_of(network: torch.nn.Module, inputs: np.ndarray) -> Features:
    """1, layers that multiply, million parameters and multiply-adds of a network, for a row of `inputs` [N, ...]."""
    from dl_pipelines.models.counting import counted

    rows = counted(network, inputs)
    layers, parameters = sum(row["macs"] > 0 for row in rows), sum(row["parameters"] for row in rows)
    return 1.0, float(layers), parameters / 1e6, sum(row["macs"] for row in rows) / 1e6


def fit_costs(features: Sequence[Features], costs: Sequence[float]) -> CostModel:
    """Least squares of the relative error, without negative weights (Lawson and Hanson, 1974); two costs or more."""
    misses = []
    for place, (given, cost) in enumerate(zip(features, costs, strict=True)):
        others = _fitted([*features[:place], *features[place + 1 :]], [*costs[:place], *costs[place + 1 :]])
        misses.append(abs(CostModel(others, 0.0).cost(given) / cost - 1))
    return CostModel(_fitted(features, costs), sum(misses) / len(misses))


def measure_costs(files: Mapping[str, Path], shop: Workshop) -> dict[str, float]:
    """Of ONNX files by name: ms of one row on the fastest runtime, timed in turns, or MB."""
    if shop.compression.objective == "size":
        return {name: path.stat().st_size / 1e6 for name, path in files.items()}
    runtimes = shop.compression.runtimes
    timed = shop.time({f"{name}@{runtime}": (path, runtime) for name, path in files.items() for runtime in runtimes})
    return {name: min(timed[f"{name}@{runtime}"]["p50_ms"] for runtime in runtimes) for name in files}


def _fitted(features: Sequence[Features], costs: Sequence[float]) -> tuple[float, ...]:
    import numpy as np
    from scipy.optimize import nnls

    given, found = np.array(features), np.array(costs)
    return tuple(float(weight) for weight in nnls(given / found[:, None], np.ones(len(found)))[0])
