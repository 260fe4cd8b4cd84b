"""What a forecaster has to know of its train records: scales, encodings, limits, fills, holidays. Plain data, no torch.

Fitted on train records only, part of the trained model, and inside the graph that is served: a client sends raw values.
How the graph uses them is in `models/series_front.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from dl_pipelines.tasks.series import Panel, code

if TYPE_CHECKING:
    import numpy as np

    from dl_pipelines.tasks.forecasting import Forecasting

EPOCH = date(1970, 1, 1)
YEARS_AHEAD = 10
"""Holidays are known to the served model for so long after its last train record."""
WINSOR = (0.002, 0.998)
"""Quantiles of a value over the level before it, beyond which it is winsorised to them."""
CLIP_DEVIATIONS = 6.0
"""Clipped beyond so many robust standard deviations (1.4826 MAD) of the same ratio from its median."""
CUT = 0.5
"""The target was cut off where the column `censored_by` is above this."""
FEWEST = 50
"""Values that an item needs for limits of its own; with fewer it has those of all items."""


def fit(panel: Panel, task: Forecasting) -> dict[str, Any]:
    """Statistics of a panel of train records; see the module. Every number is a float or an int, rounded."""
    import numpy as np

    given, target = task.params, panel.values[..., 0]
    ratio = target / _level_before(np.abs(target) if given.negative else target, given.history)
    numbers = [name for name in panel.columns if name not in given.categories]
    return {
        "first_day": int(panel.days[0]) if len(panel.days) else 0,
        "last_day": int(panel.days[-1]) if len(panel.days) else 0,
        "items": {"names": list(panel.items), "codes": [code(name) for name in panel.items]},
        "numbers": {name: _of_column(panel.values[..., place], task.missing(name))
                    for place, name in enumerate(numbers)},
        "words": {name: sorted(set(_known(panel.values[..., panel.columns.index(name)]).astype(int).tolist()))
                  for name in given.categories},
        "limits": {name: _limits(ratio if name == given.target else panel.values[..., place], task.outliers(name))
                   for place, name in enumerate(numbers)},
        "imputation": _imputation(panel, task),
        "holidays": _holidays(given.country, panel),
        "counts": _counts(panel, ratio, task),
    }  # fmt: skip


def _level_before(target: np.ndarray, length: int) -> np.ndarray:
    """Mean level of the known values before each day, at most `length` of them; the day's own is not in it."""
    import numpy as np

    from dl_pipelines.tasks.forecast_windows import mean_before

    level = mean_before(target, length)[:, :-1]
    return np.where(level > 0, level, np.nan)


def _of_column(values: np.ndarray, missing: str) -> dict[str, Any]:
    """Mean of each item and of all, and the deviation from the items' means: how a column is normalised."""
    import numpy as np

    mean = float(_or(np.nanmean, values, axis=None, default=0.0))
    by_item = _or(np.nanmean, values, axis=1, default=mean)
    spread = float(_or(np.nanstd, values - by_item[:, None], axis=None, default=1.0))
    return {"mean": _number(mean), "by_item": _rounded(by_item), "spread": _number(max(spread, 1e-6)),
            "missing": missing}  # fmt: skip


def _limits(values: np.ndarray, strategy: str) -> dict[str, Any]:
    """Lower and upper bound of each item and of all, by the strategy; the target's are of its ratio to the level."""
    import numpy as np

    def bounds(found: np.ndarray) -> tuple[float, float]:
        known = _known(found)
        if not len(known):
            return (-1e9, 1e9)
        if strategy == "clip":
            middle = float(np.median(known))
            # Most values equal (a promotion, an item with many zeros): the MAD is 0, and the mean deviation stands in
            # for it (Iglewicz and Hoaglin, 1993). All equal: nothing is known of how far others may be.
            apart = np.abs(known - middle)
            spread = 1.4826 * float(np.median(apart)) or 1.253314 * float(apart.mean())
            if not spread:
                return (-1e9, 1e9)
            return middle - CLIP_DEVIATIONS * spread, middle + CLIP_DEVIATIONS * spread
        low, high = np.quantile(known, WINSOR)
        return float(low), float(high)

    if strategy == "keep":
        return {"strategy": strategy, "low": [], "high": [], "all": [-1e9, 1e9]}
    whole = bounds(values)
    each = [bounds(row) if len(_known(row)) >= FEWEST else whole for row in values]
    return {"strategy": strategy, "low": _rounded([low for low, _ in each]), "high": _rounded([top for _, top in each]),
            "all": _rounded(whole)}  # fmt: skip


