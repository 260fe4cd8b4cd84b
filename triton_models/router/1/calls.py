"""Calls of models that may hang: each ends exactly once, by what the model gave or at its deadline. Knows no Triton.

A call runs on a thread of its own kind; one that is overdue is written off together with its thread, which is replaced.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MOST_HUNG = 64
"""Threads that may hang at once; beyond them calls wait for the ones that do, until their own deadline."""

LOOK_S = 0.05


class Overdue(Exception):
    """No answer within the time given."""


@dataclass(eq=False)
class Call:
    """Work that gives a result or raises, and who is told: `done(result, exception, seconds)`, one of the first None.

    `deadline` is of time.monotonic; None sets it `seconds` after the work began. `unless` is asked right before the
    work: what it returns, when not None, is what the call ends with instead.
    """

    work: Callable[[], Any]
    done: Callable[[Any, BaseException | None, float], None]
    seconds: float
    deadline: float | None = None
    unless: Callable[[], BaseException | None] = lambda: None
    _begun: bool = False
    _ended: bool = False
    _replaced: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> bool:
        """False when it has ended already."""
        with self._lock:
            self._begun = not self._ended
        return self._begun

    def settle(self) -> bool:
        """True for the one who may end it."""
        with self._lock:
            first, self._ended = not self._ended, True
        return first

    def write_off(self, replace: Callable[[], bool]) -> bool:
        """The same for who watches the time; a thread that works on it is replaced if `replace` can."""
        with self._lock:
            if self._ended:
                return False
            self._ended = True
            self._replaced = self._begun and replace()
        return True

    @property
    def ended(self) -> bool:
        """Whether somebody ended it."""
        return self._ended

    @property
    def replaced(self) -> bool:
        """Whether another thread has the place of the one that worked on it."""
        return self._replaced


class Calls:
    """Threads for calls. The deadlines of one `Calls` are about equally far: they are looked at in order."""

    def __init__(self, name: str, threads: int):
        self._name, self._threads, self._hung = name, threads, 0
        self._waiting: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._late: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._watched: deque[Call] = deque()
        self._news, self._lock = threading.Event(), threading.Lock()
        self._lacking = [*[self._work] * threads, self._end_late, self._end_late, self._watch]
        self._closed = False

    def start(self, call: Call) -> None:
        """Have a call made; returns at once. Raises RuntimeError when the system gives no thread: it is not made."""
        if self._lacking:  # threads cost memory: a router without a challenger has none
            self._begin()
        if call.deadline is not None:
            self._watch_over(call)
        self._waiting.put(call)

    def close(self) -> None:
        """Let the threads end that do not hang."""
        self._closed = True
        for _ in range(self._threads + MOST_HUNG):
            self._waiting.put(None)
        self._late.put(None)
        self._late.put(None)
        self._news.set()

    def _begin(self) -> None:
        """Start the threads that are not there yet; what is refused now is tried again at the next call."""
        with self._lock:
            while self._lacking:
                self._thread(self._lacking[-1])
                self._lacking.pop()

    def _thread(self, target: Callable[[], None]) -> None:
        threading.Thread(target=target, name=self._name, daemon=True).start()

    def _watch_over(self, call: Call) -> None:
        self._watched.append(call)
        if not self._news.is_set():
            self._news.set()

    def _work(self) -> None:
        while (call := self._waiting.get()) is not None:
            result, error, spent = None, call.unless(), 0.0
            if error is None:
                if not call.begin():
                    continue
                if call.deadline is None:
                    call.deadline = time.monotonic() + call.seconds
                    self._watch_over(call)
                result, error, spent = _tried(call.work)
            if call.settle():
                _end(call, result, error, spent)
            elif call.replaced:  # it hung
                with self._lock:
                    self._hung -= 1
                return

    def _watch(self) -> None:
        while not self._closed:
            self._news.wait()
            self._news.clear()
            while self._watched:
                call = self._watched[0]
                left = 0 if call.ended else (call.deadline or 0) - time.monotonic()
                if left > 0:
                    time.sleep(min(left, LOOK_S))
                    continue
                if call.write_off(self._replace):
                    self._late.put(call)
                self._watched.popleft()

    def _replace(self) -> bool:
        with self._lock:
            if self._hung == MOST_HUNG:
                return False
            try:
                self._thread(self._work)
            except RuntimeError:  # the system gives no thread: the one that hangs keeps its place
                return False
            self._hung += 1
        return True

    def _end_late(self) -> None:
        while (call := self._late.get()) is not None:
            _end(call, None, Overdue(f"no answer within {1000 * call.seconds:g} ms"), call.seconds)


def _tried(work: Callable[[], Any]) -> tuple[Any, BaseException | None, float]:
    started = time.perf_counter()
    try:
        return work(), None, time.perf_counter() - started
    except Exception as error:  # noqa: BLE001 - given to who is told
        return None, error, time.perf_counter() - started


def _end(call: Call, result: Any, error: BaseException | None, spent: float) -> None:
    try:
        call.done(result, error, spent)
    except Exception as failure:  # noqa: BLE001 - the thread has other calls to make
        print(f"router: {type(failure).__name__} after a call: {failure}", file=sys.stderr, flush=True)
