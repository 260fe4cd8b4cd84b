"""A process that starts a server which commands share, and ends it when the last of them has gone, however it went.

Each command holds a shared lock on one file while it uses the server; the kernel lets go of it when the command dies,
also by SIGKILL. Run as a script, `guardian.py USERS LOG COMMAND...`: standard library only. It prints the server's pid
and goes to the background. With `-` for USERS it only starts the server, which then lives until somebody ends it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time

LOOK_SECONDS = 0.5
PATIENCE_SECONDS = 8.0


def main(users: str, log: str, command: list[str]) -> None:
    """Start `command` apart from whoever asked, so that neither waits for the other; see above."""
    if os.fork():
        os._exit(0)
    with open(log, "wb") as sink:  # noqa: PTH123 - a string from the command line
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
        )
    print(server.pid, flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whoever reads the pid sees the end of it
    if users != "-":
        guard(users, server)


def guard(users: str, server: subprocess.Popen[bytes]) -> None:
    """Wait until the server ends by itself or nobody holds `users`, then end it."""
    handle = os.open(users, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
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
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)  # its backends' processes, should it have been killed


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
