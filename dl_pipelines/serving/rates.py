"""What rate a model carries with some settings, by which protocol; and which of some settings carry most.

A part of benchmark.py: each rate is an open loop through a router of the model's own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dl_pipelines.brief.live import Serving
from dl_pipelines.serving import repository
from dl_pipelines.serving.capacity import LOWEST, PARTS, highest, place_of, rate_at
from dl_pipelines.serving.load_test import load_test
from dl_pipelines.serving.open_loop import OpenLoop, Step
from dl_pipelines.serving.probe import probed, router_pbtxt
from dl_pipelines.serving.process import TritonError
from dl_pipelines.serving.protocols import connecting
from dl_pipelines.serving.settings import PROTOCOLS, STAGE, Settings, in_words
from dl_pipelines.store import durable
from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.tasks.base import Signature

if TYPE_CHECKING:
    import numpy as np

REPEATS = 2
CLIENTS = 4
"""Of the closed loop whose throughput says where to begin."""
_BELOW = (2 * PARTS, PARTS)
"""Places below the highest rate that a curve shows too."""
TRIES = 2
"""Of a rate that broke while this machine had no core for the client: it may have been busy with something else."""
Row = dict[str, Any]
"""A candidate as plain data: the settings; `place` and `rate` that it carries, or `below` which that is; `limit`: why
the client may be what broke the next rate; `reason`: why there is none."""


@dataclass
class Rates:
    """One model with any settings. `rows` [N, ...] are asked for singly; `limit` is milliseconds of p99."""

    workspace: Workspace
    work: Path
    serving: Serving
    compressed: Artifact
    signature: Signature
    rows: np.ndarray
    limit: float
    _told: str = ""
    _steps: dict[int, Step] = field(default_factory=dict[int, Step])
    """Of the loop that is open, by place."""

    def own(self, settings: Settings) -> Row:
        """What the brief's own settings carry. Raises TritonError."""
        with self._loop(settings) as (loop, make):
            begin = load_test(make, self.rows, CLIENTS, self.serving.benchmark.seconds / 2)
            found = highest(lambda place: self._keeps(loop, place, TRIES), place_of(begin.throughput_rps / 2))
            return self._row(settings, found)

    def other(self, settings: Settings, best: int | None) -> Row:
        """What others carry, where it is more than the best so far: the rate above that one is tried first."""
        first = LOWEST if best is None else best + 1
        self.say(str(settings))
        try:
            with self._loop(settings) as (loop, _):
                found = highest(lambda place: self._keeps(loop, place), first) if self._keeps(loop, first) else None
                return self._row(settings, found, None if found is not None else rate_at(first))
        except TritonError as error:
            return {**self._row(settings, None), "limit": None, "reason": str(error)}

    def choose(self, rows: Sequence[Row]) -> tuple[Settings, str]:
        """The brief's own (the first row), unless the best other is better each time that both are tried in turn.

        They are tried at a rate between those that both carried: the best of many was also the luckiest.
        """
        own, *others = rows
        mine = Settings.read(own)
        better = [row for row in others if row["place"] is not None]
        if not better:
            return mine, "no other settings carry 11 % more than the brief's own"
        best = max(better, key=lambda row: row["place"])
        settings, place = Settings.read(best), ((own["place"] or LOWEST) + best["place"] + 1) // 2
        held = [(self._try(mine, place, turn), self._try(settings, place, turn)) for turn in range(REPEATS)]
        carried = f"{settings} carried {rate_of(best)}, the brief's own {rate_of(own)}"
        told = f"at {in_words(rate_at(place))}, tried {REPEATS} times in turn,"
        if all(other and not first for first, other in held):
            return settings, f"{carried}; {told} only the former kept the limit"
        return mine, f"{carried}, but {told} that did not repeat itself"

    def protocol(self, name: str, settings: Settings, near: int | None) -> dict[str, Any]:
        """The curve of one protocol: rates below the highest that keeps the limit, that one (`at`), and those above."""
        self.say(f"{PROTOCOLS[name]}, {settings}")
        begin, nothing = near or LOWEST, {"name": name, "at": None, "rate": None, "limit": None, "steps": []}
        try:
            with self._loop(settings, name) as (loop, _):
                for below in _BELOW:
                    self._keeps(loop, max(LOWEST, begin - below), TRIES)
                found = highest(lambda place: self._keeps(loop, place, TRIES), begin)
                places = sorted(self._steps)
                return {
                    **nothing, "reason": None, "limit": self._client_limit(found),
                    "at": None if found is None else places.index(found),
                    "rate": None if found is None else rate_at(found),
                    "steps": [self._steps[place].plain() for place in places],
                }  # fmt: skip
        except TritonError as error:
            return {**nothing, "reason": str(error)}

    def say(self, message: str, done: float | None = None, total: float | None = None) -> None:
        """Tell who watches."""
        self._told = message
        self.workspace.progress(STAGE, message, done, total)

    @contextlib.contextmanager
    def _loop(self, settings: Settings, protocol: str = "grpc") -> Iterator[tuple[OpenLoop, Any]]:
        """The model with these settings behind a router: open connections, and a function that makes one more.

        Held no longer than this takes: a promotion or a rollback waits meanwhile.
        """
        from tritonclient.utils import InferenceServerException

        serving, folder = settings.applied(self.serving), self.work / "model"
        durable.remove_tree(folder)
        repository.write_model(folder, self.compressed, self.signature, serving)
        text = router_pbtxt(self.workspace.project, self.signature, serving)
        self._steps = {}
        try:
            with probed(self.workspace, folder, text) as live:
                make = connecting(protocol, live.server, live.router, self.signature, serving.timeout_ms)
                with OpenLoop(make, self.rows) as loop:
                    yield loop, make
        except (InferenceServerException, OSError) as error:
            raise TritonError(f"found no answer by {PROTOCOLS[protocol]} with {settings}: {error}") from error

    def _keeps(self, loop: OpenLoop, place: int, tries: int = 1) -> bool:
        """Whether a rate keeps the limit, looked at once. Raises TritonError when nothing is answered."""
        rate = rate_at(place)
        while place not in self._steps:
            self.workspace.progress(STAGE, f"{self._told}: {in_words(rate)}")
            step, tries = loop.step(rate, self.serving.benchmark.seconds), tries - 1
            if step.failed == step.requests:
                raise TritonError(f"found that all of {step.requests} requests failed: {step.failure}")
            if step.keeps(self.limit) or not step.saturated or tries < 1:
                self._steps[place] = step
        return self._steps[place].keeps(self.limit)

    def _try(self, settings: Settings, place: int, turn: int) -> bool:
        self.say(f"{settings}, turn {turn + 1} of {REPEATS}")
        try:
            with self._loop(settings) as (loop, _):
                return self._keeps(loop, place)
        except TritonError:
            return False

    def _row(self, settings: Settings, place: int | None, below: float | None = None) -> Row:
        rate, limit = None if place is None else rate_at(place), self._client_limit(place)
        return {**asdict(settings), "place": place, "rate": rate, "below": below, "limit": limit, "reason": None}

    def _client_limit(self, place: int | None) -> str | None:
        """Why the client may be what broke the next rate."""
        broken = [
            at for at, step in self._steps.items() if not step.keeps(self.limit) and (place is None or at > place)
        ]
        return self._steps[min(broken)].saturated if broken else None


def rate_of(row: Mapping[str, Any]) -> str:
    """What a row carries, in words."""
    if row["rate"] is not None:
        return in_words(row["rate"])
    return f"less than {in_words(row['below'])}" if row["below"] else "no rate"
