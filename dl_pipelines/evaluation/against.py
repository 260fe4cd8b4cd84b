"""A model against its baselines on the same rows: differences and ratios with paired intervals, the gates on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dl_pipelines.evaluation.metrics import estimate
from dl_pipelines.store.artifacts import Gate
from dl_pipelines.tasks.base import Task

if TYPE_CHECKING:
    import numpy as np


def compare(
    task: Task, ours: np.ndarray, others: Mapping[str, np.ndarray], targets: np.ndarray, resamples: int,
    confidence: float, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """`rows`: of each baseline and metric `ours`, `theirs`, `difference` (ours - theirs), `ratio`.

    In the task's order; estimates, on the same resamples. A ratio above 1 says that ours is better, whatever the
    metric's direction (their error by ours); it is absent where it is divided by 0. `metrics` are those worth a
    picture: the primary one, and those that the report has a place for. `must_beat` are the task's baselines; an
    oracle is none.
    """
    found, value = [], task.measure(ours, targets)
    drawn = task.resampled(ours, targets, resamples, seed)
    for baseline in sorted(others, key=[*task.baselines, *others].index):
        outputs = others[baseline]
        their_value, their_drawn = task.measure(outputs, targets), task.resampled(outputs, targets, resamples, seed)
        for name, metric in task.metrics.items():
            if name not in value or name not in their_value:
                continue
            pairs = [(value[name], drawn[name]), (their_value[name], their_drawn[name])]
            upper, lower = pairs if metric.better == "higher" else reversed(pairs)
            row = {
                "baseline": baseline,
                "metric": name,
                "ours": estimate(*pairs[0], confidence),
                "theirs": estimate(*pairs[1], confidence),
                "difference": estimate(pairs[0][0] - pairs[1][0], pairs[0][1] - pairs[1][1], confidence),
            }
            if lower[0]:
                row["ratio"] = estimate(upper[0] / lower[0], _over(upper[1], lower[1]), confidence)
            found.append(row)
    shown = [task.primary, *(name for name, metric in task.metrics.items() if metric.template)]
    return {"metrics": list(dict.fromkeys(shown)), "must_beat": list(task.baselines), "rows": found}


def _over(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.divide(upper, lower, out=np.full(len(upper), np.nan), where=lower != 0)


def gates(task: Task, against: Mapping[str, Any]) -> list[Gate]:
    """`beats_NAME` of each baseline of the task: whether the whole interval of the difference is on our side."""
    metric, made = task.metrics[task.primary], []
    rows = {row["baseline"]: row for row in against["rows"] if row["metric"] == task.primary}
    for name in task.baselines:
        said = name.replace("_", " ")
        if name not in rows:
            made.append(
                Gate(f"beats_{name}", None, f"{task.primary} of {said} could not be measured on these test rows")
            )
            continue
        row = rows[name]
        apart = row["difference"]
        passed = apart["high"] < 0 if metric.better == "lower" else apart["low"] > 0
        summary = (
            f"{task.primary} {row['ours']['value']:.4f} against {row['theirs']['value']:.4f} of {said}, difference "
            f"{apart['value']:+.4f} [{apart['low']:+.4f}, {apart['high']:+.4f}] on the test rows"
        )
        made.append(Gate(f"beats_{name}", passed, summary, facts=apart))
    return made
