"""The contract of a source: which days have records, the records of a day, and what can't be read with its reason."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any, ClassVar
from zoneinfo import available_timezones

from pydantic import AfterValidator

from dl_pipelines.brief.registry import Params
from dl_pipelines.store.artifacts import StageSkipped
from dl_pipelines.store.digest import digest_json
from dl_pipelines.store.records import records_digest
from dl_pipelines.tasks.base import Rows, Task

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


def _known_zone(value: str) -> str:
    if value not in available_timezones():
        raise ValueError("an IANA time zone such as UTC or Europe/Berlin")
    return value


TimeZone = Annotated[str, AfterValidator(_known_zone)]
"""A param of sources: where a day begins; as `data.timezone`."""


class SourceError(ValueError):
    """A source can't be read: what was found, what was expected, what to do."""


@dataclass(frozen=True)
class Quarantined:
    """A record that is kept out, and why."""

    uri: str
    reason: str

    def plain(self) -> dict[str, str]:
        """As plain data."""
        return asdict(self)


def legible(text: str) -> str:
    """Text that can be stored: bytes of a file name that are not UTF-8 are spelled out."""
    return text.encode(errors="backslashreplace").decode()


def no_records(day: date, days: Sequence[date]) -> StageSkipped:
    """Why a day that is none of these is skipped."""
    last = f"; the last day with records is {days[-1]}" if days else ""
    return StageSkipped(f"no records arrived on {day}{last}")


def digests_of(table: pa.Table, quarantined: Sequence[Quarantined]) -> dict[str, str]:
    """Of what a source gave for a day."""
    return {"records": records_digest(table), "quarantined": digest_json([item.plain() for item in quarantined])}


class Source(ABC):
    """A source of records, made with its validated params."""

    Params: ClassVar[type[Params]]
    name: ClassVar[str]

    @abstractmethod
    def days(self, start: date | None = None) -> list[date]:
        """Days that have records, from `start` on, sorted. Raises SourceError."""

    def require_day(self, day: date, start: date | None = None) -> None:
        """Raises StageSkipped on a day without records, so that no stage works on it; SourceError."""
        days = self.days(start)
        place = bisect_left(days, day)  # asked for each of thousands of days
        if days[place : place + 1] != [day]:
            last = f"; the last day with records is {days[-1]}" if days else ""
            raise StageSkipped(f"no records arrived on {day}{last}")

    @abstractmethod
    def default_day(self) -> date:
        """The day a run is about when the user names none. Raises SourceError."""

    @abstractmethod
    def read_day(self, day: date, task: Task) -> tuple[pa.Table, list[Quarantined]]:
        """The records of a day in the task's Arrow schema, and what could not be read. Raises SourceError."""

    def digests(self, day: date, task: Task) -> dict[str, str]:
        """Of what `read_day` gives, to tell whether a day has changed. Raises SourceError.

        By default it is read; a source that knows sooner may say the same without reading.
        """
        return digests_of(*self.read_day(day, task))

    def live(self, start: int, count: int, task: Task) -> pa.Table:
        """Held-back records `start` to `start + count`, for replayed traffic. Raises SourceError if too few."""
        raise SourceError(
            f"found no held-back records in the source {self.name}; expected one that holds some back (demand, "
            "digits); set monitoring.traffic to clients"
        )

    def live_rows(self, start: int, count: int, task: Task) -> Rows:
        """The same as the rows that clients would send; a task whose rows need what was before gets it with them."""
        return task.rows(self.live(start, count, task))

    def oracle(self, rows: Rows, task: Task) -> np.ndarray | None:
        """What one would answer who knows how the records are made and all up to each row, as outputs [N, ...].

        None where nobody knows: of real records. It is the best that any model could reach.
        """
        return None

    def overlooked(self) -> list[Quarantined]:
        """What lies in the source and belongs to no day, and why: told to people, part of no artifact's digest."""
        return []

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Plain data for the report: `update_frequency`, `access`, `types`, `format`."""
