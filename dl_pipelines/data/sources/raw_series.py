"""What sources of series share whose records are a table as somebody keeps it: files, or a query's rows."""

from __future__ import annotations

from abc import abstractmethod
from datetime import date

from pydantic import Field

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.data.sources.base import Quarantined, TimeZone
from dl_pipelines.data.sources.series_parse import RawSeries
from dl_pipelines.data.sources.series_table import Columns, Series, SeriesSource, since


class ColumnParams(BaseParams):
    """What the columns mean that every such table has."""

    time: str = Field(default="date", description="the column that says of which day a record is")
    item: str | None = Field(default=None, description="the column that names the series; none: they are all one")
    series: str = Field(default="series", min_length=1, description="the name of that one series")
    timezone: TimeZone = Field(default="UTC", description="where days begin, for times with an offset")
    time_format: str | None = Field(default=None, description="as Python's strptime, %d.%m.%Y; default: ISO 8601")


class RawSource(SeriesSource):
    """A source that has its table in `raw`, as it is now."""

    @property
    @abstractmethod
    def raw(self) -> RawSeries:
        """The table. Raises SourceError."""

    def days(self, start: date | None = None) -> list[date]:
        """See Source.days. Raises SourceError."""
        return since(self.raw.days, start)

    def series(self, wanted: Columns) -> Series:
        """See SeriesSource.series."""
        return self.raw.series(wanted)

    def overlooked(self) -> list[Quarantined]:
        """See Source.overlooked: records without a usable time, broken lines, other files."""
        return list(self.raw.without_day)
