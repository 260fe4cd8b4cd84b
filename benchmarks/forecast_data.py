"""What the peer of the forecasting benchmark is given: the records of a window as a data frame of the library's form.

The same records, splits and origins as ours; missing values are filled as ours fills them and masked where the library
can mask. What ours makes of a day and an item inside its network, the library is given as columns.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dl_pipelines.tasks.series import ORIGIN, Panel

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from dl_pipelines.tasks.base import Rows

EPOCH = date(1970, 1, 1)
HOLIDAY = {"none": 0, "before": 1, "holiday": 2}
USUAL, STEP, MOST = 84, 0.02, 15
"""A price is given as the step of its ratio to its median of so many days: one that does not change has no spread, and
the library divides by it. Steps of 2 %, so many each way."""


def write(folder: Path, task: Any, panel: Panel, rows: Rows, threads: int) -> None:
    """`series.parquet` and `peer.json` of a task's panel, whose chosen days may train; `rows` are what is forecast."""
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    given = task.params
    frame, categories = _frame(task, panel)
    frame.to_parquet(folder / "series.parquet")
    future = [*given.known, "weekday", "week", "holiday"]
    about = {
        "horizon": given.horizon, "future": future, "past": list(given.observed),
        "static": ["item", *given.categories], "categories": categories, "items": list(panel.items),
        "train_until": _text(panel.days[panel.chosen].max()),
        "origins": [_text(day) for day in np.unique(rows.targets[:, ORIGIN])], "threads": threads, "seed": 1,
    }  # fmt: skip
    (folder / "peer.json").write_text(json.dumps(about))


def outputs(forecasts: np.ndarray, rows: Rows, items: Sequence[str], quantiles: int) -> np.ndarray:
    """Point forecasts [origins, items, horizon] as outputs of `rows` [N, horizon, 1 + quantiles], all alike."""
    import numpy as np

    origins = np.unique(rows.targets[:, ORIGIN])
    origin = np.searchsorted(origins, rows.targets[:, ORIGIN])
    place = {name: number for number, name in enumerate(items)}
    item = [place[str(name).rpartition("|")[0]] for name in rows.ids]
    return np.repeat(forecasts[origin, item][:, :, None], 1 + quantiles, axis=2)


def _frame(task: Any, panel: Panel) -> tuple[pd.DataFrame, dict[str, int]]:
    """A row a day and item, and how many values each category column has."""
    import numpy as np
    import pandas as pd

    given, names = task.params, list(panel.columns)
    days = [EPOCH + timedelta(days=int(day)) for day in panel.days]
    words = [panel.values[..., names.index(name)] for name in given.categories]
    free = _holidays(days, given.country)
    numbers = {name: panel.values[..., names.index(name)] for name in (*given.observed, *given.known)}
    censored = np.nan_to_num(numbers.get(given.censored_by, np.zeros(panel.values.shape[:2]))) > 0
    switches = {name for name, value in numbers.items() if np.isin(value[np.isfinite(value)], (0.0, 1.0)).all()}
    parts, codes = [], [np.unique(word[np.isfinite(word)]) for word in words]
    for item, name in enumerate(panel.items):
        part = pd.DataFrame({"unique_id": name, "ds": pd.to_datetime(days)})
        value = pd.Series(np.where(censored[item], np.nan, panel.values[item, :, 0]))
        known = value.notna()
        part["y"] = value.fillna(_seasonal(value, given.season)).fillna(0.0).astype(np.float32)
        part["available_mask"] = known.astype(np.float32)
        for column, number in numbers.items():
            part[column] = _steps(number[item], column in switches)
        part["weekday"] = [day.weekday() for day in days]
        part["week"] = [min(day.timetuple().tm_yday // 7, 52) for day in days]
        part["holiday"] = free
        part["item"] = item
        for column, word, code in zip(given.categories, words, codes, strict=True):
            there = word[item][np.isfinite(word[item])]
            part[column] = int(np.searchsorted(code, there[-1])) if len(there) else 0
        first = int(known.to_numpy().argmax())
        parts.append(part.iloc[first:])  # the library's series begin where there is a value
    sizes = {column: len(code) for column, code in zip(given.categories, codes, strict=True)}
    return pd.concat(parts, ignore_index=True), {
        **{name: 2 if name in switches else 2 * MOST + 1 for name in numbers},
        "weekday": 7, "week": 53, "holiday": len(HOLIDAY), "item": len(panel.items), **sizes,
    }  # fmt: skip


def _seasonal(value: pd.Series, season: int) -> pd.Series:
    """The last known value at the same place of the season."""
    import numpy as np

    return value.groupby(np.arange(len(value)) % season).ffill()


def _steps(values: np.ndarray, switch: bool) -> np.ndarray:
    """A number column [T] as the numbers of a category: a switch as it is, prices by their ratio to what is usual."""
    import numpy as np
    import pandas as pd

    number = pd.Series(values).ffill().bfill().fillna(0.0)
    if switch:
        return number.to_numpy().astype(np.int64)
    usual = number.rolling(USUAL, min_periods=1).median()
    return np.clip(np.round(np.log(number / usual) / STEP), -MOST, MOST).to_numpy().astype(np.int64) + MOST


def _holidays(days: list[date], country: str | None) -> list[int]:
    import holidays

    if country is None:
        return [HOLIDAY["none"]] * len(days)
    free = set(holidays.country_holidays(country, years=range(days[0].year, days[-1].year + 2)))
    return [
        HOLIDAY["holiday"] if day in free else HOLIDAY["before"] if day + timedelta(days=1) in free else HOLIDAY["none"]
        for day in days
    ]


def _text(day: float) -> str:
    return (EPOCH + timedelta(days=int(day))).isoformat()
