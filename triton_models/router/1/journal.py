"""The prediction log of one router, opened when it is first needed: a full disk is each client's error, then no more.

Knows no Triton; what a segment is, is wire/log_format.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from wire.log_format import Durability, LogWriter


class Journal:
    """Appends to the log; thread-safe."""

    def __init__(self, folder: Path, durability: Durability, segment_bytes: int):
        self._given = folder, durability, segment_bytes
        self._lock = threading.Lock()
        self._writer: LogWriter | None = None

    def append(self, records: Iterable[Mapping[str, Any]], flush: bool = True) -> None:
        """Write all or none; returns when they are durable (`flush=False`: safe from the end of any process).

        Raises LogError; the next append tries again.
        """
        (self._writer or self._open()).append(records, flush)

    def _open(self) -> LogWriter:
        with self._lock:
            if self._writer is None:
                self._writer = LogWriter(*self._given)
        return self._writer

    def close(self) -> None:
        """Close it."""
        with self._lock:
            if self._writer is not None:
                self._writer.close()
