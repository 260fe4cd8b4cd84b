"""A process that starts the server of a home, watches it, starts it again when it dies or hangs, and ends it.

Run as a script with its orders (state.py) on standard input; standard library only. It prints `started` and goes to
the background. A server that commands share ends with the last of them, however that went: each holds a shared lock on
one file, and the kernel lets go of it when the command dies. A kept one is watched until the guardian is ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dl_pipelines.serving import admin, process
from dl_pipelines.serving.blame import Blame
from dl_pipelines.serving.breaker import Breaker
from dl_pipelines.serving.control import Control
from dl_pipelines.serving.process import birth
from dl_pipelines.serving.server_log import ServerLog
from dl_pipelines.serving.state import (
    Orders,
    ServerState,
    read_state,
    start_limit,
    state_file,
    wanted_models,
    write_state,
)
from dl_pipelines.serving.stubs import Stubs, end_orphans, group_of
from dl_pipelines.store.home import Home

LOOK_SECONDS = 0.5
STEP_SECONDS = 0.05
PATIENCE_SECONDS = 8.0
FAILED_PROBES = 3
READS = b".cc:"
"""What Triton logs has it; it has read its command line then."""


class Server:
    """One server's process: our child, or one that was found."""

    def __init__(self, home: Home, pid: int, born: str, child: subprocess.Popen[bytes] | None = None):
        self._home, self.pid, self.born, self._child = home, pid, born, child

    @classmethod
    def start(cls, home: Home, command: list[str], log: Path) -> Server:
        """Raises OSError."""
        with log.open("ab") as sink:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
            )
        return cls(home, child.pid, birth(child.pid) or "", child)

    def gone(self) -> bool:
        """Whether it has ended."""
        return self._child.poll() is not None if self._child else birth(self.pid) != self.born

    def how(self) -> str:
        """How it ended, in words."""
        code = self._child.returncode if self._child else None
        if code is None:
            return "it ended"
        return f"it ended by {signal.Signals(-code).name}" if code < 0 else f"it ended with exit code {code}"

    def end(self, patience: float) -> None:
        """End it, and what is left of its process group: its backends' processes wait for it for ever.

        Once these have ended their models nothing is left to wait for; the server itself would take a second more.
        """
        for sign, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 10.0)):
            deadline = time.monotonic() + seconds
            if seconds and not self.gone():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, sign)  # the number is not given to another process: our child has it, or it lives
            while not self.gone() and time.monotonic() < deadline:
                if sign == signal.SIGTERM and set(group_of(self.pid)) <= {self.pid}:
                    break
                time.sleep(STEP_SECONDS)
        end_orphans(self._home, self.pid)


