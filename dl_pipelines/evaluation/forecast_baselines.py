"""What a forecaster has to beat, one item at a time: seasonal naive, Theta and ETS, rolled on from origin to origin.

Parameters are fitted once an item and split, on everything before the split's first measured origin; from there on the
states follow the series, and the parameters stay. Their quantiles are those of the forecasts' own errors before that
origin, by step, relative to the level of the history. A missing value is the last known one of the same place in the
season (never a later one). An item with fewer than LEAST_SEASONS seasons before the origin has the naive forecast.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dl_pipelines.tasks.base import Rows, SplitName
from dl_pipelines.tasks.forecast_details import items_of
from dl_pipelines.tasks.series import ORIGIN, Panel

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from dl_pipelines.tasks.forecasting import Forecasting

Outputs = dict[SplitName, "np.ndarray"]
Roll = Callable[["np.ndarray", int, int, int], "np.ndarray"]
"""(y [T], until, season, horizon) -> forecasts [T + 1, horizon] at each place from what is before, fit on y[:until]."""
LEAST_SEASONS = 10
"""The heuristic of statsmodels for initial states looks at so many seasons (Hyndman et al., 2008)."""


def seasonal_naive(
    task: Forecasting, table: pa.Table, splits: np.ndarray, rows: Mapping[SplitName, Rows]
) -> Outputs:  # fmt: skip
    """The last season again, which is mean and median too: its errors count with both signs."""
    return _all(naive_roll, task, table, rows, symmetric=True)


def theta(task: Forecasting, table: pa.Table, splits: np.ndarray, rows: Mapping[SplitName, Rows]) -> Outputs:
    """Theta (Assimakopoulos and Nikolopoulos, 2000) by statsmodels: deseasonalised, half the drift, smoothed level."""
    return _all(theta_roll, task, table, rows)


def ets(task: Forecasting, table: pa.Table, splits: np.ndarray, rows: Mapping[SplitName, Rows]) -> Outputs:
    """Exponential smoothing as a state space (Hyndman et al., 2008) by statsmodels; of MODELS the least AICc."""
    return _all(ets_roll, task, table, rows)


def _all(
    roll: Roll, task: Forecasting, table: pa.Table, rows: Mapping[SplitName, Rows], symmetric: bool = False
) -> Outputs:
    """Outputs of every split."""
    panel = task.panel(table)
    return {split: _answers(roll, task, panel, found, symmetric) for split, found in rows.items()}


def _answers(roll: Roll, task: Forecasting, panel: Panel, rows: Rows, symmetric: bool) -> np.ndarray:
    import numpy as np

    given = task.params
    outputs = np.zeros((len(rows), given.horizon, 1 + len(given.quantiles)), np.float32)
    if not len(rows):
        return outputs
    item, place = places(panel, rows)
    filled, until = fill(panel.values[..., 0], given.season), int(place.min())
    for number in np.unique(item):
        mine = item == number
        outputs[mine] = _of_item(roll, task, filled[number], until, place[mine], symmetric)
    return outputs


def _of_item(
    roll: Roll, task: Forecasting, values: np.ndarray, until: int, place: np.ndarray, symmetric: bool
) -> np.ndarray:
    """Outputs [len(place), horizon, 1 + Q] of one item from its filled values [T]."""
    import numpy as np

    given = task.params
    first = int(np.flatnonzero(np.isfinite(values))[0])
    y, until, place = np.nan_to_num(values[first:], nan=0.0), max(until - first, 0), place - first
    short = until < max(LEAST_SEASONS * given.season, given.horizon + 2 * given.season, 10)
    if short and until < given.horizon + 2 * given.season:
        until = int(place.min())  # a new item: its own first measured origin is all there is
    naive = naive_roll(y, until, given.season, given.horizon)
    points = naive if short else roll(y, until, given.season, given.horizon)
    points = np.where(np.isfinite(points), points, naive)
    level = _level(y, given.history)
    starts = np.arange(min(2 * given.season, max(until - given.horizon, 0)), max(until - given.horizon, 0) + 1)
    later = np.minimum(starts[:, None] + np.arange(given.horizon), max(until - 1, 0))
    error = (y[later] - points[starts]) / level[starts, None]
    error = np.concatenate([error, -error]) if symmetric else error
    around = np.quantile(error, given.quantiles, axis=0).T
    mean = points[place]
    quantiles = mean[:, :, None] + around[None] * level[place, None, None]
    found = np.concatenate([mean[:, :, None], quantiles], axis=2)
    return (found if given.negative else np.maximum(found, 0)).astype(np.float32)


def places(panel: Panel, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Of each row the position of its item in the panel, and of its first forecast step, int [N] each."""
    import numpy as np

    number = {name: position for position, name in enumerate(panel.items)}
    item = np.array([number[name] for name in items_of(rows)], np.int64)
    step = int(panel.days[1] - panel.days[0])
    return item, ((rows.targets[:, ORIGIN] - panel.days[0]) // step).astype(np.int64)


def fill(target: np.ndarray, season: int) -> np.ndarray:
    """[items, T] with missing values as the last known one of the same place in the season, or else the last known one.

    What lies before an item's first value stays NaN. Nothing comes from later.
    """
    import numpy as np

    found, last = target.copy(), np.full(len(target), np.nan)
    for at in range(target.shape[1]):
        before = found[:, at - season] if at >= season else last
        found[:, at] = np.where(np.isfinite(target[:, at]), target[:, at], np.where(np.isfinite(before), before, last))
        last = np.where(np.isfinite(found[:, at]), found[:, at], last)
    return found


def _level(y: np.ndarray, length: int) -> np.ndarray:
    """Mean of |y| over up to `length` values before each place, [T + 1], above 0."""
    import numpy as np

    sums = np.concatenate([[0.0], np.abs(y).cumsum()])
    at = np.arange(len(y) + 1)
    start = np.maximum(at - length, 0)
    return np.maximum((sums - sums[start]) / np.maximum(at - start, 1), 1e-6)


def naive_roll(y: np.ndarray, until: int, season: int, horizon: int) -> np.ndarray:
    """The last season again and again; before a whole one is known, the last value."""
    import numpy as np

    at, step = np.arange(len(y) + 1)[:, None], np.arange(horizon)[None, :]
    source = at - season + step % season
    return y[np.maximum(np.where(source >= 0, source, at - 1), 0)]


def theta_roll(y: np.ndarray, until: int, season: int, horizon: int) -> np.ndarray:
    """The ThetaModel of statsmodels (theta 2) of y[:until]: its seasonal factors, drift and smoothing, on all of y."""
    import numpy as np
    from statsmodels.tsa.forecasting.theta import ThetaModel

    seasonal = season > 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of convergence: the peer is what statsmodels says all the same
        model = ThetaModel(y[:until], period=season if seasonal else None, deseasonalize=seasonal)
        found = model.fit()
    alpha, drift = float(found.params["alpha"]), float(found.params["b0"])
    multiplied = model.method.startswith("mul")
    season_of = np.full(season, 1.0 if multiplied else 0.0)
    if seasonal and model.deseasonalize:
        parts = np.asarray(found.forecast_components(season)["seasonal"])
        season_of[(until + np.arange(season)) % season] = parts
    phase = season_of[np.arange(len(y) + horizon) % season]
    level = _smoothed(y / phase[: len(y)] if multiplied else y - phase[: len(y)], alpha)
    at, ahead = np.arange(len(y) + 1)[:, None], np.arange(horizon)[None, :]
    drifted = ahead + (1 / alpha - (1 - alpha) ** at / alpha if alpha > 0 else 0)
    points = level[:, None] + drift / 2 * drifted
    return points * phase[at + ahead] if multiplied else points + phase[at + ahead]


def _smoothed(y: np.ndarray, alpha: float) -> np.ndarray:
    """The level before each place, [T + 1], by simple exponential smoothing from the first value."""
    import numpy as np

    level = np.empty(len(y) + 1)
    level[0] = y[0]
    for at, value in enumerate(y.tolist()):
        level[at + 1] = alpha * value + (1 - alpha) * level[at]
    return level


MODELS = (
    {"error": "mul", "trend": None, "seasonal": "mul"},
    {"error": "mul", "trend": "add", "damped_trend": True, "seasonal": "mul"},
    {"error": "add", "trend": None, "seasonal": "add"},
    {"error": "add", "trend": "add", "damped_trend": True, "seasonal": "add"},
)
"""Error, trend, seasonal of ETS: the multiplicative ones for an item whose values are all above 0, or the others."""


def ets_roll(y: np.ndarray, until: int, season: int, horizon: int) -> np.ndarray:
    """The ETSModel of statsmodels of y[:until] with heuristic initial states; its smoothing on all of y."""
    import numpy as np
    from statsmodels.tsa.exponential_smoothing.ets import ETSModel

    error = "mul" if (y[:until] > 0).all() else "add"
    best: tuple[dict[str, Any], Any] | None = None
    for kind in (kind for kind in MODELS if kind["error"] == error):
        seasonal = {"seasonal": kind["seasonal"], "seasonal_periods": season} if season > 1 else {"seasonal": None}
        kind = {**kind, **seasonal, "initialization_method": "heuristic"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted: Any = ETSModel(y[:until], **kind).fit(disp=False)
        if np.isfinite(fitted.aicc) and (best is None or fitted.aicc < best[1].aicc):
            best = kind, fitted
    if best is None:
        return naive_roll(y, until, season, horizon)
    kind, fitted = best
    followed = np.maximum(y, y[:until].min()) if error == "mul" else y  # a zero that came later has no logarithm
    smoothed: Any = ETSModel(followed, **kind).smooth(fitted.params)
    states = np.asarray(smoothed.states)
    return _from_states(states, kind, float(getattr(fitted, "damping_trend", 1.0) or 1.0), season, horizon)


def _from_states(
    states: np.ndarray, kind: Mapping[str, object], damping: float, season: int, horizon: int
) -> np.ndarray:  # fmt: skip
    """Forecasts [T + 1, horizon] from states [T, level, trend?, seasonal?]; the first place has those of the second."""
    import numpy as np

    ahead = np.arange(horizon)
    points = np.repeat(states[:, :1], horizon, axis=1)
    if kind["trend"]:
        points = points + states[:, 1:2] * np.cumsum(damping ** (1.0 + ahead))
    if kind["seasonal"]:
        at = np.arange(len(states))[:, None] + ahead % season - (season - 1)
        part = states[np.maximum(at, 0), -1]
        points = points * part if kind["seasonal"] == "mul" else points + part
    return np.concatenate([points[:1], points])
