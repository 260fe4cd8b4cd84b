"""Who uses the server of a home: a shared file lock that each command holds while it does; see guardian.py."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

from dl_pipelines.store.home import Home

_guard = threading.Lock()
_held: dict[Path, tuple[int, int]] = {}
"""By home: the lock's handle and how many blocks of this process use the server."""


def users_file(home: Home) -> Path:
    """The file whose shared locks are the users."""
    home.locks.mkdir(parents=True, exist_ok=True)
    return home.locks / "server.users"


def enter(home: Home) -> None:
    """One more block of this process uses the server; waits while a guardian ends it."""
    with _guard:
        handle, count = _held.get(home.root, (-1, 0))
        if count == 0:
            handle = os.open(users_file(home), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(handle, fcntl.LOCK_SH)
        _held[home.root] = (handle, count + 1)


def entered(home: Home) -> bool:
    """Whether a block of this process uses the server."""
    with _guard:
        return _held.get(home.root, (-1, 0))[1] > 0


def leave(home: Home) -> int | None:
    """One block less. The last one gets a handle that locks every other command out when there is none: `close` it."""
    with _guard:
        handle, count = _held[home.root]
        if count > 1:
            _held[home.root] = (handle, count - 1)
            return None
        del _held[home.root]
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle
