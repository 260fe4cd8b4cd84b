"""The shadow sees requests that were answered already; its answers are logged and given to nobody. Knows no Triton.

What it can't keep up with is left out and counted: it never holds a client up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
from asked import Ask, Asked, told
from breaker import Breaker
from calls import Call, Calls
from checks import worse
from counters import Counters
from journal import Journal
from wire import records
from wire.log_format import LogError
from wire.routing import RoutingTable

ARM = "shadow"
MOST, MOST_BYTES = 64, 16 * 2**20
"""Requests that wait for the shadow, or are with it."""
THREADS = 2


class Shadowing:
    """Shows requests to the shadow of the routing table."""

    def __init__(
        self, ask: Ask, journal: Journal, breaker: Breaker, counters: Counters,
        fault: Callable[[Sequence[Asked], np.ndarray], str],
    ):  # fmt: skip
        self._ask, self._journal, self._breaker, self._counters, self._fault = ask, journal, breaker, counters, fault
        self._calls, self._lock = Calls(ARM, THREADS), threading.Lock()
        self._count, self._bytes = 0, 0

    def show(self, group: Sequence[Asked], table: RoutingTable) -> None:
        """Queue requests that have been answered."""
        model = table.shadow
        if self._breaker.is_open(table.revision, model):
            return
        size = sum(one.inputs.nbytes for one in group)
        with self._lock:
            fits = self._count + len(group) <= MOST and (not self._count or self._bytes + size <= MOST_BYTES)
            if fits:
                self._count, self._bytes = self._count + len(group), self._bytes + size
        if not fits:
            self._counters.shadow("left_out", len(group))
            return

        def done(outputs: np.ndarray | None, error: BaseException | None, spent: float) -> None:
            with self._lock:
                self._count, self._bytes = self._count - len(group), self._bytes - size
            if not isinstance(error, Closed):
                self._shown(group, table, outputs, error, 1000 * spent)

        def closed() -> Closed | None:
            return Closed() if self._breaker.is_open(table.revision, model) else None

        try:
            self._calls.start(Call(lambda: self._ask(model, group), done, table.timeout_ms / 1000, None, closed))
        except RuntimeError:  # the system gives no thread
            self._counters.shadow("left_out", len(group))
            done(None, Closed(), 0.0)

    def _shown(
        self, group: Sequence[Asked], table: RoutingTable, outputs: np.ndarray | None, error: BaseException | None,
        milliseconds: float,
    ) -> None:  # fmt: skip
        """Log what it answered, a record a row, and count."""
        why = told(error) if outputs is None else self._fault(group, outputs)
        found, at, start = list[records.Record](), time.time(), 0
        for one in group:
            rows = None if why or outputs is None else outputs[start : start + one.rows]
            failure = why or worse(rows, one.outputs)
            start += one.rows
            self._counters.shadow("failed" if failure else "answered")
            for row in range(one.rows):
                kept = rows[row] if rows is not None and one.kept else None
                name = records.row_id(one.id, row, one.rows)
                record = records.shadow(name, at, table.shadow, table.revision, milliseconds, kept, failure)
                found.append(record)
            if not failure:
                self._breaker.worked(table.revision, table.shadow)
            elif self._breaker.failed(table.revision, ARM, table.shadow, table.breaker, failure):
                self.settle()
        try:
            self._journal.append(found, flush=False)
        except LogError:
            self._counters.log_error()

    def settle(self) -> None:
        """Write what breakers have to tell; what can't be written is tried again at the next call."""
        try:
            self._breaker.settle(self._tell)
        except (LogError, OSError):
            self._counters.log_error()

    def _tell(self, revision: int, arm: str, model: str, why: str) -> None:
        self._journal.append([records.breaker(time.time(), arm, model, revision, why)])

    def close(self) -> None:
        """End the threads."""
        self._calls.close()


class Closed(Exception):
    """Its breaker opened while it waited."""
