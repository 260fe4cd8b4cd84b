"""Metrics of quantile forecasts, and their resamples. What is shown beside them is made in forecast_details.

Rows are reduced to sums by origin once; a metric is a ratio of sums, so that a resample of origins is a vector of
weights. `y` is what came to pass; item-days where it is missing are in no sum. Errors are of the median (the forecast
with the least absolute error), totals and RMSE of the mean (means of items add up).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dl_pipelines.tasks.base import Metric
from dl_pipelines.tasks.series import EXTRA, ITEM, MASE, ORIGIN, SCALE

if TYPE_CHECKING:
    import numpy as np

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("mape", "lower", "MAPE of the total", "share", "ACC"),
        Metric("wape", "lower", "WAPE by item and day", "share"),
        Metric("smape", "lower", "sMAPE by item and day", "share"),
        Metric("mase", "lower", "MASE"),
        Metric("rmse", "lower", "RMSE", "units"),
        Metric("pinball", "lower", "Pinball loss, share of the level", "share", "LOSS"),
        Metric("coverage", "higher", "Coverage of the widest interval", "share"),
        Metric("coverage_error", "lower", "Distance of the quantiles' coverage from nominal", "share"),
    )
}
BASELINES: Mapping[str, str] = {
    "seasonal_naive": "dl_pipelines.evaluation.forecast_baselines:seasonal_naive",
    "theta": "dl_pipelines.evaluation.forecast_baselines:theta",
    "ets": "dl_pipelines.evaluation.forecast_baselines:ets",
    "boosting": "dl_pipelines.evaluation.forecast_boosting:boosting",
}
"""What a forecaster has to beat, the simplest first: `module:function`."""
MOST = 10.0
"""Ratios of an answer are clipped here: beyond, a series near zero would be all that is seen."""


def measure(outputs: np.ndarray, targets: np.ndarray, quantiles: Sequence[float]) -> dict[str, float]:
    """Every metric of outputs [N, H, 1 + Q] on targets [N, H + EXTRA]; absent where the rows don't determine it.

    `mape`: per origin and day |sum of forecasts - sum of actuals| / |sum of actuals| over the items whose actual is
    there, averaged over origins and days (an origin that is held twice counts twice). `wape`: sum |y - median| / sum
    |y|. `smape`: mean of 2 |y - median| / (|y| + |median|), 0 where both are 0 (Makridakis, 1993). `mase`: mean over
    rows of mean |y - median| / the mean seasonal difference before the origin (Hyndman and Koehler, 2006); rows without
    one, or with 0, are left out. `pinball`: mean over quantiles of the pinball losses' sum / sum |y| (Koenker and
    Bassett, 1978). `coverage`: share of y within the outermost quantiles. `coverage_error`: mean over quantiles of
    |share of y at or below it - its level|. Outputs that are not finite have no metrics.
    """
    import numpy as np

    if not len(targets) or not np.isfinite(outputs).all():
        return {}
    columns = by_origin(outputs, targets, quantiles)
    found = ratios({name: column.sum(axis=0, keepdims=True) for name, column in columns.items()}, quantiles)
    return {name: float(value[0]) for name, value in found.items() if np.isfinite(value[0])}


def resampled(
    outputs: np.ndarray, targets: np.ndarray, quantiles: Sequence[float], draws: int, seed: int, step_days: int = 1
) -> dict[str, np.ndarray]:
    """The same on `draws` resamples, [draws]: a moving block bootstrap over origins. See weights, Task.resampled."""
    import numpy as np

    if not len(targets) or not np.isfinite(outputs).all():
        return {}
    drawn = weights(targets, draws, seed, step_days)
    columns = by_origin(outputs, targets, quantiles)
    return ratios({name: drawn @ column for name, column in columns.items()}, quantiles)


def groups(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """The group of each row [N], the origins of the first groups, ascending, and how many groups there are.

    Rows of one origin are a group; a row whose origin is not known is one of its own, behind them.
    """
    import numpy as np

    origin = targets[:, ORIGIN].astype(np.float64)
    known = np.isfinite(origin)
    origins, place = np.unique(origin[known], return_inverse=True)
    group = np.empty(len(targets), np.int64)
    group[known] = place
    count = len(origins) + int((~known).sum())
    group[~known] = np.arange(len(origins), count)
    return group, origins, count


def weights(targets: np.ndarray, draws: int, seed: int, step_days: int = 1) -> np.ndarray:
    """How often each group of rows is in each resample, float64 [draws, groups]; they depend on origins and seed alone.

    Horizons overlap, and what happens in one week lasts into the next: blocks of consecutive origins are drawn (moving
    blocks: Kunsch, 1989), as long as a horizon, at most half of all origins so that few of them vary still.
    """
    import numpy as np

    _, origins, count = groups(targets)
    apart = float(np.median(np.diff(origins))) if len(origins) > 1 else np.inf
    length = int(np.ceil((targets.shape[1] - EXTRA) * step_days / apart)) or 1
    length = max(1, min(length, count // 2))
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, count - length + 1, (draws, -(-count // length)))
    chosen = (starts[:, :, None] + np.arange(length)).reshape(draws, -1)[:, :count]
    flat = (chosen + count * np.arange(draws)[:, None]).ravel()
    return np.bincount(flat, minlength=draws * count).reshape(draws, count).astype(np.float64)


def by_origin(outputs: np.ndarray, targets: np.ndarray, quantiles: Sequence[float]) -> dict[str, np.ndarray]:
    """What every metric is a ratio of, summed over the rows of each group: float64 [groups], `below` [groups, Q]."""
    import numpy as np

    group, origins, count = groups(targets)
    outputs, actual = outputs.astype(np.float64), targets[:, :-EXTRA].astype(np.float64)
    there = np.isfinite(actual)
    y = np.where(there, actual, 0.0)
    error = np.where(there[:, :, None], y[:, :, None] - outputs, 0.0)
    middle = 1 + list(quantiles).index(0.5)
    levels = np.array(quantiles)
    pinball = np.maximum(levels * error[:, :, 1:], (levels - 1) * error[:, :, 1:]).mean(axis=2)
    size = np.where(there, np.abs(y) + np.abs(outputs[:, :, middle]), 0.0)
    cells = {
        "cells": there.astype(np.float64),
        "size": np.abs(y),
        "absolute": np.abs(error[:, :, middle]),
        "symmetric": np.divide(2 * np.abs(error[:, :, middle]), size, out=np.zeros_like(size), where=size > 0),
        "square": error[:, :, 0] ** 2,
        "pinball": pinball,
        "inside": there & (error[:, :, 1] >= 0) & (error[:, :, -1] <= 0),
        **{f"below_{at}": there & (error[:, :, 1 + at] <= 0) for at in range(len(levels))},
    }
    rows = {name: cell.sum(axis=1) for name, cell in cells.items()}
    scale, known = targets[:, MASE].astype(np.float64), rows["cells"] > 0
    scaled = known & np.isfinite(scale) & (scale > 0)
    safe = np.where(scaled, scale * rows["cells"], 1.0)
    rows |= {"scaled": scaled, "mase": np.where(scaled, rows["absolute"] / safe, 0.0)}
    found = {name: np.bincount(group, row, count) for name, row in rows.items()}
    found["below"] = np.stack([found.pop(f"below_{at}") for at in range(len(levels))], axis=1)
    return {**found, **_totals(outputs[:, :, 0], y, there, targets[:, ITEM], group, len(origins), count)}


def _totals(
    mean: np.ndarray, y: np.ndarray, there: np.ndarray, item: np.ndarray, group: np.ndarray, known: int, count: int
) -> dict[str, np.ndarray]:
    """`days` and the sum of `shares` of each group: |forecast - actual| / |actual| of the total over its items.

    Groups from `known` on have no origin, so that nothing says what they are a total of.
    """
    import numpy as np

    forecast, actual = np.zeros((count, y.shape[1])), np.zeros((count, y.shape[1]))
    np.add.at(forecast, group, np.where(there, mean, 0.0))
    np.add.at(actual, group, y)
    size = np.abs(actual)
    size[known:] = 0
    share = np.divide(np.abs(forecast - actual), size, out=np.zeros_like(size), where=size > 0)
    items = np.where(np.isfinite(item), item, -1.0 - np.arange(len(item)))
    distinct = np.unique(np.stack([group, items], axis=1), axis=0)[:, 0].astype(np.int64)
    held = np.bincount(group, minlength=count) / np.bincount(distinct, minlength=count)
    return {"shares": held * share.sum(axis=1), "days": held * (size > 0).sum(axis=1)}


def ratios(sums: Mapping[str, np.ndarray], quantiles: Sequence[float]) -> dict[str, np.ndarray]:
    """The metrics of D sets of rows from their sums [D] (see by_origin), each [D]; NaN where the sums don't say."""
    import numpy as np

    def over(upper: str, lower: str) -> np.ndarray:
        return np.divide(sums[upper], sums[lower], out=np.full(len(sums[lower]), np.nan), where=sums[lower] > 0)

    cells = np.where(sums["cells"] > 0, sums["cells"], np.nan)
    found = {
        "mape": over("shares", "days"),
        "wape": over("absolute", "size"),
        "smape": over("symmetric", "cells"),
        "mase": over("mase", "scaled"),
        "rmse": np.sqrt(over("square", "cells")),
        "pinball": over("pinball", "size"),
        "coverage": over("inside", "cells"),
        "coverage_error": np.abs(sums["below"] / cells[:, None] - np.array(quantiles)).mean(axis=1),
    }
    if len(quantiles) < 2:
        del found["coverage"]
    return found


