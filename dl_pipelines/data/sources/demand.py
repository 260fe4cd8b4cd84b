"""Simulated daily demand of a shop's items, replayed as daily arrivals; the days after them are held back as live.

How it is made, and every parameter of it, is in `demand_generator.py`. What an oracle answers who knows all of that but
the noise to come is here: no model can do better. Nothing is downloaded.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.data.sources.base import SourceError
from dl_pipelines.data.sources.demand_generator import HELD_BACK, Truth, generate
from dl_pipelines.data.sources.demand_oracle import foretell
from dl_pipelines.data.sources.series_table import (
    EPOCH,
    Columns,
    Series,
    SeriesSource,
    columns_of,
    require_columns,
    since,
)
from dl_pipelines.tasks.base import Rows, Task

if TYPE_CHECKING:
    import numpy as np

NUMBERS = ("demand", "stock_out", "price", "promotion")
WORDS = ("category",)
REPLAYED = 7
"""`dlp run` without a date is about the day this many before the last; later days bring a retraining something new."""


class Demand(SeriesSource):
    """The same on any machine: a function of its params, made once a process."""

    name = "demand"

    class Params(BaseParams):
        """How much is simulated. Lengths are days."""

        items: int = Field(default=50, ge=1, le=1000)
        first_day: date = date(2021, 1, 1)
        days: int = Field(default=1826, ge=2, le=7305, description="days that arrive; the default is five years")
        live_days: int = Field(default=28, ge=0, description="origins that are held back as later live traffic")
        seed: int = Field(default=20210101, ge=0)

        @model_validator(mode="after")
        def _fits(self) -> Demand.Params:
            if self.live_days > HELD_BACK:
                raise ValueError(f"live_days at most {HELD_BACK}")
            if self.first_day > date(2100, 1, 1) or self.first_day < date(1991, 1, 1):
                raise ValueError("first_day from 1991 to 2100, for which the holidays are known")
            return self

    def __init__(self, params: Params):
        self.params = params

    @property
    def truth(self) -> Truth:
        """What made the records."""
        given = self.params
        return generate(given.items, given.first_day, given.days, given.seed)

    @property
    def _last(self) -> date:
        return self.params.first_day + timedelta(days=self.params.days - 1)

    def days(self, start: date | None = None) -> list[date]:
        """See Source.days."""
        return since(_days(self.params), start)

    def default_day(self) -> date:
        """A week before the last arrivals, or the last one when there are fewer."""
        return self.days()[-1 - min(REPLAYED, self.params.days - 1)]

    def read_day(self, day: date, task: Task) -> Any:
        """See Source.read_day; nothing is ever unreadable."""
        series = self.series(columns_of(task, self.name))
        return series.read(day, task) if day <= self._last else series.read(EPOCH, task)

    def series(self, wanted: Columns) -> Series:
        """See SeriesSource.series; the held-back days are in it."""
        require_columns(wanted, [*NUMBERS, *WORDS], f"the source {self.name}")
        return _series(self.params)

    def live_rows(self, start: int, count: int, task: Task) -> Rows:
        """Forecasts of the days after the last arrivals, one origin a day, by origin, then item. See Source.live_rows.

        Their history is what arrived and, from the second origin on, what was held back before it.
        """
        import numpy as np

        series, horizon = self.series(columns_of(task, self.name)), task.signature().outputs[0].shape[0]
        origins = min(self.params.live_days, HELD_BACK - horizon)
        table = series.before(self._last + timedelta(days=origins + horizon), task)
        asked = table["event_time"].to_numpy().astype("datetime64[D]") > np.datetime64(self._last)
        rows = task.rows(table, asked, training=True)  # every origin there is
        if start < 0 or start + count > len(rows):
            raise SourceError(
                f"found {len(rows)} held-back forecasts ({origins} days of {self.params.items} items); expected "
                f"{start + count} for live traffic; ask for fewer records in monitoring.traffic, or raise "
                "data.source.params.live_days"
            )
        return rows.take(np.arange(start, start + count))

    def oracle(self, rows: Rows, task: Task) -> np.ndarray | None:
        """See demand_oracle.foretell and Source.oracle."""
        levels = getattr(getattr(task, "params", None), "quantiles", ())
        return foretell(self.truth, rows.ids, task.signature().outputs[0].shape[0], levels)

    def describe(self) -> dict[str, Any]:
        """See Source.describe."""
        given = self.params
        return {
            "update_frequency": f"simulated, daily: {given.items} items, one record each",
            "access": f"simulated in the process: a generator of demand with the seed {given.seed}",
            "types": "simulated numbers (demand, stock-out, price, promotion) and a category by item and day",
            "format": "Lance",
            "simulated": True,
        }


def _days(params: Demand.Params) -> list[date]:
    if params not in _DAYS:
        _DAYS[params] = [params.first_day + timedelta(days=number) for number in range(params.days)]
    return _DAYS[params]


_DAYS: dict[Demand.Params, list[date]] = {}
_SERIES: dict[Demand.Params, Series] = {}


def _series(params: Demand.Params) -> Series:
    """What is recorded, with the held-back days, by day, then item."""
    import numpy as np

    if params not in _SERIES:
        truth = Demand(params).truth
        day, item = np.nonzero(truth.recorded)
        items, categories = np.array(truth.items, object), np.array(truth.categories, object)
        _SERIES[params] = Series(
            day=day + (truth.first - EPOCH).days,
            item=items[item],
            uri=np.array([f"simulated://demand/{name}" for name in truth.items], object)[item],
            numbers={name: getattr(truth, name)[day, item] for name in NUMBERS},
            words={"category": categories[item]},
        )
    return _SERIES[params]
