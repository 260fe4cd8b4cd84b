"""An append-only log of records that survives `kill -9`: one line a record, `CRC32 JSON`, one file a writer.

A writer opens a file of its own, so a torn line can only be the end of a file, and is never read. Copied beside the
router: standard library only. What a record holds is the writer's business.
"""

from __future__ import annotations

import json
import os
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

SUFFIX = ".log"
Durability = Literal["process", "disk"]
"""What an appended record survives: the death of any process, or the loss of power."""


class LogError(ValueError):
    """A log can't be written or is damaged; says which file and what to do."""


def encode(record: Mapping[str, Any]) -> bytes:
    """One record as a line. Raises ValueError or TypeError on what JSON can't hold (NaN)."""
    body = json.dumps(record, separators=(",", ":"), allow_nan=False, ensure_ascii=True).encode("ascii")
    return b"%08x %b\n" % (zlib.crc32(body), body)


def decode(line: bytes) -> dict[str, Any] | None:
    """The record of a line without its newline, or None when the line is torn or damaged."""
    if len(line) < 10 or line[8:9] != b" ":
        return None
    try:
        expected = int(line[:8], 16)
    except ValueError:
        return None
    body = line[9:]
    return json.loads(body) if zlib.crc32(body) == expected else None


class LogWriter:
    """Appends to a file that only this writer writes. `append` returns when the records are durable."""

    def __init__(self, folder: Path, durability: Durability = "process"):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{time.time_ns():020d}-{os.getpid()}-{uuid.uuid4().hex[:6]}{SUFFIX}"
        self._disk = durability == "disk"
        self._handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._size = 0
        if self._disk:
            self._flush_folder(folder)

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write all records or none. Raises LogError (no space): nothing of them may then be acknowledged."""
        data = b"".join(encode(record) for record in records)
        try:
            written = os.write(self._handle, data)
            if written != len(data):
                raise OSError(28, f"only {written} of {len(data)} bytes were written")
            if self._disk:
                os.fdatasync(self._handle)
        except OSError as error:
            os.ftruncate(self._handle, self._size)
            raise LogError(
                f"found that {self.path.name} can't be written ({error.strerror}); expected room in {self.path.parent};"
                " free some space and ask again"
            ) from error
        self._size += written

    def close(self) -> None:
        """Close the file; an empty one is removed."""
        os.close(self._handle)
        if self._size == 0:
            self.path.unlink(missing_ok=True)

    @staticmethod
    def _flush_folder(folder: Path) -> None:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_file(path: Path) -> Iterator[dict[str, Any]]:
    """The records of one file, in order. What follows the last whole record is a torn tail and is left out.

    Raises LogError when a damaged line has a sound one after it: that is not a tail.
    """
    broken: int | None = None
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        record = decode(line)
        if record is None:
            broken = broken or (number if line else None)
        elif broken:
            raise LogError(
                f"found line {broken} of {path} damaged; expected damage only at the end of a file; restore it from a "
                "copy, or move the file away to go on without its records"
            )
        else:
            yield record


def read_folder(folder: Path) -> Iterator[dict[str, Any]]:
    """The records of every file of a folder, oldest file first. Raises LogError."""
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        yield from read_file(path)
