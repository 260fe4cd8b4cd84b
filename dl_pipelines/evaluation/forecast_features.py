"""Features of an item on a day ahead, as gradient boosting wants them: lags, means, the calendar, what is known of it.

Nothing of the target or of an observed column from the origin on is in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dl_pipelines.tasks.forecast_fit import public_holidays
from dl_pipelines.tasks.forecast_windows import mean_before
from dl_pipelines.tasks.series import Panel

if TYPE_CHECKING:
    import numpy as np

    from dl_pipelines.tasks.forecasting import Forecasting

Cells = tuple["np.ndarray", "np.ndarray", "np.ndarray"]
"""Item, place of the first forecast step and step (from 0) of each cell, int [n] each."""
Column = tuple["np.ndarray", bool]
"""A feature [n], and whether it is a category."""
LAGS, CYCLES = 7, 4
"""Last values, and values of the same place in the last known seasons."""
MEANS = (1, 4, 12)
"""Seasons that rolling means are taken over."""
LEVEL = 4
"""Seasons whose mean is the level that the target and its lags are divided by."""
PLACE_CYCLES = 8
"""Seasons that the mean of a place in the season is taken over."""
MOST = 250
"""Categories that scikit-learn takes (255); a column with more is a number, an item none at all."""
YEAR = 365.2425


class Features:
    """Features of any cells of a panel; `categorical` are the columns of the last ones that are categories."""

    def __init__(self, panel: Panel, task: Forecasting):
        import numpy as np

        self.task, self.panel, self.target = task, panel, panel.values[..., 0]
        self.categorical: list[int] = []
        season, history = task.params.season, task.params.history
        lengths = dict.fromkeys([*(season * many for many in (*MEANS, LEVEL)), history, 52 * season])
        self._means = {length: mean_before(self.target, length) for length in lengths}
        self._places = _means_of_places(self.target, season)
        whole = np.abs(np.nan_to_num(mean_before(self.target, self.target.shape[1])))
        recent = np.abs(self._means[season * LEVEL])
        self._level = np.maximum(np.where(np.isfinite(recent), recent, whole), np.maximum(1e-3 * whole, 1e-6))

    def level(self, cells: Cells) -> np.ndarray:
        """Mean of the last LEVEL seasons before the origin [n], above 0."""
        return self._level[cells[0], cells[1]]

    def ratio(self, cells: Cells) -> np.ndarray:
        """What came to pass, by the level [n]; NaN where it is missing."""
        item, place, step = cells
        return self.target[item, place + step] / self.level(cells)

    def of(self, cells: Cells) -> np.ndarray:
        """Features float32 [n, F]; a missing value is NaN."""
        import numpy as np

        columns = [*self._lags(cells), *self._a_year_ago(cells), *self._calendar(cells), *self._others(cells)]
        self.categorical = [position for position, (_, is_category) in enumerate(columns) if is_category]
        return np.stack([values.astype(np.float32) for values, _ in columns], axis=1)

    def _lags(self, cells: Cells) -> Iterator[Column]:
        """The step, the item, its level; past values and means by the level."""
        import numpy as np

        (item, place, step), level, season = cells, self.level(cells), self.task.params.season
        yield step, False
        yield np.log(level), False
        if len(self.panel.items) <= MOST:
            yield item, True
        for cycle in range(CYCLES):
            yield at(self.target, item, place + step - season * (step // season + 1 + cycle)) / level, False
        for lag in range(1, LAGS + 1):
            yield at(self.target, item, place - lag) / level, False
        for means in self._means.values():
            yield means[item, place] / level, False
        yield self._places[item, place, (place + step) % season] / level, False

    def _a_year_ago(self, cells: Cells) -> Iterator[Column]:
        """The season around the day, and the day itself, a year before, by the level before the origin's day then."""
        import numpy as np

        (item, place, step), given = cells, self.task.params
        day, year = place + step, round(YEAR / given.step_days / given.season) * given.season
        before = at(self._means[given.history], item, place - year)
        before = np.where(before > 0, before, np.nan)
        around = day - year + given.season // 2 + 1
        yield at(self._means[given.season], item, np.where(around <= place, around, -1)) / before, False
        yield at(self.target, item, np.where(day - year < place, day - year, -1)) / before, False

    def _calendar(self, cells: Cells) -> Iterator[Column]:
        """Place in the season, in the month, in the year with two harmonics, holidays of the day and around it."""
        import numpy as np

        given = self.task.params
        days = self.panel.days[0] + (cells[1] + cells[2]) * given.step_days
        date = days.astype("datetime64[D]")
        years, months = date.astype("datetime64[Y]"), date.astype("datetime64[M]")
        of_year = (date - years.astype("datetime64[D]")).astype(np.int64)
        yield (days // given.step_days) % given.season, given.season <= MOST
        yield (date - months.astype("datetime64[D]")).astype(np.int64), False
        yield of_year, False
        for wave in (1, 2):
            turn = 2 * np.pi * wave * of_year / YEAR
            yield np.sin(turn), False
            yield np.cos(turn), False
        if given.country:
            first, last = int(days.min()) // 365 + 1969, int(days.max()) // 365 + 1971
            listed, names = public_holidays(given.country, first, last)
            kinds = sorted(set(names))
            kind = {day: 1 + kinds.index(name) for day, name in zip(listed, names, strict=True)}
            for shift in (-1, 0, 1):
                yield np.array([kind.get(day, 0) for day in (days + shift).tolist()]), len(kinds) < MOST

    def _others(self, cells: Cells) -> Iterator[Column]:
        """Observed columns up to the origin; known ones on the day, a season before, and against their usual value."""
        import numpy as np

        (item, place, step), given = cells, self.task.params
        day, lag = place + step, given.season * (step // given.season + 1)
        for position, name in enumerate(self.panel.columns[1:], 1):
            values = self.panel.values[..., position]
            if name in given.categories:
                codes = np.unique(values[np.isfinite(values)])
                yield np.searchsorted(codes, at(values, item, day)), len(codes) < MOST
                continue
            usual = mean_before(values, given.history)[item, place]
            if name in given.observed:
                yield at(values, item, place - 1), False
                yield usual, False
                continue
            now = at(values, item, day)
            yield now, False
            yield now - usual, False
            yield (now - usual) / np.where(usual != 0, np.abs(usual), np.nan), False
            yield at(values, item, day - lag) - usual, False


def at(values: np.ndarray, item: np.ndarray, day: np.ndarray) -> np.ndarray:
    """Values [items, T] of items [n] on days [n]; NaN before the first day."""
    import numpy as np

    return np.where(day >= 0, values[item, np.clip(day, 0, values.shape[1] - 1)], np.nan)


def _means_of_places(target: np.ndarray, season: int) -> np.ndarray:
    """Mean of the last PLACE_CYCLES values of each place in the season before each day, [items, T + 1, season]."""
    import numpy as np

    items, count = target.shape
    found = np.full((items, count + 1, season), np.nan, np.float32)
    for place in range(season):
        means = mean_before(target[:, place::season], PLACE_CYCLES)
        seen = np.clip((np.arange(count + 1) - place + season - 1) // season, 0, means.shape[1] - 1)
        found[:, :, place] = means[:, seen]
    return found
