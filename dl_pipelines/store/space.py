"""Whether an error means that the disk is full, whoever met it (Python, Lance, SQLite), and what to do about it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

_FULL = ("no space left on device", "database or disk is full", "disk quota exceeded")
_UNSAID = "disk i/o error"
"""SQLite's words when it can't make a file beside its database, for lack of room or otherwise."""
_LITTLE = 64 * 1024


def no_space(error: BaseException, place: Path | str | None = None) -> str | None:
    """What to tell when `error`, or what it came from, is a full disk; else None. `place` is a folder on that disk."""
    for cause in _chain(error):
        said = str(cause)
        if any(word in said.lower() for word in _FULL) or (_UNSAID in said.lower() and place and _is_full(place)):
            return (
                f"found no space left on the disk ({said.splitlines()[0]}); expected room for the home; free some "
                "(`dlp gc` removes old artifacts), or take a home on a larger disk with --home or DLP_HOME; then run "
                "again: what was finished is kept"
            )
    return None


def _is_full(place: Path | str) -> bool:
    try:
        return shutil.disk_usage(place).free < _LITTLE
    except OSError:
        return False


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
