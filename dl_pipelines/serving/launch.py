"""How the server of a home is started, waited for and ended. When that is done is decided in server.py.

The server is a child of its guardian (guardian.py), which starts it again; here they are only told to begin and to end.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from dl_pipelines.serving import admin, process, users
from dl_pipelines.serving.control import Control
from dl_pipelines.serving.process import Installation, TritonError, birth
from dl_pipelines.serving.server_log import MARK, ServerLog
from dl_pipelines.serving.state import Orders, ServerState, read_state, start_limit, state_file
from dl_pipelines.serving.stubs import end_orphans
from dl_pipelines.store.home import Home

GUARDIAN = Path(__file__).resolve().parent / "guardian.py"
CRASHES = "DLP_SERVER_CRASHES"
"""Environment: crashes within a minute after which a server is not started again; 5 when it is not set."""
HANG = "DLP_SERVER_HANG_SECONDS"
"""Environment: a server that does not answer for so long is ended and started again; 10 when it is not set."""
STOP_SECONDS = 14.0
"""A guardian gives its server eight seconds, and may wait two for an answer of it before."""
_TAKEN = ("address already in use", "failed to start grpc", "failed to start http", "socket", "bind")


def log_of(home: Home) -> Path:
    """What the server prints, and its guardian."""
    return home.server / "server.log"


def launch(home: Home, http: int | None, grpc: int | None, keep: bool) -> ServerState:
    """Start a server on these ports, else on free ones; it is ready then. Raises TritonError."""
    for port in (http, grpc):
        if port is not None:
            process.require_free(port)
    attempts, reason = (3 if http is None and grpc is None else 1), ""
    for left in reversed(range(attempts)):
        free = process.free_ports(3)
        installation = Installation.find()
        for folder in (home.repository, home.server):
            folder.mkdir(parents=True, exist_ok=True)
        orders = _orders(home, installation, (http or free[0], grpc or free[1], free[2]), keep, admin.new_key(home))
        process.assemble_backends(installation, home.server / "backends")
        ServerLog(log_of(home)).shift()
        spawn(orders, installation)
        state = await_ready(home)
        if state and state.ready:
            return state
        reason = _complaint(log_of(home))
        end(home)
        # Between looking for free ports and taking them another process may have taken one.
        if not (left and any(word in reason.lower() for word in _TAKEN)):
            break
    raise TritonError(
        f"found that tritonserver did not become ready ({reason}); expected it within {start_limit(home):g} s; read "
        f"{log_of(home)}, then run `dlp doctor`"
    )


def adopt(home: Home, state: ServerState) -> None:
    """Give a living server a guardian again. Raises TritonError."""
    installation = Installation.find()
    key = admin.read_key(home) or admin.new_key(home)  # one of an older version asks for none until it starts again
    orders = _orders(home, installation, (state.http, state.grpc, state.metrics), state.kept, key)
    spawn(replace(orders, adopt=(state.pid, state.born), restarts=state.restarts), installation)


def await_ready(home: Home) -> ServerState | None:
    """The server as soon as it answers, or its state when it was given up; None when nobody starts it any more."""
    deadline = time.monotonic() + start_limit(home) + STOP_SECONDS
    while time.monotonic() < deadline:
        state = read_state(home)
        if state is None or state.gave_up:
            return state
        if state.ready and birth(state.pid) == state.born and Control(state.http).ready():
            return state
        if birth(state.guardian) != state.guardian_born:
            return None
        time.sleep(0.03)
    return None


def end(home: Home) -> None:
    """End the server and its guardian, whatever they are doing, and remove what they left."""
    last = read_state(home)
    if last:
        process.end(last.guardian, last.guardian_born, STOP_SECONDS)  # first: it would start the server again
        last = read_state(home) or last
        process.end(last.pid, last.born, STOP_SECONDS)
        end_orphans(home, last.pid)
    process.remove_regions(home)
    for path in (state_file(home), admin.key_file(home)):
        path.unlink(missing_ok=True)


def spawn(orders: Orders, installation: Installation) -> None:
    """Start a guardian, apart from this process; returns when the state of its server is written.

    Raises TritonError when that can't be.
    """
    setpriv = (
        shutil.which("setpriv") if orders.users else None
    )  # should the guardian be killed, the server ends with it
    bound = (setpriv, "--pdeathsig", "TERM", "--") if setpriv else ()
    told = replace(orders, command=(*bound, *orders.command))
    started = subprocess.run(
        [sys.executable, "-I", "-S", str(GUARDIAN)],
        env=installation.environment(Path(orders.home) / "server"),
        input=json.dumps(asdict(told)).encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
        check=False,
    )
    if started.stdout.strip() != b"started":
        raise TritonError(
            f"found that {orders.command[0]} can't be started; expected a program, and room on the disk of "
            f"{orders.home}; run `dlp doctor`, or `make setup`"
        )


def _orders(home: Home, installation: Installation, ports: tuple[int, int, int], keep: bool, key: str) -> Orders:
    http, grpc, metrics = ports
    command = (
        str(installation.binary),
        f"--model-repository={home.repository}",
        f"--backend-directory={home.server / 'backends'}",
        "--model-control-mode=explicit",
        "--disable-auto-complete-config",
        *(f"--{name}-address=127.0.0.1" for name in ("http", "grpc", "metrics")),
        *(f"--{name}-port={port}" for name, port in (("http", http), ("grpc", grpc), ("metrics", metrics))),
        f"--backend-config=python,shm-region-prefix-name={process.region_prefix(home)}",
        "--backend-config=python,shm-default-byte-size=1048576",
        "--exit-on-error=false",  # a model that can't be loaded must not keep the others from answering
        "--strict-readiness=false",  # nor make the server look dead
        "--exit-timeout-secs=5",
        *admin.restricted(key),
    )
    return Orders(
        command,
        str(home.root),
        *ports,
        users="" if keep else str(users.users_file(home)),
        hang_seconds=_number(HANG, 10),
        crashes=round(_number(CRASHES, 5)),
    )


def _number(variable: str, default: float) -> float:
    text = os.environ.get(variable, "")
    try:
        value = float(text or default)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise TritonError(f"found {variable}={text}; expected a number above zero; unset it or set another")
    return value


def _complaint(log: Path) -> str:
    """The last complaint of the server's log."""
    try:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError as error:
        return f"no log: {error.strerror}"
    lines = [line for line in lines if MARK not in line]
    bad = [line for line in lines if line.startswith("E") or "error" in line.lower()]
    return (bad or lines or ["it printed nothing"])[-1][:300]
