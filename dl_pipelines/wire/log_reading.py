"""Reads the segments of `log_format`, also while they are written: only whole lines, and damage is never skipped.

Copied beside the router: standard library only. What the records mean is the reader's business.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .log_format import SUFFIX, LogError, decode

CHUNK_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Chunk:
    """Records of a segment in order, and the offset in bytes behind the last line that they are of."""

    records: list[dict[str, Any]]
    end: int
    damage: LogError | None = None
    """A line at `end` is damaged and a sound one follows: that is not a torn tail."""


def segments(folder: Path) -> list[Path]:
    """The segments of a folder, oldest first; none when there is no folder."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def writer_of(segment: str) -> tuple[str, int]:
    """Who writes a segment of this file name, and which of his it is."""
    _, _, rest = segment.removesuffix(SUFFIX).partition("-")
    writer, _, number = rest.rpartition("-")
    return (writer, int(number)) if writer and number.isdigit() else (segment, 0)


def read_chunk(path: Path, start: int = 0, size: int = CHUNK_BYTES) -> Chunk:
    """The whole lines from the offset `start` on, of about `size` bytes. No records: nothing whole follows, as yet.

    Raises FileNotFoundError.
    """
    with path.open("rb") as file:
        file.seek(start)
        data = file.read(size)
        while b"\n" not in data and (more := file.read(size)):
            data += more
    records: list[dict[str, Any]] = []
    for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
        found = decode(line[:-1])
        if found is None:
            return Chunk(records, start, _damage(path, start, start + len(line)))
        records += found
        start += len(line)
    return Chunk(records, start)


def _damage(path: Path, at: int, after: int) -> LogError | None:
    with path.open("rb") as file:
        file.seek(after)
        if all(decode(line[:-1]) is None for line in file):
            return None
    return LogError(
        f"found the line at byte {at} of {path} damaged; expected damage only at the end of a file; restore it from a "
        "copy, or move the file away to go on without its records"
    )


def read_file(path: Path) -> Iterator[dict[str, Any]]:
    """The records of one segment, in order. What follows the last whole line is a torn tail and is left out.

    Raises LogError when a damaged line has a sound one after it.
    """
    start = 0
    while True:
        chunk = read_chunk(path, start)
        yield from chunk.records
        if chunk.damage:
            raise chunk.damage
        if chunk.end == start:
            return
        start = chunk.end


def read_folder(folder: Path) -> Iterator[dict[str, Any]]:
    """The records of every segment of a folder, oldest segment first. Raises LogError."""
    for path in segments(folder):
        yield from read_file(path)
