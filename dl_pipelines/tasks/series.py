"""Series as arrays: records of items and days as a dense panel, and the windows of it that a forecaster sees.

A window ("frame") is a table of `history + horizon` days: the served model's input, with NaN where a value is missing
or not known yet. Text (an item, a category) is in it as a number, `code`. Nothing here is fitted.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

EXTRA = 4
"""Columns of the targets behind the horizon's values: see ORIGIN, ITEM, MASE, SCALE."""
ORIGIN, ITEM, MASE, SCALE = -4, -3, -2, -1
"""Day of the first forecast step, code of the item, mean seasonal difference before it, mean level of the history."""


def code(text: str) -> int:
    """Text as a number that float32 holds exactly (0 to 2**24 - 1): what a client sends for an item or a category."""
    return zlib.crc32(text.encode()) & 0xFFFFFF


@dataclass(frozen=True)
class Panel:
    """Items x days x columns, float64, NaN where there is no value; `days` [T] are ordinals since 1970, `step` apart.

    `items` are names, `columns` the frame's columns behind `day` and `item`; `chosen` [T] are the days asked about.
    """

    items: Sequence[str]
    days: np.ndarray
    columns: Sequence[str]
    values: np.ndarray
    chosen: np.ndarray


def make_panel(
    table: pa.Table, chosen: np.ndarray | None, columns: Sequence[str], categories: Sequence[str], step: int
) -> Panel:
    """A panel of records with `group`, `event_time` and the columns; of equal days of an item the last one counts.

    An infinite value counts as none.
    """
    import numpy as np

    names = np.array(table["group"].to_pylist(), dtype=object)
    items, item = np.unique(names, return_inverse=True) if len(names) else (names, np.zeros(0, int))
    day = days_of(table)
    first = int(day.min()) if len(day) else 0
    place = (day - first) // step
    count = int(place.max()) + 1 if len(day) else 0
    values = np.full((len(items), count, len(columns)), np.nan)
    for position, name in enumerate(columns):
        if name in categories:
            known = {text: code(text) for text in set(table[name].to_pylist()) if text is not None}
            column = np.array([known.get(text, np.nan) for text in table[name].to_pylist()], np.float64)
        else:
            column = table[name].to_numpy(zero_copy_only=False).astype(np.float64)
            column = np.where(np.isfinite(column), column, np.nan)
        values[item, place, position] = column
    wanted = np.zeros(count, bool)
    wanted[place if chosen is None else place[chosen]] = True
    return Panel(items.tolist(), first + step * np.arange(count), tuple(columns), values, wanted)


def days_of(table: pa.Table) -> np.ndarray:
    """The day of each record's event, days since 1970-01-01, int64 [N]."""
    import numpy as np

    return table["event_time"].to_numpy().astype("datetime64[D]").astype(np.int64)
