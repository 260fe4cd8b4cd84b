"""Who may send live requests: free clients, or held-back records replayed as live days. Serving itself is elsewhere."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator

from dl_pipelines.brief.references import Augmentation
from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.brief.sections import Data
from dl_pipelines.store.digest import digest_bytes
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.tasks.base import Rows, Task

STAGE = "prediction_log"
DRAW = 0
"""Which variant of a record is replayed: stored copies count from 1, online ones downwards from -1."""

BATCH = 50
"""Requests between two words on progress."""


class Clients:
    """Whoever asks the server by himself: nothing is sent."""

    class Params(BaseParams):
        """None."""

    def __init__(self, params: Params):
        self.params = params

    @property
    def windows(self) -> tuple[str, ...]:
        """See Traffic.windows: none."""
        return ()

    def send(self, workspace: Workspace, task: Task, data: Data) -> list[str]:
        """See Traffic.send: no windows."""
        return []


class Day(BaseModel):
    """One live day: how many held-back records it has, and by what they are shifted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,19}$", description="part of the request ids, and of the day's check")
    records: int = Field(ge=1)
    shift: tuple[Augmentation, ...] = ()


def request_id(day: str, name: str) -> str:
    """`replay/DAY/NAME`; what would be longer than an id may be ends with a digest of the name instead."""
    from dl_pipelines.wire.records import LONGEST_ID

    whole = f"replay/{day}/{name}"
    return whole if len(whole) <= LONGEST_ID else f"{whole[: LONGEST_ID - 17]}~{digest_bytes(name.encode())[:16]}"


class Replay:
    """Sends the source's held-back records, each once, as the days of the brief; the labels come right after.

    Days take consecutive records. A shift is decided by the seed and the record's id: the same on any machine.
    """

    class Params(BaseParams):
        """The days, in order."""

        days: tuple[Day, ...] = Field(min_length=1)

        @field_validator("days")
        @classmethod
        def _unique(cls, value: tuple[Day, ...]) -> tuple[Day, ...]:
            if len({day.name for day in value}) != len(value):
                raise ValueError("days with names that differ")
            return value

    def __init__(self, params: Params):
        self.params = params

    @property
    def windows(self) -> tuple[str, ...]:
        """See Traffic.windows: the days of the brief."""
        return tuple(day.name for day in self.params.days)

    def send(self, workspace: Workspace, task: Task, data: Data) -> list[str]:
        """See Traffic.send: names of the days.

        What the log has is not sent again, so that a run that was interrupted goes on, and one that was not sends
        nothing. Raises SourceError before anything is sent when too few records are held back, PredictError,
        TritonError, LogError.
        """
        import numpy as np

        from dl_pipelines.data.registry import SOURCES
        from dl_pipelines.serving.labels import add_labels
        from dl_pipelines.serving.prediction_log import answered_ids

        source, start = SOURCES.make(data.source), 0
        days: dict[str, Rows] = {}
        for day in self.params.days:
            days[day.name] = source.live_rows(start, day.records, task)
            start += day.records
        answered = answered_ids(workspace)
        for day in self.params.days:
            rows = days[day.name]
            ids = [request_id(day.name, name) for name in rows.ids]
            left = np.array([place for place, name in enumerate(ids) if name not in answered], int)
            if len(left):
                self._ask(workspace, task, data, day, rows.take(left), [ids[place] for place in left])
            add_labels(workspace, dict(zip(ids, task.labels_of(rows.targets), strict=True)))
        return list(days)

    def _ask(self, workspace: Workspace, task: Task, data: Data, day: Day, rows: Rows, request_ids: list[str]) -> None:
        """Send rows under these ids, as the day shifts them."""
        from dl_pipelines.data.augmentation import variants
        from dl_pipelines.serving.client import predict

        inputs = rows.inputs
        if day.shift:
            inputs, _ = variants(inputs, rows.targets, rows.ids, day.shift, data.augmentation.seed, DRAW)
        for start in range(0, len(request_ids), BATCH):
            workspace.progress(STAGE, f"sending the live day {day.name}", start, len(request_ids))
            chosen = slice(start, start + BATCH)
            predict(workspace, task, inputs[chosen], request_ids[chosen])
