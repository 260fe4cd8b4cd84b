"""A table as records of series: which of its rows are a record of which item and day, which can't be used, and why.

The table comes from files or a database as it is there, what its values mean is read in `series_values.py`, and
`series_table.py` gives the records out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from dl_pipelines.brief.errors import closest
from dl_pipelines.data.sources.base import Quarantined, SourceError
from dl_pipelines.data.sources.series_table import EPOCH, Columns, Series, require_columns
from dl_pipelines.data.sources.series_values import NO_DAY, Reading, days_of, numbers_of, words_of

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


@dataclass(frozen=True)
class RawSeries:
    """A table as it is in its source. `files` [N] and `numbers` [N] say where each record is from, counted from 1.

    `columns` are those of each file. Days and items are read at once, the columns of a task when it asks.
    """

    table: pa.Table
    files: np.ndarray
    numbers: np.ndarray
    columns: Mapping[str, list[str]]
    reading: Reading
    where: str
    overlooked: tuple[Quarantined, ...] = ()
    _made: dict[Columns, Series] = field(default_factory=dict)

    def __post_init__(self):
        """Raises SourceError when the time or item column is not in every file, or no record has a usable time."""
        needed = {"time": self.reading.time} | ({"item": self.reading.item} if self.reading.item else {})
        for file, names in self.columns.items():
            for param, name in needed.items():
                if name not in names:
                    near = closest(name, names)
                    raise SourceError(
                        f"found the columns {', '.join(names) or 'none'} in {file}; expected {name}, the {param} of a "
                        f"record; mend data.source.params.{param}" + (f" (is it {near}?)" if near else "")
                    )
        if not self.table.num_rows:
            raise SourceError(f"found no record in {self.where}; expected a header and a line for each item and day")
        if (self._day == NO_DAY).all():
            first = self.without_day[0]
            raise SourceError(f"found no usable time in {self.where}; the first: {first.uri}: {first.reason}")

    @cached_property
    def days(self) -> list[date]:
        """Days that have records, sorted."""
        import numpy as np

        return [EPOCH + timedelta(days=day) for day in np.unique(self._day).tolist() if day != NO_DAY]

    @cached_property
    def without_day(self) -> tuple[Quarantined, ...]:
        """Records that belong to no day, beside what was overlooked before."""
        import numpy as np

        wrong = np.flatnonzero(self._day == NO_DAY).tolist()
        return (*(Quarantined(self._uri(row), self._dated[1][row]) for row in wrong), *self.overlooked)

    def series(self, wanted: Columns) -> Series:
        """The records with these columns. A column that only some files have is missing in the others.

        Raises SourceError when no file has one, or one has no target.
        """
        if wanted not in self._made:
            self._made[wanted] = self._series(wanted)
        return self._made[wanted]

    def _series(self, wanted: Columns) -> Series:
        import numpy as np

        require_columns(wanted, self.table.column_names, self.where)
        for file, names in self.columns.items():
            if wanted.target not in names:
                raise SourceError(
                    f"found the columns {', '.join(names)} in {file}; expected {wanted.target}, the target, as in the "
                    "other files; mend the file"
                )
        items, reasons = self._items()
        numbers = {name: self._numbers(name, reasons) for name in (wanted.target, *wanted.numbers)}
        words = {name: words_of(self._column(name)) for name in wanted.words}
        names, code = np.unique(items, return_inverse=True)
        self._conflicts(code, names, [*numbers.values(), *words.values()], reasons)
        quarantined: dict[int, list[Quarantined]] = {}
        for row in sorted(reasons):
            if self._day[row] != NO_DAY:
                found = Quarantined(self._uri(row), reasons[row])
                quarantined.setdefault(int(self._day[row]), []).append(found)
        kept = np.ones(len(items), bool)
        kept[list(reasons)] = False
        kept &= self._day != NO_DAY
        order = np.flatnonzero(kept)[np.lexsort((code[kept], self._day[kept]))]
        return Series(
            self._day[order],
            items[order],
            self.files[order],
            {name: column[order] for name, column in numbers.items()},
            {name: column[order] for name, column in words.items()},
            quarantined,
            self.without_day,
        )

    @cached_property
    def _dated(self) -> tuple[np.ndarray, dict[int, str]]:
        return days_of(self._column(self.reading.time), self.reading)

    @property
    def _day(self) -> np.ndarray:
        return self._dated[0]

    def _column(self, name: str) -> pa.ChunkedArray:
        """Raises SourceError when its values are no plain ones."""
        import pyarrow as pa

        column = self.table[name]
        if pa.types.is_nested(column.type) or (
            pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)
        ):
            raise SourceError(
                f"found the type {column.type} of {name} in {self.where}; expected numbers, words or times; leave the "
                "column out of the brief, or mend the source"
            )
        return column

    def _uri(self, row: int) -> str:
        return f"{self.files[row]}, record {self.numbers[row]}"

    def _items(self) -> tuple[np.ndarray, dict[int, str]]:
        import numpy as np

        if self.reading.item is None:
            return np.full(self.table.num_rows, self.reading.series, object), {}
        items = words_of(self._column(self.reading.item))
        nameless = [row for row, item in enumerate(items.tolist()) if item is None]
        items[nameless] = ""
        return items, dict.fromkeys(nameless, f"no {self.reading.item}, the item")

    def _numbers(self, name: str, reasons: dict[int, str]) -> np.ndarray:
        import numpy as np

        values, wrong = numbers_of(self._column(name), name, self.reading.decimal)
        for row in np.flatnonzero(np.isinf(values)).tolist():
            wrong[row] = f"{name} is infinite"
        for row, reason in wrong.items():
            reasons.setdefault(row, reason)
        return values

    def _conflicts(
        self, code: np.ndarray, names: np.ndarray, columns: list[np.ndarray], reasons: dict[int, str]
    ) -> None:
        """Of records of one item and day that differ none is kept: nobody knows which is right; equal ones repeat."""
        import numpy as np

        span = self._day.max() - (low := self._day[self._day != NO_DAY].min()) + 1
        key = np.where(self._day == NO_DAY, -1 - np.arange(len(code)), code * span + self._day - low)
        _, place, count = np.unique(key, return_inverse=True, return_counts=True)
        groups: dict[int, list[int]] = {}
        for row in np.flatnonzero(count[place] > 1).tolist():
            if row not in reasons:
                groups.setdefault(int(place[row]), []).append(row)
        for rows in groups.values():
            seen = {tuple(None if value != value else value for value in (column[row] for column in columns))
                    for row in rows}  # fmt: skip
            if len(seen) > 1:
                values = ", ".join(f"{columns[0][row]:g}" for row in rows[:3]) + (", ..." if len(rows) > 3 else "")
                day = EPOCH + timedelta(days=int(self._day[rows[0]]))
                hint = "" if self.reading.item else "; data.source.params.item names the column of the item"
                for row in rows:
                    reasons[row] = (
                        f"{len(rows)} records of {names[code[row]]} on {day} that differ ({values}); nobody knows "
                        f"which is right: expected one an item and day{hint}"
                    )
