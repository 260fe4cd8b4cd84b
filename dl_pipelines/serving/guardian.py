"""A process that starts a server which commands share, and ends it when the last of them has gone, however it went.

Each command holds a shared lock on one file while it uses the server; the kernel lets go of it when the command dies,
also by SIGKILL. Run as a script, `guardian.py USERS LOG COMMAND...`: standard library only. Prints the server's pid.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time

LOOK_SECONDS = 0.5
PATIENCE_SECONDS = 8.0


def guard(users: str, log: str, command: list[str]) -> None:
    """Start `command`, wait until it ends by itself or nobody holds `users`, then end it."""
    handle = os.open(users, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    with open(log, "wb") as sink:  # noqa: PTH123 - a string from the command line
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT)
    try:
        print(server.pid, flush=True)
        while server.poll() is None and not _alone(handle):
            time.sleep(LOOK_SECONDS)
    finally:
        _end(server)


def _alone(handle: int) -> bool:
    """Whether no command uses the server; the lock is then ours, and a new command waits until the server ended."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _end(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is not None:
        return
    server.terminate()
    try:
        server.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    guard(sys.argv[1], sys.argv[2], sys.argv[3:])
