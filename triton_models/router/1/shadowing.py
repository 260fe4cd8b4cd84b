"""The shadow sees requests that were answered already; its answers are logged and given to nobody. Knows no Triton.

What it can't keep up with is left out and counted: it never holds a client up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
from asked import Answer, Ask, Asked, told
from breaker import Breaker
from calls import Call, Calls, Overdue
from checks import worse
from counters import Counters
from hanging import Hung
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
        """Queue requests that have been answered; a batch of any size when nothing waits."""
        if self._breaker.is_open(table.revision, table.shadow):
            return
        size = _size(group)
        with self._lock:
            fits = not self._count or (self._count + len(group) <= MOST and self._bytes + size <= MOST_BYTES)
            if fits:
                self._count, self._bytes = self._count + len(group), self._bytes + size
        if fits:
            self._begin(group, table)
        else:
            self._counters.shadow("left_out", len(group))

    def _begin(self, group: Sequence[Asked], table: RoutingTable) -> None:
        """Have the shadow asked; a batch that fails is asked again one by one: a bad request fails alone."""

        def done(answer: Answer | None, error: BaseException | None, spent: float) -> None:
            outputs, spent = answer or (None, spent)
            why = told(error) if outputs is None else self._fault(group, outputs)
            if why and len(group) > 1 and not isinstance(error, Closed | Hung | Overdue):
                for one in group:
                    self._begin([one], table)
                return
            with self._lock:
                self._count, self._bytes = self._count - len(group), self._bytes - _size(group)
            if not isinstance(error, Closed):
                self._shown(group, table, outputs, why, 1000 * spent)

        def closed() -> Closed | None:
            return Closed() if self._breaker.is_open(table.revision, table.shadow) else None

        seconds = table.timeout_ms / 1000
        try:
            self._calls.start(Call(lambda: self._ask(table.shadow, group), done, seconds, None, closed))
        except RuntimeError:  # the system gives no thread
            self._counters.shadow("left_out", len(group))
            done(None, Closed(), 0.0)

    def _shown(
        self, group: Sequence[Asked], table: RoutingTable, outputs: np.ndarray | None, why: str, milliseconds: float
    ) -> None:
        """Log what it answered, a record a row, and count. A call without an answer counts once for the breaker."""
        found, at, start = list[records.Record](), time.time(), 0
        for place, one in enumerate(group):
            rows = None if why or outputs is None else outputs[start : start + one.rows]
            failure = why or worse(rows, one.outputs)
            start += one.rows
            self._counters.shadow("failed" if failure else "answered")
            for row in range(one.rows):
                kept = rows[row] if rows is not None and one.kept else None
                name = records.row_id(one.id, row, one.rows)
                record = records.shadow(name, at, table.shadow, table.revision, milliseconds, kept, failure)
                found.append(record)
            if not (why and place):
                self._note(table, failure)
        try:
            self._journal.append(found, flush=False)
        except LogError:
            self._counters.log_error()

    def _note(self, table: RoutingTable, failure: str) -> None:
        """Tell the breaker."""
        if not failure:
            self._breaker.worked(table.revision, table.shadow)
        elif self._breaker.failed(table.revision, ARM, table.shadow, table.breaker, failure):
            self.settle()

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


def _size(group: Sequence[Asked]) -> int:
    return sum(one.inputs.nbytes for one in group)


class Closed(Exception):
    """Its breaker opened while it waited."""
