"""A forecasting task of three steps and a table of records for it, made in a moment; no test of its own."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from dl_pipelines.brief.sections import Split
from dl_pipelines.tasks.base import Rows, SplitName
from dl_pipelines.tasks.forecasting import Forecasting

FIRST, DAYS, HORIZON, SEASON = date(2025, 1, 1), 200, 3, 3
LAST = FIRST + timedelta(days=DAYS - 1)
LEVEL = {"big": 60.0, "small": 20.0, "rare": 0.7, "new": 30.0}
NEW_FROM = DAYS - 24
"""Place of the first day of the item `new`, within the test split."""


def make_task() -> Forecasting:
    """History 6, horizon 3, season 3, quantiles 0.1, 0.5, 0.9; an origin every second day."""
    params = Forecasting.Params(
        history=6, horizon=HORIZON, season=SEASON, gap=1, stride=2, quantiles=(0.1, 0.5, 0.9), known=("promotion",),
        observed=("stock_out",), categories=("kind",), country="DE",
    )  # fmt: skip
    return Forecasting(params)


def demand(seed: int = 0) -> np.ndarray:
    """Units [items, days]: a season, promotions that double, a little noise; `rare` has zeros, some are missing."""
    rng = np.random.default_rng(seed)
    season = np.array([1.0, 1.5, 0.6])[np.arange(DAYS) % SEASON]
    found = np.array(list(LEVEL.values()))[:, None] * season * (1 + promotions()) * rng.lognormal(0, 0.05, (4, DAYS))
    found[2] = rng.poisson(found[2])
    found[rng.uniform(size=found.shape) < 0.02] = np.nan
    found[3, :NEW_FROM] = np.nan
    return found


def promotions() -> np.ndarray:
    """0 or 1 [items, days]."""
    return (np.random.default_rng(1).uniform(size=(4, DAYS)) < 0.2).astype(float)


def make_table(task: Forecasting, values: np.ndarray | None = None) -> pa.Table:
    """Records of every item and day, by day; an item has none before its first value."""
    values, promoted, plain = demand() if values is None else values, promotions(), []
    for day in range(DAYS):
        when = FIRST + timedelta(days=day)
        for item, name in enumerate(LEVEL):
            if name != "new" or day >= NEW_FROM:
                known = float(values[item, day])
                plain.append({
                    "id": f"{name}|{when}", "date": when, "event_time": f"{when}", "group": name,
                    "value": None if np.isnan(known) else known, "promotion": promoted[item, day], "stock_out": 0.0,
                    "kind": "a" if item < 2 else "b", "sha256": f"{item}-{day}", "uri": "made:0",
                })  # fmt: skip
    columns: dict[str, Any] = {name: [row[name] for row in plain] for name in plain[0]}
    columns["event_time"] = np.array(columns["event_time"], "datetime64[us]")
    return pa.table({name: pa.array(columns[name]).cast(kind) for name, kind in zip(
        task.arrow_schema().names, task.arrow_schema().types, strict=True)})  # fmt: skip


def split_rows(task: Forecasting, table: pa.Table) -> tuple[np.ndarray, dict[SplitName, Rows]]:
    """The split of each record, rows of validation and test."""
    splits = task.split(table, LAST, Split())
    return splits, {"validation": task.rows(table, splits == "validation"), "test": task.rows(table, splits == "test")}
