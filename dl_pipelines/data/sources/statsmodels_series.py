"""A small real series that ships inside statsmodels: carbon dioxide on Mauna Loa, a value a week, some missing.

Source: C. D. Keeling and T. P. Whorf, Atmospheric CO2 records, 2004; weeks from 1958-03-29 to 2001-12-29, in parts per
million by volume. A task about it counts steps of 7 days. Nothing is downloaded.
"""

from __future__ import annotations

import functools
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.data.sources.base import SourceError
from dl_pipelines.data.sources.series_parse import RawSeries
from dl_pipelines.data.sources.series_table import Columns, Series, SeriesSource, since
from dl_pipelines.data.sources.series_values import Reading


class StatsmodelsSeries(SeriesSource):
    """One series, one item with the name of the data set; its only column has that name too."""

    name = "statsmodels_series"

    class Params(BaseParams):
        """Which data set."""

        name: Literal["co2"] = "co2"

    def __init__(self, params: Params):
        self.params = params

    def days(self, start: date | None = None) -> list[date]:
        """See Source.days: one a week."""
        return since(_load(self.params.name).days, start)

    def series(self, wanted: Columns) -> Series:
        """See SeriesSource.series."""
        return _load(self.params.name).series(wanted)

    def describe(self) -> dict[str, Any]:
        """See Source.describe."""
        return {
            "update_frequency": "weekly, replayed from 1958 to 2001",
            "access": "in the process, from statsmodels' package data",
            "types": "carbon dioxide in parts per million, one real series with missing values",
            "format": "Lance",
        }


@functools.cache
def _load(name: str) -> RawSeries:
    """The package's own file is read, because importing statsmodels takes seconds; a test compares with its loader."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv

    spec = find_spec("statsmodels")  # finds the package without importing it
    places = list(spec.submodule_search_locations or ()) if spec else []
    file = Path(places[0]) / "datasets" / name / f"{name}.csv" if places else None
    if file is None or not file.is_file():
        raise SourceError(f"found no {file or 'statsmodels'}; expected the data that ships inside it; run `make setup`")
    options = pyarrow.csv.ConvertOptions(column_types={"date": pa.string()})
    table = pyarrow.csv.read_csv(file, convert_options=options)
    return RawSeries(
        table=table,
        files=np.full(table.num_rows, f"statsmodels.datasets.{name}", object),
        numbers=np.arange(1, table.num_rows + 1),
        columns={name: table.column_names},
        reading=Reading("date", None, name, "UTC"),
        where=f"statsmodels.datasets.{name}",
    )
