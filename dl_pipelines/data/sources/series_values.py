"""What values mean, of a column as it is in a file or a database: days, numbers, words; or why one can't be read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from dl_pipelines.data.sources.base import legible
from dl_pipelines.data.sources.series_table import EPOCH

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

NOTHING = {"", "na", "n/a", "#n/a", "nan", "null", "none", "-"}
"""What stands for a missing number, in small letters."""
TRUTH = {"true": 1.0, "false": 0.0}
NO_DAY = -(2**62)


@dataclass(frozen=True)
class Reading:
    """How a source's params say that a table is to be read."""

    time: str
    item: str | None
    series: str
    timezone: str
    time_format: str | None = None
    decimal: str = "."


def days_of(column: pa.ChunkedArray, reading: Reading) -> tuple[np.ndarray, dict[int, str]]:
    """Days since 1970 in the time zone, int64 [N], NO_DAY where there is none, with the reasons by row.

    A time without offset is local already; one with an offset belongs to the local day at that moment, so that days of
    23 and 25 hours are days like others.
    """
    zone = ZoneInfo(reading.timezone)

    def day_of(value: Any) -> int:
        if isinstance(value, date) and not isinstance(value, datetime):
            return (value - EPOCH).days
        if not isinstance(value, datetime):
            text = str(value).strip()
            moment = datetime.strptime(text, reading.time_format) if reading.time_format else _moment(text)
        else:
            moment = value
        return ((moment.astimezone(zone) if moment.tzinfo else moment).date() - EPOCH).days

    expected = f"one like {reading.time_format}" if reading.time_format else "ISO 8601 such as 2024-03-31"
    hint = f"expected {expected}; data.source.params.time_format says another form"

    def reason(value: Any) -> str:
        empty = value is None or not str(value).strip()
        return f"no {reading.time}, the time" if empty else f"found the {reading.time} {str(value)[:40]!r}; {hint}"

    import numpy as np

    return _mapped(_microseconds(column), day_of, reason, NO_DAY, np.dtype(np.int64))


def _moment(text: str) -> datetime:
    if len(text) < 8:
        raise ValueError("too short for a date")
    return datetime.fromisoformat(text)


def numbers_of(column: pa.ChunkedArray, name: str, decimal: str) -> tuple[np.ndarray, dict[int, str]]:
    """Numbers float64 [N], NaN where there is none, and the reason of each row whose value is no number."""
    import numpy as np
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.float64(), safe=False).to_numpy().astype(np.float64, copy=True), {}

    def number(value: Any) -> float:
        text = str(value).strip().lower()
        if value is None or text in NOTHING:
            return math.nan
        if text in TRUTH:
            return TRUTH[text]
        if "_" in text or (decimal != "." and "." in text):
            raise ValueError("Python's own spelling, or another decimal sign")
        return float(text.replace(decimal, "."))

    hint = f"with {decimal!r} as decimal sign (data.source.params.decimal)"
    return _mapped(column, number, lambda value: f"found the {name} {str(value)[:40]!r}; expected a number {hint}",
                   math.nan, np.dtype(np.float64))  # fmt: skip


def words_of(column: pa.ChunkedArray) -> np.ndarray:
    """Words, object [N]: trimmed text, None where there is none."""
    import numpy as np

    words, _ = _mapped(column, lambda value: None if value is None else legible(str(value).strip()) or None,
                       str, None, np.dtype(object))  # fmt: skip
    return words


def _microseconds(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Times that Python's datetime holds."""
    import pyarrow as pa

    kind = column.type
    return column.cast(pa.timestamp("us", kind.tz), safe=False) if pa.types.is_timestamp(kind) else column


def _mapped(
    column: pa.ChunkedArray, read: Callable[[Any], Any], reason: Callable[[Any], str], nothing: Any, dtype: np.dtype
) -> tuple[np.ndarray, dict[int, str]]:
    """`read` of each value, computed once for equal ones; `nothing` and the reason by row where it can't be read."""
    import numpy as np
    import pyarrow as pa

    plain = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
    encoded = plain.combine_chunks().dictionary_encode("encode")
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    values = encoded.dictionary.to_pylist()
    found, wrong = np.empty(len(values), dtype), {}
    for place, value in enumerate(values):
        try:
            found[place] = read(value)
        except (ValueError, OverflowError):
            found[place], wrong[place] = nothing, reason(value)
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    bad = np.flatnonzero(np.isin(codes, list(wrong))).tolist() if wrong else []
    return found[codes], {row: wrong[int(codes[row])] for row in bad}
