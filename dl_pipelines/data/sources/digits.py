"""The 1,797 handwritten digits that ship inside scikit-learn, replayed as daily arrivals.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998. A first day brings most of
them, then each day a steady number; the last ones are held back as later live traffic. Nothing is downloaded.
"""

from __future__ import annotations

import functools
import hashlib
from datetime import UTC, date, datetime, time, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.data.sources.base import Quarantined, Source, SourceError
from dl_pipelines.tasks.base import Task

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

TOTAL = 1797
SEED = 20260101
DEFAULT_DAYS = 4
"""`dlp run` without a date is about this day of the arrivals; later days bring a retraining something new."""


class Digits(Source):
    """Shuffled once by a fixed seed; the same on any machine."""

    name = "digits"

    class Params(BaseParams):
        """How the 1,797 records arrive. Counts are records."""

        first_day: date = date(2026, 1, 1)
        first_records: int = Field(default=1017, ge=1, le=TOTAL)
        per_day: int = Field(default=40, ge=1, le=TOTAL)
        live_records: int = Field(default=500, ge=0, le=TOTAL, description="held back as later live traffic")

        @model_validator(mode="after")
        def _fits(self) -> Digits.Params:
            if self.first_records + self.live_records > TOTAL:
                raise ValueError(f"first_records + live_records at most {TOTAL}, the digits there are")
            return self

    def __init__(self, params: Params):
        self.params = params

    @property
    def _arrivals(self) -> int:
        return TOTAL - self.params.live_records

    def _bounds(self, number: int) -> tuple[int, int]:
        """First and last + 1 position that arrives on day `number`, counted from 0."""
        given = self.params
        start = 0 if number == 0 else given.first_records + (number - 1) * given.per_day
        end = given.first_records + number * given.per_day
        return min(start, self._arrivals), min(end, self._arrivals)

    def days(self, start: date | None = None) -> list[date]:
        """See Source.days."""
        left = self._arrivals - self.params.first_records
        count = 1 + -(-left // self.params.per_day)
        found = [self.params.first_day + timedelta(days=number) for number in range(count)]
        return [day for day in found if start is None or day >= start]

    def default_day(self) -> date:
        """The fourth day of arrivals, or the last one when there are fewer."""
        return self.days()[:DEFAULT_DAYS][-1]

    def read_day(self, day: date, task: Task) -> tuple[pa.Table, list[Quarantined]]:
        """See Source.read_day; nothing is ever unreadable."""
        number = (day - self.params.first_day).days
        start, end = self._bounds(number) if number >= 0 else (0, 0)
        return self._table(start, end, day, task), []

    def live(self, start: int, count: int, task: Task) -> pa.Table:
        """See Source.live; the day is the one after the last arrivals."""
        first = self._arrivals + start
        if start < 0 or first + count > TOTAL:
            raise SourceError(
                f"found {self.params.live_records} held-back digits; expected {start + count} for live traffic; "
                "ask for fewer records in monitoring.traffic, or raise data.source.params.live_records"
            )
        return self._table(first, first + count, self.days()[-1] + timedelta(days=1), task)

    def describe(self) -> dict[str, Any]:
        """See Source.describe."""
        given = self.params
        return {
            "update_frequency": f"daily: {given.first_records} records on the first day, then {given.per_day} a day",
            "access": "in the process, from scikit-learn's package data",
            "types": "grey images, 8 x 8 pixels, one digit each",
            "format": "Lance",
        }

    def _table(self, start: int, end: int, day: date, task: Task) -> pa.Table:
        import numpy as np
        import pyarrow as pa

        if task.kind != "image":
            raise SourceError(
                f"found the task {task.name}, of the kind {task.kind}; expected image_classification for digits; "
                "change problem.task or data.source"
            )
        images, labels, positions = _load()
        chosen = slice(start, end)
        pixels = _fit(images[chosen], task)
        noon = datetime.combine(day, time(12), tzinfo=UTC)
        count = len(pixels)
        values = {
            "id": [f"digit-{position:04d}" for position in positions[chosen]],
            "date": [day] * count,
            "event_time": [noon] * count,
            "group": [f"digit-{position:04d}" for position in positions[chosen]],
            "image": pa.FixedSizeListArray.from_arrays(pa.array(pixels.reshape(-1)), int(np.prod(pixels.shape[1:]))),
            "label": labels[chosen].astype(np.int64),
            "mode": ["L"] * count,
            "source_height": np.full(count, 8, np.int32),
            "source_width": np.full(count, 8, np.int32),
            "sha256": [hashlib.sha256(image.tobytes()).hexdigest() for image in images[chosen]],
            "uri": [f"sklearn.datasets.load_digits#{position}" for position in positions[chosen]],
        }
        schema = task.arrow_schema()
        unknown = [name for name in schema.names if name not in values]
        if unknown:
            raise SourceError(
                f"found a task with the columns {', '.join(unknown)}; expected image classification for digits"
            )
        return pa.table([pa.array(values[name], schema.field(name).type) for name in schema.names], schema=schema)


@functools.cache
def _load() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images uint8 [1797, 8, 8] in 0..255, labels [1797], original positions [1797], in the fixed order.

    The package's own file is read, because importing scikit-learn takes seconds; a test compares with `load_digits`.
    """
    import numpy as np

    spec = find_spec("sklearn")  # finds the package without importing it
    places = list(spec.submodule_search_locations or ()) if spec else []
    file = Path(places[0]) / "datasets" / "data" / "digits.csv.gz" if places else None
    if file is None or not file.is_file():
        raise SourceError(
            f"found no {file or 'scikit-learn'}; expected the digits that ship inside it; run `make setup`"
        )
    content = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    order = np.random.default_rng(SEED).permutation(TOTAL)
    images = np.round(content[order, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return images, content[order, -1].astype(np.int64), order


def _fit(images: np.ndarray, task: Task) -> np.ndarray:
    """[N, 8, 8] uint8 to the task's [N, H, W, C]: repeated to the size by nearest pixel, grey to every channel."""
    import numpy as np

    height, width, channels = task.signature().inputs[0].shape
    rows, columns = np.arange(height) * 8 // height, np.arange(width) * 8 // width
    scaled = images[:, rows][:, :, columns]
    return np.ascontiguousarray(np.repeat(scaled[..., None], channels, axis=3))
