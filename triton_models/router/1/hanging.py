"""A model, or one process of it, that answers nobody any more: it is ended, so that whoever waits gets an error.

This Triton knows no limit for a call that the router makes, and calls a process that hangs ready. Whoever watches the
server starts the model again, as after any death (serving/stubs.py). Knows no Triton.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from asked import ModelError

TICKS = os.sysconf("SC_CLK_TCK")
"""Of /proc, a second."""

PAUSE_S = 2.0
"""Looks are at most half a second apart."""

Whom = tuple[str, int]
"""A model and one of its processes, or 0."""


class Hung(ModelError):
    """It answered nobody for so long that its process was ended."""


class Hanging:
    """Calls under way by thread, each to one process of a model (over its line) or to any of them (0: through Triton).

    A process hangs that has ended no call for `limit` seconds while one waits so long for it; a model, when none of its
    processes has ended one. Who is slow but ends calls that others queue at is left alone. `end` ends one process of a
    model, or with 0 all; True when there was one.
    """

    def __init__(self, limit: float = math.inf, end: Callable[[str, int], bool] = lambda *_: False):
        self._limit, self._end = limit, end
        self._calls: dict[int, tuple[Whom, float]] = {}
        self._moved: dict[Whom, float] = {}
        self._ended: dict[Whom, float] = {}
        self._looked = self._resumed = time.monotonic()

    def asks(self, model: str, process: int = 0) -> None:
        """This thread asks a model, or a process of it, from now on."""
        self._calls[threading.get_ident()] = (model, process), time.monotonic()

    def done(self) -> None:
        """It has an answer, or an error."""
        whom, _ = self._calls.pop(threading.get_ident())
        self._moved[whom] = self._moved[whom[0], 0] = time.monotonic()

    def require_alive(self) -> None:
        """Raises Hung when whom this thread asks was ended since it does."""
        whom, since = self._calls[threading.get_ident()]
        if max(self._ended.get(whom, -math.inf), self._ended.get((whom[0], 0), -math.inf)) >= since:
            raise Hung(f"no answer for {self._limit:g} s; its process was ended, to be started again")

    def look(self) -> None:
        """Now and then: end what hangs. Time in which nobody looked, as this process stood still, counts for nobody."""
        now = time.monotonic()
        if now - self._looked > PAUSE_S:
            self._resumed = now
        self._looked = now
        calls = list(self._calls.values())
        hangs = {
            whom
            for whom, since in calls
            if now - max(since, self._moved.get(whom, since), self._ended.get(whom, since), self._resumed) > self._limit
        }
        for whom in hangs:
            before, self._ended[whom] = self._ended.get(whom, -math.inf), now  # known to those whom its end wakes
            if not self._end(*whom):
                self._ended[whom] = before
        self._forget(now - self._limit, {whom for whom, _ in calls})

    def _forget(self, old: float, asked: set[Whom]) -> None:
        """Of those that nobody asks, what is older than any call that may yet be found waiting for too long."""
        for times in (self._moved, self._ended):
            for whom, at in list(times.items()):
                if at < old and whom not in asked:
                    del times[whom]


def end_processes(repository: Path, limit: float, model: str, process: int = 0) -> bool:
    """End one Python process of a model of this server, or with 0 all, whose parent is ours too; False without one.

    One that started less than `limit` seconds ago may still be loading, or have a number that was another's: it is
    nobody's that waited so long.
    """
    found, latest = False, time.clock_gettime(time.CLOCK_BOOTTIME) - limit
    for path in [Path(f"/proc/{process}")] if process else Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            fields = (path / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if int(fields[1]) != os.getppid() or int(fields[19]) / TICKS > latest:
                continue
            if f"{repository}/{model}/".encode() in (path / "cmdline").read_bytes():
                print(f"router: ends process {path.name} of {model}, which hangs", file=sys.stderr, flush=True)
                os.kill(int(path.name), signal.SIGKILL)
                found = True
    return found
