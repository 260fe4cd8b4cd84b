"""What an evaluation shows of forecasts beside metrics, as plain data: by horizon, over time, by item, examples."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from dl_pipelines.tasks.base import Rows
from dl_pipelines.tasks.forecast_metrics import by_origin, groups, ratios, weights
from dl_pipelines.tasks.intervals import Estimate, estimate
from dl_pipelines.tasks.series import EXTRA, ORIGIN, SCALE

if TYPE_CHECKING:
    import numpy as np

SHOWN = 56
"""Days of history in an example."""
SHOWN_METRICS = ("wape", "mape", "coverage")
ENDS = 5
"""Items that are listed as the worst, and as the best."""
TOTAL = "TOTAL"
TARGET = 2
"""The target's column in a frame, behind `day` and `item`."""
DIGITS = 6


def details(
    outputs: np.ndarray, rows: Rows, quantiles: Sequence[float], resamples: int, confidence: float, seed: int
) -> dict[str, Any]:  # fmt: skip
    """`by_horizon`, `backtest`, `by_item` and `examples` (see their functions) of outputs [N, H, 1 + Q] on rows.

    Intervals are of the resamples that metrics have. Without rows, or with outputs that are not finite, it is empty.
    """
    import numpy as np

    if not len(rows) or not np.isfinite(outputs).all():
        return {}
    drawn = weights(rows.targets, resamples, seed, step_of(rows.inputs))
    return {
        "by_horizon": by_horizon(outputs, rows, quantiles, drawn, confidence),
        "backtest": backtest(outputs, rows, quantiles),
        "by_item": by_item(outputs, rows, quantiles, drawn, confidence),
        "examples": examples(outputs, rows, quantiles),
    }


def step_of(inputs: np.ndarray) -> int:
    """Days between two rows of frames [N, T, C]."""
    return int(inputs[0, 1, 0] - inputs[0, 0, 0])


def by_horizon(
    outputs: np.ndarray, rows: Rows, quantiles: Sequence[float], drawn: np.ndarray, confidence: float
) -> list[dict[str, Any]]:
    """For each step ahead, from 1: its `step` and estimates of `wape`, `mape` and `coverage`, where they are known."""
    import numpy as np

    found = []
    for step in range(outputs.shape[1]):
        targets = np.concatenate([rows.targets[:, [step]], rows.targets[:, -EXTRA:]], axis=1)
        columns = by_origin(outputs[:, [step]], targets, quantiles)
        values = ratios({name: column.sum(axis=0, keepdims=True) for name, column in columns.items()}, quantiles)
        resamples = ratios({name: drawn @ column for name, column in columns.items()}, quantiles)
        known = [name for name in SHOWN_METRICS if name in values and np.isfinite(values[name][0])]
        told = {name: estimate(float(values[name][0]), resamples[name], confidence) for name in known}
        found.append({"step": step + 1, **told})
    return found


def backtest(outputs: np.ndarray, rows: Rows, quantiles: Sequence[float]) -> list[dict[str, Any]]:
    """For each origin its `date`, `mape` of the total, `wape`, `coverage`, and what was `forecast` and `actual` in all.

    Both sums are over the item-days of the horizon whose actual is there; `forecast` is of means.
    """
    import numpy as np

    group, origins, count = groups(rows.targets)
    metrics = ratios(by_origin(outputs, rows.targets, quantiles), quantiles)
    actual = rows.targets[:, :-EXTRA].astype(np.float64)
    there = np.isfinite(actual)
    sums = {
        "actual": np.bincount(group, np.where(there, actual, 0).sum(axis=1), count),
        "forecast": np.bincount(group, np.where(there, outputs[:, :, 0], 0).sum(axis=1), count),
    }
    chosen = {name: metrics[name] for name in SHOWN_METRICS if name in metrics} | sums
    return [
        {"date": day_of(origin), **{name: _number(value[place]) for name, value in chosen.items()}}
        for place, origin in enumerate(origins)
    ]


