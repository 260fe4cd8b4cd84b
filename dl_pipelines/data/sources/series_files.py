"""CSV or Parquet files of series: one file, a folder (also partitioned as `year=2024/...`), or a glob; a line a record.

Finding and reading files is in `tabular_files.py`; what is in them is made records in `series_parse.py`.
"""

from __future__ import annotations

from datetime import date
from typing import Any, Literal

from pydantic import Field, field_validator

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.data.sources.base import Quarantined, TimeZone
from dl_pipelines.data.sources.series_parse import RawSeries
from dl_pipelines.data.sources.series_table import Columns, Series, SeriesSource, remembered, since
from dl_pipelines.data.sources.series_values import Reading
from dl_pipelines.data.sources.tabular_files import Form, Format, find, read

STATES = 2
"""States of files that a process keeps in memory."""


class SeriesFiles(SeriesSource):
    """Records of local files. They are read once a process, and again when one of them has changed."""

    name = "series_files"

    class Params(BaseParams):
        """Where the files are and how they are read."""

        path: str = Field(min_length=1, description="a file, a folder or a glob; relative to where the command is run")
        time: str = Field(default="date", description="the column that says of which day a record is")
        item: str | None = Field(default=None, description="the column that names the series; none: they are all one")
        series: str = Field(default="series", min_length=1, description="the name of that one series")
        format: Format | None = Field(default=None, description="default: as the files' names say")
        timezone: TimeZone = Field(default="UTC", description="where days begin, for times with an offset")
        time_format: str | None = Field(default=None, description="as Python's strptime, %d.%m.%Y; default: ISO 8601")
        delimiter: str | None = Field(default=None, min_length=1, max_length=1, description="default: the header's")
        decimal: Literal[".", ","] = "."
        encoding: str = "utf-8"

        @field_validator("encoding")
        @classmethod
        def _known_encoding(cls, value: str) -> str:
            try:
                "".encode(value)
            except LookupError:
                raise ValueError("an encoding that Python knows, such as utf-8, latin-1 or cp1252") from None
            return value

    def __init__(self, params: Params):
        self.params = params

    def days(self, start: date | None = None) -> list[date]:
        """See Source.days. Raises SourceError."""
        return since(self._raw.days, start)

    def series(self, wanted: Columns) -> Series:
        """See SeriesSource.series."""
        return self._raw.series(wanted)

    def overlooked(self) -> list[Quarantined]:
        """See Source.overlooked: records without a usable time, broken lines, other files."""
        return list(self._raw.without_day)

    def describe(self) -> dict[str, Any]:
        """See Source.describe."""
        return {
            "update_frequency": "as files change; a record's day is that of its time",
            "access": "local files",
            "types": "numbers and words by item and day, CSV or Parquet",
            "format": "Lance",
        }

    @property
    def _raw(self) -> RawSeries:
        given = self.params
        found = remembered(("files", given), lambda: find(given.path, given.format))
        key = (given, found.state)
        if key not in _READ:
            made = read(found, Form(given.format, given.delimiter, given.encoding))
            while len(_READ) >= STATES:
                _READ.pop(next(iter(_READ)))
            _READ[key] = RawSeries(
                made.table,
                made.files,
                made.numbers,
                made.columns,
                Reading(given.time, given.item, given.series, given.timezone, given.time_format, given.decimal),
                made.where,
                made.overlooked,
            )
        return _READ[key]


_READ: dict[tuple[SeriesFiles.Params, str], RawSeries] = {}
