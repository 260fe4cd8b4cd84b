"""Metrics on named subsets of the rows, and how far confidence can be believed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dl_pipelines.evaluation.metrics import with_intervals
from dl_pipelines.tasks.base import Rows, Task

if TYPE_CHECKING:
    import numpy as np

GATED_ROWS = 100
"""A slice with fewer rows is reported, not gated: its interval is too wide to decide on."""


def slice_table(
    task: Task, outputs: np.ndarray, rows: Rows, resamples: int, confidence: float, seed: int
) -> list[dict[str, Any]]:
    """One dict a slice with rows: name, rows, whether it may be gated, the primary metric's estimate.

    A slice whose outputs don't determine the metric is left out.
    """
    table = []
    for name, chosen in rows.slices.items():
        if not chosen.any():
            continue
        found = with_intervals(task, outputs[chosen], rows.targets[chosen], resamples, confidence, seed)
        if task.primary not in found:
            continue
        count = int(chosen.sum())
        table.append({"slice": name, "rows": count, "gated": count >= GATED_ROWS, task.primary: found[task.primary]})
    return table