def by_item(
    outputs: np.ndarray, rows: Rows, quantiles: Sequence[float], drawn: np.ndarray, confidence: float
) -> dict[str, list[dict[str, Any]]]:
    """`worst` and `best`: up to ENDS items each, from the end on, with their rows and the estimate of their `wape`."""
    import numpy as np

    group, _, count = groups(rows.targets)
    names, item = np.unique(items_of(rows), return_inverse=True)
    actual = rows.targets[:, :-EXTRA].astype(np.float64)
    there = np.isfinite(actual)
    middle = outputs[:, :, 1 + list(quantiles).index(0.5)]
    error, size = np.zeros((count, len(names))), np.zeros((count, len(names)))
    np.add.at(error, (group, item), np.where(there, np.abs(actual - middle), 0).sum(axis=1))
    np.add.at(size, (group, item), np.where(there, np.abs(actual), 0).sum(axis=1))
    upper, lower = drawn @ error, drawn @ size
    resamples = np.divide(upper, lower, out=np.full_like(upper, np.nan), where=lower > 0)
    total, held = size.sum(axis=0), np.bincount(item)
    known = [place for place in range(len(names)) if total[place] > 0]
    wape: dict[int, Estimate] = {
        place: estimate(float(error[:, place].sum() / total[place]), resamples[:, place], confidence) for place in known
    }
    known.sort(key=lambda place: -wape[place]["value"])
    listed = [{"item": str(names[place]), "rows": int(held[place]), "wape": wape[place]} for place in known]
    return {"worst": listed[:ENDS], "best": listed[ENDS:][: -ENDS - 1 : -1]}


def examples(outputs: np.ndarray, rows: Rows, quantiles: Sequence[float]) -> list[dict[str, Any]]:
    """Forecasts of the last origin: the TOTAL, then the items with the largest, the median and the smallest level.

    Each has `item`, `origin`, `history_dates` and `history` (the last SHOWN values), `dates`, `actual`, `mean`,
    `median`, `low`, `high` (the outermost quantiles, whose levels are `interval`); null is a missing value. TOTAL has
    sums of what is known: `mean` and `median` are both the sum of the means over items whose actual is there, or over
    all on days when none is; intervals of items don't add up, so that it has none.
    """
    import numpy as np

    origin = rows.targets[:, ORIGIN]
    if not np.isfinite(origin).any():
        return []
    last = np.flatnonzero(origin == np.nanmax(origin))
    names, level = items_of(rows), rows.targets[last, SCALE]
    order = last[np.argsort(-level, kind="stable")]
    chosen = list(dict.fromkeys([order[0], order[(len(order) - 1) // 2], order[-1]]))
    middle, edges = 1 + list(quantiles).index(0.5), [quantiles[0], quantiles[-1]]
    found = [_total(outputs[last], rows.take(last))] if len(last) > 1 else []
    for row in chosen:
        answer = outputs[row].astype(np.float64)
        found.append({
            "item": str(names[row]), **_around(rows.inputs[row], rows.inputs[row, :, TARGET], answer),
            "actual": _numbers(rows.targets[row, :-EXTRA]), "mean": _numbers(answer[:, 0]),
            "median": _numbers(answer[:, middle]), "low": _numbers(answer[:, 1]), "high": _numbers(answer[:, -1]),
            "interval": edges,
        })  # fmt: skip
    return found


def _total(outputs: np.ndarray, rows: Rows) -> dict[str, Any]:
    import numpy as np

    actual, mean = rows.targets[:, :-EXTRA].astype(np.float64), outputs[:, :, 0].astype(np.float64)
    there = np.isfinite(actual)
    none = ~there.any(axis=0)
    forecast = _numbers(np.where(there | none, mean, 0).sum(axis=0))
    history = rows.inputs[:, :, TARGET].astype(np.float64)
    observed = np.where(np.isfinite(history).any(axis=0), np.nansum(history, axis=0), np.nan)
    return {
        "item": TOTAL, **_around(rows.inputs[0], observed, outputs[0]),
        "actual": _numbers(np.where(none, np.nan, np.where(there, actual, 0).sum(axis=0))),
        "mean": forecast, "median": forecast, "low": None, "high": None, "interval": None,
    }  # fmt: skip


def _around(frame: np.ndarray, observed: np.ndarray, answer: np.ndarray) -> dict[str, Any]:
    """`origin`, `history_dates`, `history` and `dates` of a frame [history + horizon, C]."""
    horizon, days = len(answer), [day_of(day) for day in frame[:, 0]]
    before = days[:-horizon][-SHOWN:]
    return {"origin": days[-horizon], "history_dates": before, "history": _numbers(observed[:-horizon][-SHOWN:]),
            "dates": days[-horizon:]}  # fmt: skip


def items_of(rows: Rows) -> np.ndarray:
    """The item of each row [N], from its id `item|day`; a name may hold a bar itself."""
    import numpy as np

    return np.array([str(name).rpartition("|")[0] for name in rows.ids])


def day_of(days: float) -> str:
    """Days since 1970 as an ISO date."""
    return (date(1970, 1, 1) + timedelta(days=int(days))).isoformat()


def _numbers(values: np.ndarray) -> list[float | None]:
    return [_number(value) for value in values]


def _number(value: float) -> float | None:
    import math

    return round(float(value), DIGITS) if math.isfinite(value) else None