class Guardian:
    """Watches one server; `run` returns when there is nothing left to watch."""

    def __init__(self, orders: Orders):
        self.orders, self.home = orders, Home(Path(orders.home))
        self.log = ServerLog(self.home.server / "server.log", orders.log_bytes)
        self.control = Control(orders.http, admin.read_key(self.home), self.home.repository)
        self.crashes, self.blame = Breaker(orders.crashes, orders.window), Blame(self.home)
        self.restarts, self.last_exit, self.stopping = orders.restarts, "", False
        self._users = os.open(orders.users, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644) if orders.users else None
        self._alone = self.unwritten = False

    def begin(self) -> None:
        """Start the server, or take over one that lives; its state is written then. Raises OSError."""
        self._hidden_after = self.log.path.stat().st_size if self.log.path.exists() else 0
        if self.orders.adopt:
            self.server, self.orders = Server(self.home, *self.orders.adopt), replace(self.orders, adopt=None)
            self.log.say(f"watches the server {self.server.pid}, whose guardian had ended")
        else:
            load = [f"--load-model={name}" for name in wanted_models(self.home)]
            self.server = Server.start(self.home, [*self.orders.command, *load], self.log.path)
        self._limit = time.monotonic() + start_limit(self.home)
        self._answered, self._failed = time.monotonic(), 0
        self.stubs = Stubs(
            self.server.pid, self.home, self.control, self.log.say, self.orders.hang_seconds, self.orders.crashes
        )
        self._write(ServerState(
            self.server.pid, self.server.born, self.orders.http, self.orders.grpc, self.orders.metrics, False,
            not self.orders.users, time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()), os.getpid(),
            birth(os.getpid()) or "", self.restarts, self.last_exit,
        ))  # fmt: skip

    def run(self) -> None:
        """Until nobody wants the server, or it did not come up at first."""
        try:
            while (reason := self._watch()) and (self.state.ready or self.restarts) and self._again(reason):
                pass
        finally:
            self.server.end(PATIENCE_SECONDS)
            process.remove_regions(self.home)
            self._forget()

    def _forget(self) -> None:
        """Remove the state of a server that nobody wants any longer; of a kept one it says that it is to be kept."""
        last = read_state(self.home)
        if self.orders.users and last and last.guardian == os.getpid():
            with contextlib.suppress(OSError):
                state_file(self.home).unlink()

    def _watch(self) -> str:
        """Look after the server; returns why it has to be started again, empty when it is not wanted any longer."""
        while not self._unwanted():
            if self.server.gone():
                return self.server.how()
            if self._hidden_after is not None:
                self._tried(self._hide_key)
            if trouble := self._tried(self._trouble):
                self.log.say(f"ends the server {self.server.pid}: {trouble}")
                self.server.end(0)
                return trouble
            self._pause(LOOK_SECONDS if self.state.ready else STEP_SECONDS)
        return ""

    def _hide_key(self) -> None:
        """Overwrite the admin key in the server's command line, once, as soon as Triton has read it.

        Where the system does not let us, as of a server that is no child of ours, that is said and left.
        """
        assert self._hidden_after is not None
        with self.log.path.open("rb") as log:
            log.seek(self._hidden_after)
            if READS not in log.read(1 << 16) and not self.state.ready:
                return
        try:
            admin.hide_key(self.server.pid, self.server.born, admin.read_key(self.home))
        except PermissionError as error:
            self.log.say_once(f"could not hide the admin key in the server's command line: {error}")
        self._hidden_after = None

    def _trouble(self) -> str:
        """What is wrong with a server that lives."""
        now = time.monotonic()
        if self.control.ready(min(2, self.orders.hang_seconds / FAILED_PROBES)):
            self._look_after(now)
            return ""
        if self.server.gone():
            return ""
        self._failed += 1
        if not self.state.ready:
            return "it was not ready in time" if now > self._limit else ""
        silent = time.monotonic() - self._answered
        hung = silent > self.orders.hang_seconds and self._failed >= FAILED_PROBES
        return f"it did not answer for {silent:.0f} s" if hung else ""

    def _look_after(self, now: float) -> None:
        """Of a server that answers: its state file, its backends' processes, its log."""
        self._answered, self._failed = time.monotonic(), 0
        failing = "; ".join(f"{name}: {why}" for name, why in sorted(self.stubs.failing.items()))
        if self.unwritten or not self.state.ready or failing != self.state.failing:
            self._write(replace(self.state, ready=True, failing=failing))
        self._tried(lambda: self.stubs.look(now))
        if self._tried(lambda: self.log.rotate(lambda: set(group_of(self.server.pid)))):
            self.log.say(f"rotated at {self.orders.log_bytes} bytes")

    def _tried(self, look: Callable[[], Any]) -> Any:
        """What a look gives; an error of ours is no reason to end a healthy server: said, tried again at the next."""
        try:
            return look()
        except Exception as error:  # noqa: BLE001 - see above
            self.log.say_once(f"could not look after the server: {type(error).__name__}: {error}")
            return None

    def _again(self, reason: str) -> bool:
        """Clear what the dead server left and start it again, later each time; False when it is not wanted any longer.

        A server that crashes again and again is given up for a minute, then tried once more, and so on.
        """
        end_orphans(self.home, self.server.pid)
        process.remove_regions(self.home)
        for verdict in self._tried(lambda: self.blame.died(time.monotonic())) or ():
            self.log.say(verdict)
        while True:
            now = time.monotonic()
            self.crashes.failed(now)
            self.last_exit = f"{reason} at {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())} UTC"
            self._rest(now, reason)
            if self._unwanted():
                return False
            self.restarts += 1
            try:
                self.begin()
                return True
            except OSError as error:
                reason = f"it can't be started: {error}"

    def _rest(self, now: float, reason: str) -> None:
        """Wait before the next try, while somebody wants it."""
        wait = self.crashes.wait(now)
        if self.crashes.open(now):
            wait = self.crashes.window
            why = f"{self.crashes.limit} crashes within {wait:g} s, the last: {reason}"
            self.log.say(f"gives up for {wait:g} s: {why}")
            self._write(replace(self.state, ready=False, last_exit=self.last_exit, gave_up=why))
        else:
            self.log.say(f"the server {self.server.pid} is gone: {reason}; starting it again in {wait:g} s")
        while (left := now + wait - time.monotonic()) > 0 and not self._unwanted():
            self._pause(min(left, LOOK_SECONDS), server=False)

    def _unwanted(self) -> bool:
        """Whether it was told to end, its home was removed, or no command uses the server.

        The lock is ours in the last case, and new commands wait.
        """
        if self._users is not None and not self._alone:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._alone = True
        return self.stopping or self._alone or not self.home.root.exists()

    def _pause(self, seconds: float, server: bool = True) -> None:
        """Wait so long; until the server dies, too, if that is not known yet."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.stopping and not (server and self.server.gone()):
            time.sleep(min(STEP_SECONDS, seconds))

    def _write(self, state: ServerState) -> None:
        self.state, self.unwritten = state, False
        try:
            write_state(self.home, state)
        except OSError:  # the disk is full: no reason to end a server; tried again
            self.unwritten = True


def main() -> None:
    """Start the server apart from whoever asked, so that neither waits for the other."""
    given = json.load(sys.stdin)
    given["command"], given["adopt"] = tuple(given["command"]), given["adopt"] and tuple(given["adopt"])
    if os.fork():
        os._exit(0)
    guardian = Guardian(Orders(**given))

    def stop(*_: object) -> None:
        guardian.stopping = True

    signal.signal(signal.SIGTERM, stop)
    os.dup2(os.open(guardian.log.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 2)  # what it did not expect
    guardian.begin()
    guardian.stopping = guardian.unwritten  # nobody could find it
    if not guardian.stopping:
        print("started", flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whoever reads it sees the end of it
    guardian.run()


if __name__ == "__main__":
    main()