def _imputation(panel: Panel, task: Forecasting) -> dict[str, list[float]]:
    """For columns filled by a `model`: weights of the seasonal median, the interpolation and 1, by least squares.

    Fitted on train values that are there, each estimated as if it were not.
    """
    import numpy as np

    found, season = {}, task.params.season
    for place, name in enumerate(panel.columns):
        if name in task.params.categories or task.missing(name) != "model":
            continue
        values = panel.values[..., place]
        around = [np.roll(values, shift, axis=1) for shift in (season, -season, 2 * season, -2 * season)]
        seasonal = np.stack(around)
        known = np.isfinite(seasonal).any(axis=0)
        median = np.where(known, _or(np.nanmedian, seasonal, axis=0, default=0.0), 0.0)
        between = (np.roll(values, 1, axis=1) + np.roll(values, -1, axis=1)) / 2
        inner = np.zeros(values.shape, bool)
        inner[:, 2 * season : -2 * season] = True
        use = inner & np.isfinite(values) & np.isfinite(between) & known
        if use.sum() < FEWEST:
            found[name] = [1.0, 0.0, 0.0]
            continue
        design = np.stack([median[use], between[use], np.ones(use.sum())], axis=1)
        found[name] = _rounded(np.linalg.lstsq(design, values[use], rcond=None)[0])
    return found


def _holidays(country: str | None, panel: Panel) -> dict[str, Any]:
    """Public holidays as days and kinds (from 1), from a year before the first train record to ten after the last."""
    if country is None or not len(panel.days):
        return {"days": [], "kinds": [], "names": []}
    years = [(EPOCH + timedelta(days=int(day))).year for day in (panel.days[0], panel.days[-1])]
    days, names = public_holidays(country, years[0] - 1, years[1] + YEARS_AHEAD)
    kinds = sorted(set(names))
    return {"days": list(days), "kinds": [1 + kinds.index(name) for name in names], "names": kinds}


