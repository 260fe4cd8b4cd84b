"""Which challengers are not asked any more: so many failures in a row, for one revision of the routing table.

It holds across a restart of the router by a marker beside the routing table; a new revision starts anew. The guardian
of the server writes one too (serving/blame.py), with what the router has to tell of it. Thread-safe.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

Key = tuple[int, str]
"""Revision of the routing table, model."""
Untold = tuple[str, Key, str]
"""Arm, key, why."""


class Breaker:
    """Counts failures in a row; opens at the limit, for good."""

    def __init__(self, marker: Path):
        self._marker, self._lock = marker, threading.Lock()
        self._row: dict[Key, int] = {}
        self._heard = False  # the first of them was told, but is not on disk
        opened, self._untold = _read(marker)
        self._told = opened - {key for _, key, _ in self._untold}
        self._open = set(opened)

    def is_open(self, revision: int, model: str) -> bool:
        """Whether the model is not to be asked under this revision."""
        return (revision, model) in self._open

    @property
    def remembered(self) -> tuple[str, ...]:
        """Models whose breakers are known to be open on disk."""
        return tuple(model for _, model in self._told)

    def worked(self, revision: int, model: str) -> None:
        """The model answered: failures before no longer count."""
        if self._row:
            with self._lock:
                self._row.pop((revision, model), None)

    def failed(self, revision: int, arm: str, model: str, limit: int, why: str) -> bool:
        """The model failed; True when this very failure opened the breaker: `settle` then has something to tell."""
        key = (revision, model)
        with self._lock:
            self._row[key] = self._row.get(key, 0) + 1
            if self._row[key] < limit or key in self._open:
                return False
            self._open.add(key)
            self._untold.append((arm, key, f"{limit} failures in a row, the last: {why}"))
            return True

    def settle(self, tell: Callable[[int, str, str, str], None]) -> None:
        """Tell (revision, arm, model, why) of each breaker that opened, then remember it on disk.

        What `tell` raises, and OSError, go on; the next call tries what is left. A crash between the two makes it be
        told again, not forgotten. What is older than this failure is dropped; a late failure drops nothing newer.
        """
        with self._lock:
            while self._untold:
                arm, (revision, model), why = self._untold[0]
                if not self._heard:
                    tell(revision, arm, model, why)
                    self._heard = True
                told = {key for key in self._told if key[0] >= revision} | {(revision, model)}
                _write(self._marker, told, self._untold[1:])
                self._told, self._heard = told, False
                del self._untold[0]


def _read(marker: Path) -> tuple[set[Key], list[Untold]]:
    """What is open, and what of it is still to be told."""
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
        opened = {(int(revision), str(model)) for revision, model in found["open"]}
        untold = [(str(arm), (int(at), str(model)), str(why)) for at, arm, model, why in found.get("untold", [])]
        return opened | {key for _, key, _ in untold}, untold
    except FileNotFoundError:
        return set(), []
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set(), []  # it is written whole: what is damaged was written by none of us; the challenger is tried anew


def _write(marker: Path, told: set[Key], untold: list[Untold]) -> None:
    """A router of an older version knows `open` alone."""
    content: dict[str, list] = {"open": sorted(told | {key for _, key, _ in untold})}
    if untold:
        content["untold"] = [(revision, arm, model, why) for arm, (revision, model), why in untold]
    fresh = marker.with_name(f".{marker.name}-{os.getpid()}")
    with fresh.open("w", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(marker)
