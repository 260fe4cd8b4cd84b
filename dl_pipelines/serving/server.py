"""The one Triton server of a home: started on free loopback ports, found again by its state file, mended, stopped.

A server that a command started ends with the last command that uses it, also when that is killed; a kept one (`dlp
serve`) lives on. A guardian watches both (guardian.py): what dies or hangs is started again, on the same ports.
Which models it serves is written in the routing tables; that is publishing's business (champion.py).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from dl_pipelines.serving import admin, launch, users
from dl_pipelines.serving.control import Control
from dl_pipelines.serving.process import TritonError, birth
from dl_pipelines.serving.state import ServerState, given_up, projects, read_state, routing_file
from dl_pipelines.store.home import Home
from dl_pipelines.wire.routing import read_table


class TritonServer:
    """The server of a home. `http` and `grpc` fix those ports; by default free ones are taken."""

    def __init__(self, home: Home, http: int | None = None, grpc: int | None = None):
        self.home, self._http, self._grpc = home, http, grpc

    @property
    def log(self) -> Path:
        """What the server prints."""
        return launch.log_of(self.home)

    def state(self) -> ServerState | None:
        """The living server of this home, or None. A state file whose process is gone counts as none."""
        last = self.last()
        return last if last and birth(last.pid) == last.born else None

    def last(self) -> ServerState | None:
        """What was last written of the server of this home, whether it lives or not, since the machine was started."""
        return read_state(self.home)

    @property
    def control(self) -> Control:
        """Control requests to the living server. Raises TritonError when there is none."""
        return Control(self._living().http, admin.read_key(self.home), self.home.repository)

    @property
    def grpc(self) -> str:
        """The address for predictions. Raises TritonError when no server lives."""
        return f"127.0.0.1:{self._living().grpc}"

    def _living(self) -> ServerState:
        state = self.state()
        if state is None:
            raise TritonError(f"found no living server of {self.home.root}; expected one; run `dlp serve PROJECT`")
        return state

    def start(self, keep: bool = False) -> ServerState:
        """Attach to the living server or start one; it is ready when this returns. `keep`: it outlives this process.

        A server that was started for one command is started anew when it is to be kept; a kept one that died is kept
        again. One that its guardian is just starting again is waited for. One of an older version, which lets everybody
        load models, goes on for commands, and is started anew on its ports when it is to be kept. Raises TritonError,
        also when the guardian gave it up; asking for one that is kept starts it all the same.
        """
        if not keep and not users.entered(self.home):
            users.enter(self.home)  # outside of a block the whole process counts as one
        with self._lock():
            last = self.last()
            keyless = last if last and last.kept and keep and self._keyless() else None
            found = self._attach(last, keep) if last and (last.kept or not keep) and not keyless else None
            if found is None:
                launch.end(self.home)
                http, grpc = self._http or (keyless and keyless.http), self._grpc or (keyless and keyless.grpc)
                found = launch.launch(self.home, http, grpc, keep or bool(last and last.kept))
        for project in self.projects():
            with contextlib.suppress(ValueError):  # raised to whoever asks for that project
                self.serve(project)
        return found

    def _attach(self, last: ServerState, keep: bool) -> ServerState | None:
        """The server that lives or is being started again; None when there is none."""
        alive, guarded = birth(last.pid) == last.born, birth(last.guardian) == last.guardian_born
        if guarded and last.gave_up and not keep:
            self._refuse(last)
        if last.gave_up or not (guarded or (alive and last.kept)):
            return None
        self._require_ports(last)
        if not guarded:
            launch.adopt(self.home, last)
        found = launch.await_ready(self.home)
        if found and found.gave_up:
            self._refuse(found)
        return found

    def _keyless(self) -> bool:
        return self.state() is not None and not admin.key_file(self.home).exists()

    def _refuse(self, state: ServerState) -> None:
        raise TritonError(
            f"found that the server of this home was given up for a minute ({state.gave_up}); expected one that lives; "
            f"read {self.log}; `dlp serve PROJECT` starts it at once, or `dlp stop` and the next command"
        )

    def stop(self) -> bool:
        """End the server of this home, whoever started it; True when there was one."""
        with self._lock():
            last = self.last()
            found = bool(last and (self.state() or birth(last.guardian) == last.guardian_born))
            launch.end(self.home)
            return found

    def projects(self) -> list[str]:
        """Projects that have a routing table; one with `__` in its name belongs to a measurement."""
        return projects(self.home)

    def routing(self, project: str) -> Path:
        """The file of a project's routing table."""
        return routing_file(self.home, project)

    def serve(self, project: str) -> None:
        """Have the router of a project and the models of its table loaded. Raises RoutingError, TritonError.

        A challenger that does not load stops nobody: the champion answers in its place. One that the router does not
        ask any more is left as it is.
        """
        control, table = self.control, read_table(self.routing(project))
        left_out = given_up(self.home, table)
        for model in [table.champion, project, *table.models[1:]]:
            if model not in left_out and not control.model_ready(model):
                with contextlib.suppress(TritonError) if model in table.models[1:] else contextlib.nullcontext():
                    control.load(model)

    def end_unless_kept(self) -> None:
        """End a server that was started for commands; the caller knows that no command uses it."""
        with self._lock():
            last = self.last()
            if last and not last.kept:
                launch.end(self.home)

    def _lock(self):
        from filelock import FileLock

        self.home.locks.mkdir(parents=True, exist_ok=True)
        return FileLock(self.home.locks / "server.lock")

    def _require_ports(self, state: ServerState) -> None:
        for name, wanted, found in (("http", self._http, state.http), ("grpc", self._grpc, state.grpc)):
            if wanted is not None and wanted != found:
                raise TritonError(
                    f"found the server of this home at {name} port {found}; expected {wanted}; stop it first (`dlp "
                    "stop`), or leave the port out"
                )


@contextlib.contextmanager
def running(
    home: Home, keep: bool = False, lazy: bool = False, http: int | None = None, grpc: int | None = None
) -> Iterator[TritonServer]:
    """The server of a home while the block runs; it ends with the last block of the last command that uses it.

    `lazy` starts nothing by itself: an inner block does, and the server then lives until this one ends. `keep` has it
    run on, until it is stopped. Raises TritonError.
    """
    server = TritonServer(home, http, grpc)
    users.enter(home)
    try:
        if not lazy:
            server.start(keep)
        yield server
    finally:
        alone = users.leave(home)
        if alone is not None:
            try:
                server.end_unless_kept()
            finally:
                os.close(alone)
