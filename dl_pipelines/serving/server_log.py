"""The server's log by size: `server.log`, then `.1` to `.3`, oldest last. Standard library only.

The server writes to the file itself (opened to append), so that it never waits for a reader. A running server's file
is copied and then emptied; for the last lines its processes are stopped for some milliseconds, so that none is lost.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

KEPT = 3
BYTES = 16 << 20
MARK = "supervisor: "
"""What lines of the guardian have behind their time."""


class ServerLog:
    """The log of one home's server."""

    def __init__(self, path: Path, limit: int = BYTES):
        self.path, self.limit = path, limit
        self._said: set[str] = set()

    def say(self, text: str) -> None:
        """Add a line of the guardian's own. A disk that is full loses it."""
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with contextlib.suppress(OSError), self.path.open("a", encoding="utf-8") as file:
            file.write(f"{at} {MARK}{text}\n")

    def say_once(self, text: str) -> None:
        """Add a line that is not said again by this process; the first hundred of them."""
        if text not in self._said and len(self._said) < 100:
            self._said.add(text)
            self.say(text)

    def shift(self) -> None:
        """Give each file the next name, the oldest goes: nobody writes to them now."""
        for number in reversed(range(KEPT)):
            source = self._old(number)
            if source.exists():
                source.replace(self._old(number + 1))

    def rotate(self, processes: Callable[[], set[int]]) -> bool:
        """Empty a log that has grown too long, after it was copied; True when it did.

        `processes` tells who writes to it. A disk without room for the copy leaves it as it is. Raises OSError when
        older ones can't be renamed; it is left as it is then, too.
        """
        try:
            if self.path.stat().st_size < self.limit:
                return False
        except OSError:
            return False
        self._make_room()
        try:
            with self.path.open("rb+") as source, self._copy().open("wb") as target:
                shutil.copyfileobj(source, target)
                with paused(processes()):
                    shutil.copyfileobj(source, target)
                    source.truncate(0)
        except OSError:
            with contextlib.suppress(OSError):
                self._copy().unlink(missing_ok=True)
            return False
        self._copy().replace(self._old(1))
        return True

    def _make_room(self) -> None:
        """Free the name `.1`; where it is free already, after a copy that failed, none of the others moves."""
        taken = list(itertools.takewhile(lambda number: self._old(number).exists(), range(1, KEPT)))
        for number in reversed(taken):
            self._old(number).replace(self._old(number + 1))

    def _old(self, number: int) -> Path:
        return self.path.with_suffix(f".log.{number}") if number else self.path

    def _copy(self) -> Path:
        return self.path.with_suffix(".log.copy")


@contextlib.contextmanager
def paused(processes: set[int], patience: float = 0.5) -> Iterator[None]:
    """Processes stand still while the block runs, all their threads; it waits `patience` seconds for that."""
    try:
        for pid in processes:
            _signal(pid, signal.SIGSTOP)
        deadline = time.monotonic() + patience
        while not all(_stands(pid) for pid in processes) and time.monotonic() < deadline:
            time.sleep(0.0005)
        yield
    finally:
        for pid in processes:
            _signal(pid, signal.SIGCONT)


def _signal(pid: int, sign: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, sign)


def _stands(pid: int) -> bool:
    """Whether no thread of a process runs; one that is gone stands too."""
    for thread in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            if thread.read_text().rpartition(")")[2].split()[0] not in "TtZX":
                return False
    return True
