"""The one Triton server of a home: started on free loopback ports, found again by its state file, mended, stopped.

A server that a command started ends with the last command that uses it, also when that is killed; a kept one (`dlp
serve`) lives on.
Which models it serves is written in the routing tables; that is publishing's business (champion.py).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dl_pipelines.serving import process, users
from dl_pipelines.serving.control import Control
from dl_pipelines.serving.process import Installation, TritonError, birth
from dl_pipelines.store import durable
from dl_pipelines.store.database import now
from dl_pipelines.store.home import Home
from dl_pipelines.wire.routing import read_table

START_SECONDS = 60.0
"""A start takes about 2 s; a machine that is busy with a training may need much longer."""
ANSWER_SECONDS = 10.0
STOP_SECONDS = 8.0
_TAKEN = ("address already in use", "failed to start grpc", "failed to start http", "socket", "bind")


@dataclass(frozen=True)
class ServerState:
    """A server as its state file says: process, ports of 127.0.0.1, whether it was ready, whether it is to be kept."""

    pid: int
    born: str
    http: int
    grpc: int
    metrics: int
    ready: bool
    kept: bool
    started_at: str


class TritonServer:
    """The server of a home. `http` and `grpc` fix those ports; by default free ones are taken."""

    def __init__(self, home: Home, http: int | None = None, grpc: int | None = None):
        self.home, self._http, self._grpc = home, http, grpc

    @property
    def _file(self) -> Path:
        return self.home.server / "server.json"

    @property
    def log(self) -> Path:
        """What the server prints."""
        return self.home.server / "server.log"

    def state(self) -> ServerState | None:
        """The living server of this home, or None. A state file whose process is gone counts as none."""
        state = self._written()
        return state if state and birth(state.pid) == state.born else None

    def _written(self) -> ServerState | None:
        try:
            return ServerState(**durable.read_json(self._file))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    @property
    def control(self) -> Control:
        """Control requests to the living server. Raises TritonError when there is none."""
        return Control(self._living().http)

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
        again. Raises TritonError.
        """
        if not keep and not users.entered(self.home):
            users.enter(self.home)  # outside of a block the whole process counts as one
        with self._lock():
            state, last = self.state(), self._written()
            keep = keep or bool(last and last.kept and process.this_boot(last.born))
            if state:
                self._require_ports(state)
                answers = self._answers(state)
                if answers and (state.kept or not keep):
                    return state
                process.end(state.pid, state.born, STOP_SECONDS if answers else 1.0)
            self._clear(last)
            state = self._launch(keep)
        for project in self.projects():
            with contextlib.suppress(ValueError):  # raised to whoever asks for that project
                self.serve(project)
        return state

    def stop(self) -> bool:
        """End the server of this home, whoever started it; True when there was one."""
        with self._lock():
            return self._end(self.state())

    def projects(self) -> list[str]:
        """Projects that have a routing table; one with `__` in its name belongs to a measurement."""
        return sorted(path.stem for path in (self.home.server / "routing").glob("*.json") if "__" not in path.stem)

    def routing(self, project: str) -> Path:
        """The file of a project's routing table."""
        return self.home.server / "routing" / f"{project}.json"

    def serve(self, project: str) -> None:
        """Have the router of a project and the models of its table loaded. Raises RoutingError, TritonError.

        A challenger that does not load stops nobody: the champion answers in its place.
        """
        control, table = self.control, read_table(self.routing(project))
        for model in [table.champion, project, *table.models[1:]]:
            if not control.model_ready(model):
                with contextlib.suppress(TritonError) if model in table.models[1:] else contextlib.nullcontext():
                    control.load(model)

    def end_unless_kept(self) -> None:
        """End a server that was started for commands; the caller knows that no command uses it."""
        with self._lock():
            state = self.state()
            if state and not state.kept:
                self._end(state)

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

    def _answers(self, state: ServerState) -> bool:
        deadline = time.monotonic() + (ANSWER_SECONDS if state.ready else START_SECONDS)
        control = Control(state.http)
        while not control.ready():
            if time.monotonic() > deadline or birth(state.pid) != state.born:
                return False
            time.sleep(0.05)
        return True

    def _launch(self, keep: bool) -> ServerState:
        for port in (self._http, self._grpc):
            if port is not None:
                process.require_free(port)
        attempts, reason = (3 if self._http is None and self._grpc is None else 1), ""
        for left in reversed(range(attempts)):
            state = self._spawn(keep)
            if self._answers(state):
                state = replace(state, ready=True)
                durable.write_json(self._file, asdict(state))
                return state
            reason = self._reason()
            self._end(state)
            # Between looking for free ports and taking them another process may have taken one.
            if not (left and any(word in reason.lower() for word in _TAKEN)):
                break
        raise TritonError(
            f"found that tritonserver did not become ready ({reason}); expected it within {START_SECONDS:g} s; read "
            f"{self.log}, then run `dlp doctor`"
        )

    def _spawn(self, keep: bool) -> ServerState:
        installation = Installation.find()
        for folder in (self.home.repository, self.home.server):
            folder.mkdir(parents=True, exist_ok=True)
        backends = process.assemble_backends(installation, self.home.server / "backends")
        free = process.free_ports(3)
        http, grpc, metrics = self._http or free[0], self._grpc or free[1], free[2]
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.1"))
        pid = process.spawn(
            [
                str(installation.binary),
                f"--model-repository={self.home.repository}",
                f"--backend-directory={backends}",
                "--model-control-mode=explicit",
                "--disable-auto-complete-config",
                *(f"--{name}-address=127.0.0.1" for name in ("http", "grpc", "metrics")),
                *(f"--{name}-port={port}" for name, port in (("http", http), ("grpc", grpc), ("metrics", metrics))),
                f"--backend-config=python,shm-region-prefix-name={process.region_prefix(self.home)}",
                "--backend-config=python,shm-default-byte-size=1048576",
                "--exit-timeout-secs=5",
            ],
            installation.environment(self.home.server),
            self.log,
            users=None if keep else users.users_file(self.home),
        )
        state = ServerState(pid, birth(pid) or "", http, grpc, metrics, False, keep, now())
        durable.write_json(self._file, asdict(state))
        return state

    def _reason(self) -> str:
        """The last complaint of the server's log."""
        try:
            lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        except OSError as error:
            return f"no log: {error.strerror}"
        bad = [line for line in lines if line.startswith("E") or "error" in line.lower()]
        return (bad or lines or ["it printed nothing"])[-1][:300]

    def _end(self, state: ServerState | None) -> bool:
        if state:
            process.end(state.pid, state.born, STOP_SECONDS)
        self._clear(self._written())
        self._file.unlink(missing_ok=True)
        return state is not None

    def _clear(self, last: ServerState | None) -> None:
        """Remove what a server that is gone left: processes of its backends, shared memory."""
        if last and process.this_boot(last.born):
            process.end_orphans(last.pid)
        process.remove_regions(self.home)


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
