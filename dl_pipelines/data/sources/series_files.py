"""CSV or Parquet files of series: one file, a folder (also partitioned as `year=2024/...`), or a glob; a line a record.

Finding and reading files is in `tabular_files.py`; what is in them is made records in `series_parse.py`.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from dl_pipelines.data.sources.raw_series import ColumnParams, RawSource
from dl_pipelines.data.sources.series_parse import RawSeries
from dl_pipelines.data.sources.series_table import remembered
from dl_pipelines.data.sources.series_values import Reading
from dl_pipelines.data.sources.tabular_files import Form, Format, find, read

STATES = 2
"""States of files that a process keeps in memory."""


class SeriesFiles(RawSource):
    """Records of local files. They are read once a process, and again when one of them has changed."""

    name = "series_files"

    class Params(ColumnParams):
        """Where the files are and how they are read."""

        path: str = Field(min_length=1, description="a file, a folder or a glob; relative to where the command is run")
        format: Format | None = Field(default=None, description="default: as the files' names say")
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

    def describe(self) -> dict[str, Any]:
        """See Source.describe."""
        return {
            "update_frequency": "as files change; a record's day is that of its time",
            "access": "local files",
            "types": "numbers and words by item and day, CSV or Parquet",
            "format": "Lance",
        }

    @property
    def raw(self) -> RawSeries:
        """See RawSource.raw."""
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
