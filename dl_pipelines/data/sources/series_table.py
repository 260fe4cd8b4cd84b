"""Records of series, one an item and day, as every source of series gives them: the task's table of each day.

What a value in a file means is read in `series_parse.py`; here values are numbers and words already.
"""

from __future__ import annotations

import hashlib
import time
from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from dl_pipelines.brief.errors import closest
from dl_pipelines.data.sources.base import Quarantined, Source, SourceError
from dl_pipelines.tasks.base import Task

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

EPOCH = date(1970, 1, 1)
REUSE = 20
"""What took a second to look at is looked at again after this many."""
REMEMBERED = 4

T = TypeVar("T")


@dataclass(frozen=True)
class Columns:
    """What a task asks of a source: the target, other number columns, word columns."""

    target: str
    numbers: tuple[str, ...]
    words: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (self.target, *self.numbers, *self.words)


def columns_of(task: Task, source: str) -> Columns:
    """The columns of a task about series. Raises SourceError for another task."""
    if task.kind != "series":
        raise SourceError(
            f"found the task {task.name}, of the kind {task.kind}; expected forecasting for {source}; "
            "change problem.task or data.source"
        )
    fields = task.fields()
    inputs = [item for item in fields if item.role == "input"]
    return Columns(
        next(item.name for item in fields if item.role == "target"),
        tuple(item.name for item in inputs if item.dtype != "string"),
        tuple(item.name for item in inputs if item.dtype == "string"),
    )


def require_columns(wanted: Columns, there: list[str], where: str) -> None:
    """Raises SourceError that names the columns found and expected, and the closest name of one that is missing."""
    missing = [name for name in wanted.names if name not in there]
    if missing:
        near = {name: closest(name, there) for name in missing}
        hints = "; ".join(f"is {name} called {other}?" for name, other in near.items() if other)
        raise SourceError(
            f"found the columns {', '.join(there) or 'none'} in {where}; expected {', '.join(wanted.names)}: no "
            f"{', no '.join(missing)}; mend problem.task.params" + (f" ({hints})" if hints else "")
        )


@dataclass(frozen=True)
class Series:
    """Records sorted by day, then item: `day` int64 [N] since 1970, `item` and `uri` str [N], values [N] by column.

    Numbers are float64 with NaN where there is none, words str or None. `quarantined` are kept out of their day;
    `overlooked` have no day.
    """

    day: np.ndarray
    item: np.ndarray
    uri: np.ndarray
    numbers: Mapping[str, np.ndarray]
    words: Mapping[str, np.ndarray]
    quarantined: Mapping[int, list[Quarantined]] = field(default_factory=dict)
    overlooked: tuple[Quarantined, ...] = ()

    @cached_property
    def days(self) -> list[date]:
        """Days that have records, also if all of them are kept out, sorted."""
        return [EPOCH + timedelta(days=day) for day in sorted({*self.day.tolist(), *self.quarantined})]

    def read(self, day: date, task: Task) -> tuple[pa.Table, list[Quarantined]]:
        """A day's records in the task's schema, and what is kept out of it."""
        number = (day - EPOCH).days
        start, end = self.day.searchsorted((number, number + 1)).tolist()
        return self._table(start, end, task), list(self.quarantined.get(number, ()))

    def before(self, day: date, task: Task) -> pa.Table:
        """All records of earlier days in the task's schema."""
        return self._table(0, int(self.day.searchsorted((day - EPOCH).days)), task)

    def _table(self, start: int, end: int, task: Task) -> pa.Table:
        import numpy as np
        import pyarrow as pa

        schema, part = task.arrow_schema(), slice(start, end)
        days, items = self.day[part], self.item[part].tolist()
        text = {day: (EPOCH + timedelta(days=day)).isoformat() for day in set(days.tolist())}
        ids = [f"{item}|{text[day]}" for item, day in zip(items, days.tolist(), strict=True)]
        words = {name: column[part].tolist() for name, column in self.words.items() if name in schema.names}
        numbers = {name: column[part] for name, column in self.numbers.items() if name in schema.names}
        columns: dict[str, Any] = {
            "id": ids,
            "date": days.astype("datetime64[D]"),
            "event_time": days.astype("datetime64[D]").astype("datetime64[us]"),
            "group": items,
            "sha256": _digests(ids, numbers, words),
            "uri": self.uri[part].tolist(),
            **words,
            **{name: pa.array(column, pa.float64(), mask=np.isnan(column)) for name, column in numbers.items()},
        }
        return pa.table([pa.array(columns[item.name], item.type) for item in schema], schema=schema)


def _digests(
    ids: list[str], numbers: Mapping[str, np.ndarray], words: Mapping[str, list[str | None]]
) -> list[str]:  # fmt: skip
    """sha256 of each record's id and its values by name: `repr` of a number is exact, a missing word is empty."""
    told = [map(repr, numbers[name].tolist()) for name in sorted(numbers)]
    told += [(word or "" for word in words[name]) for name in sorted(words)]
    names = "\x1f".join([*sorted(numbers), *sorted(words)])
    lines = map("\x1f".join, zip([names] * len(ids), ids, *told, strict=True))
    return [hashlib.sha256(line.encode(errors="backslashreplace")).hexdigest() for line in lines]


class SeriesSource(Source):
    """A source whose records are all known at once; it says how to get them for a task's columns."""

    @abstractmethod
    def series(self, wanted: Columns) -> Series:
        """Every record, with these columns. Raises SourceError."""

    @abstractmethod
    def days(self, start: date | None = None) -> list[date]:
        """See Source.days. Raises SourceError."""

    def default_day(self) -> date:
        """The last day with records."""
        return self.days()[-1]

    def read_day(self, day: date, task: Task) -> tuple[pa.Table, list[Quarantined]]:
        """See Source.read_day; records in the order of their items."""
        return self.series(columns_of(task, self.name)).read(day, task)


def since(days: list[date], start: date | None) -> list[date]:
    """Those of sorted days from `start` on."""
    return list(days) if start is None else days[bisect_left(days, start) :]


_REMEMBERED: dict[Hashable, tuple[float, Any]] = {}


def remembered(key: Hashable, make: Callable[[], T]) -> T:
    """What `make` gives, kept in this process for REUSE times as long as it took. What raises is not kept.

    A run over years asks thousands of times: so it sees what is there now at a twentieth of its own time, at most.
    """
    until, value = _REMEMBERED.get(key, (0.0, None))
    start = time.monotonic()
    if start < until:
        return value
    value = make()
    end = time.monotonic()
    _REMEMBERED.pop(key, None)
    while len(_REMEMBERED) >= REMEMBERED:
        _REMEMBERED.pop(next(iter(_REMEMBERED)))
    _REMEMBERED[key] = end + REUSE * (end - start), value
    return value
