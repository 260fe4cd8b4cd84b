"""Metrics with intervals, by the task's resamples and over seeds, paired where two models compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dl_pipelines.tasks.base import Task
from dl_pipelines.tasks.intervals import Estimate, estimate

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Estimate", "estimate", "over_seeds", "paired_difference", "with_intervals"]

ONE_SEED = "over the validation rows (bootstrap); one seed: how trainings differ by chance is not in it"
SEVERAL_SEEDS = (
    "over the validation rows (bootstrap) and over the seeds (Student's t with seeds - 1 degrees of freedom, for the "
    "mean over all seeds there could be)"
)
"""What the interval of `over_seeds` is about."""


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


def over_seeds(values: Sequence[float], drawn: Sequence[np.ndarray], confidence: float, seed: int) -> Estimate:
    """The mean of a figure over seeds: one value a seed, its resamples of the rows [draws] likewise.

    Of each resample of the rows the mean over the seeds is taken; to it is added what that mean would still vary by
    with other seeds, their standard error times Student's t. Resampling a handful of seeds instead would be too sure:
    of three, an interval of 95 % would hold the true mean three times in four. Give paired differences for a
    difference.
    """
    import numpy as np

    found, means, count = np.array(values, float), np.mean(drawn, axis=0), len(values)
    if count > 1:
        spread = found.std(ddof=1) / np.sqrt(count)
        means = means + spread * np.random.default_rng(seed).standard_t(count - 1, len(means))
    return estimate(float(found.mean()), means, confidence)