def residuals(outputs: np.ndarray, targets: np.ndarray, quantiles: Sequence[float]) -> dict[str, np.ndarray]:
    """How far off each forecast was [N], NaN where nothing of it is known yet.

    `residual`: mean over the horizon of (y - mean) / the level of the history. `pit`: share of y below the median
    (Dawid's probability integral transform, at the median), one half for a forecaster without bias.
    """
    import numpy as np

    actual, scale = targets[:, :-EXTRA].astype(np.float64), targets[:, SCALE].astype(np.float64)
    there = np.isfinite(actual)
    count = np.where(there.any(axis=1), there.sum(axis=1), np.nan)
    error = np.where(there, actual - outputs[:, :, 0], 0.0).sum(axis=1) / count
    below = (there & (actual < outputs[:, :, 1 + list(quantiles).index(0.5)])).sum(axis=1) / count
    return {"residual": error / np.where(scale > 0, scale, np.nan), "pit": below}


def scores(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """1 - mean absolute error of the mean forecast / level of the history [N], 0 to 1; NaN where nothing is known."""
    import numpy as np

    actual, scale = targets[:, :-EXTRA].astype(np.float64), targets[:, SCALE].astype(np.float64)
    there = np.isfinite(actual)
    count = np.where(there.any(axis=1), there.sum(axis=1), np.nan)
    error = np.where(there, np.abs(actual - outputs[:, :, 0]), 0.0).sum(axis=1) / count
    return np.clip(1 - error / np.where(scale > 0, scale, np.nan), 0, None)


def answer_features(outputs: np.ndarray, quantiles: Sequence[float]) -> dict[str, np.ndarray]:
    """Of each forecast [N], without a unit: `slope`, its second half by its first; `spread`, its interval by its level.

    Both lie between -MOST and MOST; nothing by nothing is a slope of 1 and a spread of 0.
    """
    import numpy as np

    outputs = outputs.astype(np.float64)
    horizon = outputs.shape[1]
    first, second = outputs[:, : -(-horizon // 2), 0].mean(axis=1), outputs[:, horizon // 2 :, 0].mean(axis=1)
    width = (outputs[:, :, -1] - outputs[:, :, 1]).mean(axis=1)
    level = np.abs(outputs[:, :, 1 + list(quantiles).index(0.5)].mean(axis=1))
    return {"slope": _ratio(second, first, 1.0), "spread": _ratio(width, level, 0.0)}


def _ratio(upper: np.ndarray, lower: np.ndarray, empty: float) -> np.ndarray:
    """Clipped to -MOST .. MOST; `empty` where both are 0, NaN stays."""
    import numpy as np

    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where((upper == 0) & (lower == 0), empty, upper / lower)
    return np.clip(found, -MOST, MOST)
