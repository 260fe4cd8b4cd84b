"""An append-only log that survives `kill -9`: one line an append, `CRC32 JSON`, in segments of one writer each.

A line holds all records of its append, so that none is ever half there, and counts only with its newline: what follows
the last newline of a segment was never acknowledged. A writer holds a lock on its segment until the next one is there
(flock: gone with the process, whatever its id is given to next). Copied beside the router: standard library only. What
a record holds is the writer's business; who reads is in `log_reading`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import threading
import time
import uuid
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

SUFFIX, UNBORN = ".log", ".new"
SEGMENT_BYTES = 16 * 2**20
SEGMENT_SECONDS = 24 * 3600
"""A segment is followed by the next one at an append after so long, so that retention gets at it."""
Durability = Literal["process", "disk"]
"""What an appended record survives: the death of any process, or the loss of power."""

_text = json.JSONEncoder(separators=(",", ":"), allow_nan=False, ensure_ascii=True).encode


class LogError(ValueError):
    """A log can't be written or is damaged; says which file and what to do."""


def encode(records: Mapping[str, Any] | list[Mapping[str, Any]]) -> bytes:
    """One record, or several, as a line. Raises ValueError or TypeError on what JSON can't hold (NaN)."""
    body = _text(records).encode("ascii")
    return b"%08x %b\n" % (zlib.crc32(body), body)


def decode(line: bytes) -> list[dict[str, Any]] | None:
    """The records of a line without its newline, or None when the line is torn or damaged."""
    if len(line) < 10 or line[8:9] != b" ":
        return None
    try:
        expected = int(line[:8], 16)
    except ValueError:
        return None
    body = line[9:]
    if zlib.crc32(body) != expected:
        return None
    value = json.loads(body)
    return value if isinstance(value, list) else [value]


class _Round:
    """Who waits for the same flush."""

    def __init__(self) -> None:
        self.done = False
        self.error: OSError | None = None


class LogWriter:
    """Appends to segments that only this writer writes, named TIME-WRITER-NUMBER.log. Any thread may append.

    A segment is followed by the next one before it grows beyond `segment_bytes` (one append is never parted), after a
    day, or when it can't be trusted any more.
    """

    def __init__(self, folder: Path, durability: Durability = "process", segment_bytes: int = SEGMENT_BYTES):
        """Make the folder and the first segment. Raises LogError."""
        self._folder, self._disk, self._limit = folder, durability == "disk", segment_bytes
        self._name, self._number = f"{os.getpid()}x{uuid.uuid4().hex[:8]}", 0
        self._state = threading.Condition()
        self._round, self._flushing = _Round(), False
        self._damaged = False
        try:
            made = [each for each in folder.parents if not each.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            for each in (folder, *made) if self._disk else ():
                _flush_folder(each.parent)  # a folder is found after a loss of power only by its parent's entry
            self.path, self._handle = self._open()
        except OSError as error:
            raise self._refused(error) from error
        self._size, self._born = 0, time.monotonic()

    def append(self, records: Iterable[Mapping[str, Any]], flush: bool = True) -> None:
        """Write all records or none; returns when they are durable.

        With durability `disk` one flush serves all threads that wait; `flush=False` does not wait: the records survive
        any process, and get to the disk with the next flush. Raises LogError (no space): nothing of them may then be
        acknowledged; the next append tries again.
        """
        data = encode(list(records))
        with self._state:
            self._write(data)
            if not (flush and self._disk):
                return
            mine = self._round
            while self._flushing and not mine.done:
                self._state.wait()
            if leads := not mine.done:
                self._round, self._flushing = _Round(), True
        if leads:
            self._flush(mine)
        if mine.error is not None:
            raise self._refused(mine.error) from mine.error

    def _write(self, data: bytes) -> None:
        """Put a line at the end of a segment, whole; `_state` is held."""
        try:
            if self._damaged or self._full(len(data)):
                self._turn(len(data))
            written = os.write(self._handle, data)
            if written != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # it has written a part of it
        except OSError as error:
            self._mend()
            raise self._refused(error) from error
        self._size += written

    def _full(self, more: int) -> bool:
        grown, old = self._size + more > self._limit, time.monotonic() - self._born > SEGMENT_SECONDS
        return self._size > 0 and (grown or old)

    def _mend(self) -> None:
        """Cut half a line off; where that can't be done, the segment ends torn and another one follows."""
        try:
            os.ftruncate(self._handle, self._size)
        except OSError:
            self._damaged = True

    def _turn(self, more: int) -> None:
        """Go on in the next segment; the old one is let go only when that is there. `_state` is held."""
        while self._flushing:
            self._state.wait()
        if not (self._damaged or self._full(more)):
            return  # another thread did it meanwhile
        path, handle = self._open()
        if self._disk:
            self._settle(self._round, _flushed(self._handle))
        os.close(self._handle)
        self.path, self._handle, self._size, self._damaged = path, handle, 0, False
        self._born = time.monotonic()

    def _flush(self, mine: _Round) -> None:
        error: OSError | None = OSError(errno.EINTR, "the flush was interrupted")
        try:
            error = _flushed(self._handle)  # no other thread turns to the next segment meanwhile
        finally:
            with self._state:
                self._flushing = False
                self._settle(mine, error)

    def _settle(self, waiting: _Round, error: OSError | None) -> None:
        """Tell who waits. After an error the system may have dropped all that it held: the segment isn't used again."""
        for each in (waiting, self._round) if error else (waiting,):
            each.done, each.error = True, error
        if error:
            self._damaged = True
        if self._round.done:
            self._round = _Round()
        self._state.notify_all()

    def _open(self) -> tuple[Path, int]:
        """The next segment, locked before anyone can see it under its name."""
        path = self._folder / f"{time.time_ns():020d}-{self._name}-{self._number:06d}{SUFFIX}"
        unborn = path.with_suffix(UNBORN)
        handle = os.open(unborn, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unborn.rename(path)
            if self._disk:
                _flush_folder(self._folder)
        except OSError:
            os.close(handle)
            for left in (unborn, path):
                left.unlink(missing_ok=True)
            raise
        self._number += 1
        return path, handle

    def _refused(self, error: OSError) -> LogError:
        return LogError(
            f"found that the log in {self._folder} can't be written ({error.strerror}); expected room there; free some "
            "space and ask again"
        )

    def close(self) -> None:
        """Flush and let go of the segment; an empty one is removed."""
        with self._state:
            while self._flushing:
                self._state.wait()
            if self._disk:
                self._settle(self._round, _flushed(self._handle))
            if self._size == 0:
                self.path.unlink(missing_ok=True)
            os.close(self._handle)
            self._handle = -1


def _flushed(handle: int) -> OSError | None:
    """Flush a file; the error, if any."""
    try:
        os.fdatasync(handle)
    except OSError as error:
        return error
    return None


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def has_writer(path: Path) -> bool:
    """Whether a living process still writes this segment. Raises FileNotFoundError."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
        return True
    finally:
        os.close(handle)
