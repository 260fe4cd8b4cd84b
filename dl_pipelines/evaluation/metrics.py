"""Metrics with intervals, by the task's resamples, paired where two models compare."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dl_pipelines.tasks.base import Task
from dl_pipelines.tasks.intervals import Estimate, estimate

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Estimate", "estimate", "paired_difference", "with_intervals"]


def with_intervals(
    task: Task, outputs: np.ndarray, targets: np.ndarray, resamples: int, confidence: float, seed: int
) -> dict[str, Estimate]:
    """Each metric of the task on [N, ...] outputs and [N, ...] targets: `{"value", "low", "high"}`, in its unit.

    A metric that a resample doesn't determine (AUC of one class) is left out of that resample.
    """
    values = task.measure(outputs, targets)
    drawn = task.resampled(outputs, targets, resamples, seed) if len(targets) else {}
    return {name: estimate(value, drawn.get(name), confidence) for name, value in values.items()}


def paired_difference(
    task: Task, metric: str, first: np.ndarray, second: np.ndarray, targets: np.ndarray, resamples: int,
    confidence: float, seed: int,
) -> Estimate:  # fmt: skip
    """Second minus first on the same rows, with the interval of the paired difference. Raises KeyError."""
    value = task.measure(second, targets)[metric] - task.measure(first, targets)[metric]
    a, b = (task.resampled(outputs, targets, resamples, seed).get(metric) for outputs in (first, second))
    return estimate(value, None if a is None or b is None else b - a, confidence)
