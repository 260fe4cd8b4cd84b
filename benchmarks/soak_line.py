"""What the soak of serving works on: a home with a served network, clients that remember each answer, the tables.

`Clients.acknowledged` is what the tables are held against: an id is in it once its answer was read.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving_home import Published, direct, served
from benchmarks.serving_models import tiny, tiny_outputs
from dl_pipelines.brief.live import Serving
from dl_pipelines.serving.client import Caller
from dl_pipelines.serving.protocols import HttpCaller
from dl_pipelines.serving.server import TritonServer
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.tasks.base import Signature

PROJECT = "soak"
TIMEOUT_MS = 5000.0
PAUSE = 0.005
"""Seconds a client rests after an answer: the cores are for the server too."""
Span = tuple[float, float]
"""From when to when, seconds of time.monotonic."""


@dataclass(frozen=True)
class Line:
    """A server that answers for PROJECT with `network`, of inputs [8, 8, 1] uint8."""

    server: TritonServer
    signature: Signature
    rows: np.ndarray
    expected: np.ndarray

    @property
    def workspace(self) -> Workspace:
        """Of the project."""
        return Workspace(self.server.home, PROJECT)

    @property
    def http(self) -> int:
        """The port; a server that is started again keeps it."""
        state = self.server.last()
        assert state is not None
        return state.http


@contextlib.contextmanager
def opened(folder: Path, durability: str = "process", others: Mapping[str, Published] | None = None) -> Iterator[Line]:
    """A line in a home below `folder`, until the block ends; `others` are served too. Raises TritonError."""
    folder.mkdir(parents=True, exist_ok=True)
    network = tiny(folder)
    serving = Serving.model_validate({"max_batch": 8, "durability": durability, "timeout_ms": TIMEOUT_MS})
    with served(folder / "home", {PROJECT: Published(network, serving), **(others or {})}) as server:
        yield Line(server, network.signature, network.rows, tiny_outputs(network.rows))


MODELS = (PROJECT, direct(PROJECT))


@dataclass
class Clients:
    """Threads that ask for single rows until the block ends: two thirds over gRPC, the others over HTTP.

    `asked` has when each began and how long it took, seconds, answered or not; `wrong` what was answered wrongly.
    """

    line: Line
    count: int = 3
    name: str = ""
    acknowledged: dict[str, bytes] = field(default_factory=dict[str, bytes])
    asked: list[tuple[float, float, bool]] = field(default_factory=list[tuple[float, float, bool]])
    wrong: list[str] = field(default_factory=list[str])
    failures: dict[str, int] = field(default_factory=dict[str, int])

    def __enter__(self) -> Clients:
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(self.count)]
        for thread in self._threads:
            thread.start()
        while not self.acknowledged and any(thread.is_alive() for thread in self._threads):
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def p99(self, without: list[Span] = []) -> float:  # noqa: B006 - only read
        """Milliseconds, of what was not under way in any of these spans. NaN when there is none."""
        times = [
            took for began, took, _ in self.asked
            if not any(began < end and began + took > start for start, end in without)
        ]  # fmt: skip
        return 1000 * float(np.quantile(times, 0.99)) if times else float("nan")

    def _connect(self, number: int) -> Any:
        given = PROJECT, self.line.signature, TIMEOUT_MS
        if number % 3 == 2:
            return HttpCaller(self.line.http, *given)
        return Caller.of(f"127.0.0.1:{self._grpc}", *given)

    @property
    def _grpc(self) -> int:
        state = self.line.server.last()
        assert state is not None
        return state.grpc

    def _work(self, number: int) -> None:
        from tritonclient.utils import InferenceServerException

        call, rows = self._connect(number), self.line.rows
        for place in itertools.count():
            if self._over.is_set():
                break
            row, name = place % len(rows), f"{self.name}{number}/{place}"
            started = time.monotonic()
            try:
                found = call(rows[row : row + 1], name)[0]
            except InferenceServerException as error:
                self.asked.append((started, time.monotonic() - started, False))
                reason = str(error)[:60]
                self.failures[reason] = self.failures.get(reason, 0) + 1
                call.close()  # a channel that failed waits for up to two minutes before it tries again
                time.sleep(0.05)
                call = self._connect(number)
                continue
            self.asked.append((started, time.monotonic() - started, True))
            self.acknowledged[name] = found.tobytes()
            if not np.allclose(found, self.line.expected[row], atol=1e-4):
                self.wrong.append(f"{name}: {found.tolist()}, expected {self.line.expected[row].tolist()}")
            time.sleep(PAUSE)
        call.close()


def missing(workspace: Workspace, acknowledged: Mapping[str, bytes]) -> dict[str, Any]:
    """Of acknowledged answers: `lost` are not in the table, `doubled` more than once, `changed` with other outputs.

    `denied`: events call them failed or unanswered. What the log has is carried before. Also how many `rows` there are.
    """
    import sqlalchemy as sa

    from dl_pipelines.serving.carry import carry_log
    from dl_pipelines.store.database import Database
    from dl_pipelines.store.tables import predictions, router_events

    while carry_log(workspace):
        pass
    left, doubled, changed, count = dict(acknowledged), 0, 0, 0
    with contextlib.closing(Database.of(workspace.home, workspace.project)) as database, database.begin() as connection:
        mine = sa.select(predictions.c.request_id, predictions.c.outputs)
        for row in connection.execute(mine.where(predictions.c.project == workspace.project)):
            count += 1
            found = left.pop(row.request_id, None)
            doubled += found is None and row.request_id in acknowledged
            changed += found is not None and found != row.outputs
        events = sa.select(router_events.c.request_id).where(router_events.c.project == workspace.project)
        denied = sorted({row.request_id for row in connection.execute(events)} & acknowledged.keys())
    return {"lost": sorted(left), "doubled": doubled, "changed": changed, "denied": denied, "rows": count}


def told(value: object) -> str:
    """For a list of faults."""
    return json.dumps(value)[:2000]