@functools.cache
def public_holidays(country: str, first: int, last: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Days (since 1970) and names of a country's public holidays of these years. Raises ValueError (no such country).

    Source: the package `holidays`, which computes movable feasts; several on one day count as the first by name.
    """
    import holidays

    try:
        found = holidays.country_holidays(country, years=range(first, last + 1))
    except NotImplementedError as error:
        raise ValueError(
            f"found the country {country!r}; expected an ISO 3166 code that the package holidays knows, such as DE"
        ) from error
    listed = sorted((day, sorted(name.split("; "))[0]) for day, name in found.items())
    return tuple((day - EPOCH).days for day, _ in listed), tuple(name for _, name in listed)


def _counts(panel: Panel, ratio: np.ndarray, task: Forecasting) -> dict[str, dict[str, Any]]:
    """Of each column: cells between an item's first and last record, missing ones, those beyond the limits.

    Of the target also those that were cut off.
    """
    import numpy as np

    there = np.asarray(np.isfinite(panel.values).any(axis=2))
    begun, going = there.cumsum(axis=1) > 0, np.flip(np.flip(there, 1).cumsum(axis=1), 1) > 0
    living = begun & going
    found: dict[str, dict[str, Any]] = {}
    for place, name in enumerate(panel.columns):
        values = panel.values[..., place]
        about: dict[str, Any] = {"cells": int(living.sum()), "missing": int((living & ~np.isfinite(values)).sum()),
                                 "missing_by": task.missing(name)}  # fmt: skip
        if name == task.params.target and task.params.censored_by is not None:
            cut = panel.values[..., panel.columns.index(task.params.censored_by)] > CUT
            about["censored"] = int((cut & np.isfinite(values)).sum())
        if name not in task.params.categories:
            judged = ratio if name == task.params.target else values
            limits = _limits(judged, task.outliers(name))
            low, high = (np.array(limits[side] or [limits["all"][end]] * len(judged))[:, None]
                         for end, side in enumerate(("low", "high")))  # fmt: skip
            about |= {"outliers": int(((judged < low) | (judged > high)).sum()), "outliers_by": task.outliers(name)}
        found[name] = about
    return found


def described(statistics: Mapping[str, Any], task: Forecasting) -> dict[str, str]:
    """The statistics in words. See Task.described."""
    given, counts = task.params, statistics["counts"]
    missing = "; ".join(
        f"{name}: {about['missing']:,} of {about['cells']:,} cells, {FILLED[about['missing_by']]}"
        + (
            f" (and {about['censored']:,} cut off, where {given.censored_by} is 1, which count as missing in a history)"
            if "censored" in about
            else ""
        )
        for name, about in counts.items()
    )
    outliers = "; ".join(
        f"{name}: {about['outliers']:,} beyond the limits, {_TREATED[about['outliers_by']]}"
        for name, about in counts.items()
        if about.get("outliers_by", "keep") != "keep"
    )
    kinds, words = len(statistics["holidays"]["names"]), statistics["words"]
    calendar = f"place in the season of {given.season}, six yearly harmonics"
    if kinds:
        calendar += f", {kinds} public holidays of {given.country} with the days around them"
    encoded = [f"item: a vector for each of {len(statistics['items']['codes'])}, one for all unknown"]
    encoded += [f"{name}: a vector for each of {len(codes)}" for name, codes in words.items()]
    return {
        "normalization": "each window of the target by its own mean level, reversed in the output; other columns by "
        "their item's train mean and the common deviation",
        "encoding": "; ".join(encoded),
        "transformations": f"inside the served model: {calendar}; {given.history} lags of the target and of "
        f"{len(given.observed) + len(given.known)} columns; rolling mean and seasonal profile of the window",
        "missing": missing,
        "outliers": outliers or "kept as they are",
        "dimensions": f"{given.history + given.horizon} steps x {len(task.signature().columns)} columns",
    }


FILLED = {
    "drop": "windows with one are not trained on", "seasonal": "filled by the window's seasonal median",
    "interpolate": "interpolated", "unknown": "taken as an unknown word",
    "model": "filled by a regression on seasonal median and neighbours",
}  # fmt: skip
_TREATED = {
    "flag": "flagged to the model", "clip": f"clipped at {CLIP_DEVIATIONS:g} robust deviations",
    "winsorise": f"winsorised to the {WINSOR[0]:.1%} and {WINSOR[1]:.1%} quantiles of the ratio to the level before",
}  # fmt: skip


def _known(values: np.ndarray) -> np.ndarray:
    import numpy as np

    return values[np.isfinite(values)]


def _or(function: Any, values: np.ndarray, axis: int | None, default: float) -> np.ndarray:
    """A nan-aware reduction, with `default` where nothing is known."""
    import warnings

    import numpy as np

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = np.asarray(function(values, axis=axis) if values.size else np.full(len(values) if axis else (), np.nan))
    return np.where(np.isfinite(found), found, default)


def _rounded(values: Any) -> list[float]:
    return [_number(value) for value in values]


def _number(value: Any) -> float:
    """Seven significant digits: what float32 holds; the same text on any machine."""
    return float(f"{float(value):.7g}")
