"""Metrics with intervals: a percentile bootstrap over rows (Efron and Tibshirani, 1993), paired where two compare."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dl_pipelines.tasks.base import Task

if TYPE_CHECKING:
    import numpy as np

Estimate = dict[str, float]


def with_intervals(
    task: Task, outputs: np.ndarray, targets: np.ndarray, resamples: int, confidence: float, seed: int
) -> dict[str, Estimate]:
    """Each metric of the task on [N, ...] outputs and [N] targets: `{"value", "low", "high"}`, in the metric's unit.

    A metric that a resample doesn't determine (AUC of one class) is left out of that resample.
    """
    import numpy as np

    values = task.measure(outputs, targets)
    rng, drawn = np.random.default_rng(seed), {name: [] for name in values}
    for _ in range(resamples):
        rows = rng.integers(0, len(targets), len(targets))
        for name, value in task.measure(outputs[rows], targets[rows]).items():
            if name in drawn:
                drawn[name].append(value)
    return {name: _estimate(value, drawn[name], confidence) for name, value in values.items()}


def paired_difference(
    task: Task, metric: str, first: np.ndarray, second: np.ndarray, targets: np.ndarray, resamples: int,
    confidence: float, seed: int,
) -> Estimate:  # fmt: skip
    """Second minus first on the same rows, with the interval of the paired difference. Raises KeyError."""
    import numpy as np

    value = task.measure(second, targets)[metric] - task.measure(first, targets)[metric]
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(resamples):
        rows = rng.integers(0, len(targets), len(targets))
        a, b = task.measure(first[rows], targets[rows]), task.measure(second[rows], targets[rows])
        if metric in a and metric in b:
            drawn.append(b[metric] - a[metric])
    return _estimate(value, drawn, confidence)


def _estimate(value: float, drawn: list[float], confidence: float) -> Estimate:
    import numpy as np

    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail]) if drawn else (value, value)
    return {"value": round(float(value), 6), "low": round(float(low), 6), "high": round(float(high), 6)}
