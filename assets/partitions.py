"""Every partitions definition, with its reason.

Days are in the brief's time zone. The experiments of a project are a dynamic partition, because a user makes them.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from zoneinfo import ZoneInfo

import dagster as dg

from dl_pipelines.brief import Brief
from dl_pipelines.data.registry import SOURCES
from dl_pipelines.data.sources.base import SourceError

UNKNOWN_START = date(2020, 1, 1)
"""First day of a source that can't be read now (a folder that isn't mounted): the definitions load all the same."""

ALL_HISTORY_DAYS = 3650
MANY = 5
"""So many ranges of days are rather brought in by one run, which takes seconds to begin."""


def source_days(brief: Brief) -> list[date]:
    """Days with records. Raises SourceError."""
    return SOURCES.make(brief.data.source).days(brief.data.start)


def days(brief: Brief) -> dg.DailyPartitionsDefinition:
    """A partition a day, from the first day with records up to and with today, or the source's last day if later."""
    found: list[date] = []
    with suppress(SourceError):
        found = source_days(brief)
    start = brief.data.start or (found[0] if found else UNKNOWN_START)
    today = datetime.now(ZoneInfo(brief.data.timezone)).date()
    ahead = (found[-1] - today).days if found else 0
    return dg.DailyPartitionsDefinition(
        start_date=start.isoformat(), timezone=brief.data.timezone, end_offset=1 + max(0, ahead)
    )


def experiments(brief: Brief) -> dg.DynamicPartitionsDefinition:
    """The named overrides of a brief; `base` has none."""
    return dg.DynamicPartitionsDefinition(name=experiments_name(brief))


def experiments_name(brief: Brief) -> str:
    """Name of the dynamic partition."""
    return f"{brief.project}_experiment"


@dataclass(frozen=True)
class Partitions:
    """Those of one brief. Its source is looked at once: a large folder takes its time, and all assets have to agree.

    A model is of a day and an experiment; Dagster maps a day to that day x every experiment by itself.
    """

    days: dg.DailyPartitionsDefinition
    models: dg.MultiPartitionsDefinition

    @classmethod
    def of(cls, brief: Brief) -> "Partitions":
        """The partitions that there are now."""
        daily = days(brief)
        return cls(daily, dg.MultiPartitionsDefinition({"date": daily, "experiment": experiments(brief)}))


def window(brief: Brief) -> dg.TimeWindowPartitionMapping:
    """The days that a window looks back on. Nothing built in maps them to two dimensions: so it is an asset."""
    length = brief.data.window_days or ALL_HISTORY_DAYS
    return dg.TimeWindowPartitionMapping(start_offset=1 - length, allow_nonexistent_upstream_partitions=True)


def contiguous(found: list[date], there: list[date]) -> list[tuple[date, date]]:
    """Sorted days as ranges, one run each. A day without records is in none of them, unless there were MANY ranges.

    Then a range goes on over days that are not `there` (closed Sundays, a weekly series): the stages skip them.
    """
    ranges = _joined(found, {day: day.toordinal() for day in found})
    return ranges if len(ranges) < MANY else _joined(found, {day: place for place, day in enumerate(there)})


def _joined(found: list[date], place: Mapping[date, int]) -> list[tuple[date, date]]:
    """Ranges of days whose places follow each other."""
    ranges: list[tuple[date, date]] = []
    for day in found:
        if ranges and place[day] == place[ranges[-1][1]] + 1:
            ranges[-1] = (ranges[-1][0], day)
        else:
            ranges.append((day, day))
    return ranges
