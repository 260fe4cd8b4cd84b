"""A model that answers nobody any more: its processes are ended, so that whoever waits gets an error.

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


class Hung(ModelError):
    """It answered nobody for so long that its process was ended."""


class Hanging:
    """Calls under way by thread. A model hangs that has ended no call for `limit` seconds while one waits so long.

    A slow one that others queue at ends calls: it is left alone. `end` ends the processes of a model; True when it had
    one.
    """

    def __init__(self, limit: float = math.inf, end: Callable[[str], bool] = lambda _: False):
        self._limit, self._end = limit, end
        self._calls: dict[int, tuple[str, float]] = {}
        self._moved: dict[str, float] = {}
        self._ended: dict[str, float] = {}
        self._looked = self._resumed = time.monotonic()

    def begin(self, model: str) -> float:
        """This thread asks a model from now on; returns when that was, of time.monotonic."""
        now = time.monotonic()
        self._calls[threading.get_ident()] = model, now
        return now

    def done(self, model: str) -> None:
        """It has an answer, or an error."""
        del self._calls[threading.get_ident()]
        self._moved[model] = time.monotonic()

    def require_alive(self, model: str, begun: float) -> None:
        """Raises Hung when the model was ended since."""
        if self._ended.get(model, -math.inf) >= begun:
            raise Hung(f"no answer for {self._limit:g} s; its process was ended, to be started again")

    def look(self) -> None:
        """Now and then: end what hangs. Time in which nobody looked, as this process stood still, counts for nobody."""
        now = time.monotonic()
        if now - self._looked > PAUSE_S:
            self._resumed = now
        self._looked = now
        hangs = {
            model
            for model, since in list(self._calls.values())
            if now - max(since, self._moved.get(model, since), self._ended.get(model, since), self._resumed)
            > self._limit
        }
        for model in hangs:
            before, self._ended[model] = self._ended.get(model, -math.inf), now  # known to those whom its end wakes
            if not self._end(model):
                self._ended[model] = before


def end_processes(repository: Path, limit: float, model: str) -> bool:
    """End the Python processes of a model of this server, whose parent is ours too; False when there are none.

    One that started less than `limit` seconds ago may still be loading: it is nobody's that waited so long.
    """
    found, latest = False, time.clock_gettime(time.CLOCK_BOOTTIME) - limit
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            fields = (path / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if int(fields[1]) != os.getppid() or int(fields[19]) / TICKS > latest:
                continue
            if f"{repository}/{model}/".encode() in (path / "cmdline").read_bytes():
                print(f"router: ends process {path.name} of {model}, which hangs", file=sys.stderr, flush=True)
                os.kill(int(path.name), signal.SIGKILL)
                found = True
    return found
