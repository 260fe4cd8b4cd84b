"""A forecasting task of three steps, and tables of records for it from plain arrays; no test of its own."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from dl_pipelines.tasks.forecasting import Forecasting

FIRST, DAYS, ITEMS = date(2025, 1, 1), 90, ("a", "b", "c")
SMALL: dict[str, Any] = {
    "history": 6, "horizon": 3, "season": 3, "gap": 1, "stride": 2, "quantiles": (0.1, 0.5, 0.9),
    "known": ("price",), "observed": ("stock_out",), "categories": ("kind",),
}  # fmt: skip


def make_task(**changed: Any) -> Forecasting:
    """SMALL with fields replaced."""
    return Forecasting(Forecasting.Params.model_validate({**SMALL, **changed}))


def demand(days: int = DAYS, seed: int = 0) -> np.ndarray:
    """Units [items, days] with a season of three steps and some that are missing."""
    rng = np.random.default_rng(seed)
    season = np.array([1.0, 1.6, 0.5])[np.arange(days) % 3]
    found = np.array([60.0, 20.0, 6.0])[:, None] * season * rng.lognormal(0, 0.2, (3, days))
    found[rng.uniform(size=found.shape) < 0.05] = np.nan
    return found


def make_table(task: Forecasting, values: np.ndarray | None = None, first: date = FIRST, **columns: Any) -> pa.Table:
    """Records of each item [rows of values] and step; number columns may be given as arrays like the values.

    Where a value is infinite there is no record.
    """
    values = demand() if values is None else np.asarray(values, float)
    rng, shape, given = np.random.default_rng(7), values.shape, task.params
    made = {given.target: values, "price": rng.uniform(1, 2, shape), "stock_out": np.zeros(shape), **columns}
    plain: list[dict[str, Any]] = []
    for step in range(shape[1]):
        day = first + timedelta(days=step * given.step_days)
        for item in range(shape[0]):
            if np.isinf(values[item, step]):
                continue
            row: dict[str, Any] = dict.fromkeys(given.categories, "x" if item else "y")
            row |= {"id": f"{ITEMS[item]}|{day}", "date": day, "group": ITEMS[item], "sha256": f"{item} {step}",
                    "event_time": datetime(day.year, day.month, day.day, tzinfo=UTC), "uri": ""}  # fmt: skip
            for name in (given.target, *given.observed, *given.known):
                number = float(made[name][item, step])
                row[name] = None if np.isnan(number) else number
            plain.append(row)
    schema = task.arrow_schema()
    return pa.table([pa.array([row[field.name] for row in plain], field.type) for field in schema], schema=schema)
