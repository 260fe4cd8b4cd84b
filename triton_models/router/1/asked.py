"""One request on its way through the router, and what of its answer is written into the log. Knows no Triton."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from wire import records
from wire.routing import RoutingTable, place_of
from wire.summaries import Batch

LONGEST_TEXT = 200
DIGITS = 6
INVALID, UNAVAILABLE, INTERNAL = "INVALID_ARG", "UNAVAILABLE", "INTERNAL"
"""Triton's codes of errors: the client's own; ask again later; a model failed."""


class ModelError(Exception):
    """A model gave an error, or is not there."""


class Answer(NamedTuple):
    """A model's outputs [rows, ...], and the seconds that it took for them, waiting for nobody."""

    outputs: np.ndarray
    seconds: float


class Reply(Protocol):
    """How a client gets its answer: the first that is given."""

    detached: bool

    def detach(self) -> None:
        """It will be given by another thread, after the present batch is done. On the thread of the batch."""
        ...

    def give(self, asked: Asked) -> None:
        """Give outputs or error, unless something was given before."""
        ...


@dataclass(eq=False, slots=True)
class Asked:
    """A request: its rows, by what and to which arm it was assigned, and at last its outputs or its error.

    `inputs` [rows, ...], `tensor` the same as Triton has them. `at` is seconds since 1970, `started` of
    time.perf_counter, `milliseconds` what was spent in models, by which arms are compared. `by` and `model` are whose
    answer it gets. `answer` is outputs with the tensor that Triton has them in, should they be given unchanged.
    `summaries` has one of each row, once they were made.
    """

    id: str
    unit: str
    inputs: np.ndarray
    tensor: Any
    parameters: Mapping[str, Any]
    at: float
    started: float
    reply: Reply
    arm: str = ""
    model: str = ""
    by: str = ""
    failure: str = ""
    milliseconds: float = 0.0
    outputs: np.ndarray | None = None
    error: str = ""
    code: str = ""
    hashed: str = ""
    kept: bool = True
    answer: tuple[np.ndarray, Any] | None = None
    summaries: Sequence[Mapping[str, float | None]] | None = None

    @property
    def rows(self) -> int:
        """How many."""
        return len(self.inputs)

    def fail(self, error: str, code: str = INTERNAL) -> None:
        """It gets an error instead of outputs."""
        self.outputs, self.error, self.code = None, error, code


Ask = Callable[[str, Sequence[Asked]], Answer]
"""A model's answer to the rows of some requests. Raises ModelError."""


class Content:
    """What is kept of requests, as the brief's serving.log says."""

    def __init__(self, summarize: Batch, sample: float = 1.0, columns: Sequence[str] = ()):
        self._summarize, self._sample, self._columns = summarize, sample, tuple(columns)

    def mark(self, one: Asked, project: str) -> None:
        """Hash the unit, and decide by it whether the answer will be kept."""
        if not one.hashed:
            one.hashed = records.hashed_unit(project, one.unit)
            one.kept = self._sample >= 1 or place_of("sample", one.hashed) < self._sample

    def begin(self, asked: Sequence[Asked]) -> None:
        """Summarize while a model works. A failure is not that model's: `answered` meets it again, and raises it."""
        with contextlib.suppress(Exception):
            self.summarize(asked)

    def summarize(self, asked: Sequence[Asked]) -> None:
        """Give the requests that are kept the summaries of their rows, unless they have them.

        Numbers are rounded to DIGITS, None where there is none.
        """
        lacking = [one for one in asked if one.kept and one.summaries is None]
        if not lacking:
            return
        inputs = [one.inputs for one in lacking]
        found = self._summarize(inputs[0] if len(inputs) == 1 else np.concatenate(inputs))
        rows = np.round(list(found.values()), DIGITS).T.tolist()
        start = 0
        for one in lacking:
            one.summaries = [dict(zip(found, _numbers(row), strict=True)) for row in rows[start : start + one.rows]]
            start += one.rows

    def answered(self, asked: Sequence[Asked], table: RoutingTable) -> list[records.Record]:
        """The answers of some requests, a record a row; they have outputs."""
        self.summarize(asked)
        found: list[records.Record] = []
        for one in asked:
            columns = self._kept(one) if one.kept else {}
            given = one.arm, one.by, one.model, table.revision, one.milliseconds
            for row in range(one.rows):
                name = records.row_id(one.id, row, one.rows)
                outputs, summary = (one.outputs[row], one.summaries[row]) if one.kept else (None, {})
                record = records.answered(name, one.at, one.hashed, *given, outputs, summary, columns, one.failure)
                found.append(record)
        return found

    def _kept(self, one: Asked) -> Mapping[str, Any]:
        return {name: _plain(one.parameters[name]) for name in self._columns if name in one.parameters}


def _numbers(values: Sequence[float]) -> Sequence[float | None]:
    if math.isfinite(sum(values)):
        return values
    return [value if math.isfinite(value) else None for value in values]


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value[:LONGEST_TEXT].encode("utf-8", "replace").decode("utf-8")
    return value if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)) else None


def told(error: BaseException | None) -> str:
    """An error in words."""
    return str(error) or type(error).__name__
