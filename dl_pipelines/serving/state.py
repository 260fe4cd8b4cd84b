"""What is written of a home's server: its state file, what its guardian is told, what it has to load.

Standard library only: the guardian reads it too.
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from pathlib import Path

from dl_pipelines.serving.loading import reading_seconds
from dl_pipelines.serving.process import this_boot
from dl_pipelines.store import durable
from dl_pipelines.store.home import Home
from dl_pipelines.wire.routing import RoutingTable, read_table

START_SECONDS = 60.0
"""A start takes a second or two; a machine that is busy with a training may need much longer."""
LOAD_SECONDS = 30.0
"""More for each model that is loaded at the start, beside the reading of its files."""


@dataclass(frozen=True)
class ServerState:
    """A server as its state file says: process, ports of 127.0.0.1, whether it was ready, whether it is to be kept.

    `guardian` is the process that watches it (0: an older version's server), `restarts` how often that started it
    again, `last_exit` why the last one ended. `gave_up` says why it is not started again for a while, `failing` which
    models could not be brought back; both empty when all is well.
    """

    pid: int
    born: str
    http: int
    grpc: int
    metrics: int
    ready: bool
    kept: bool
    started_at: str
    guardian: int = 0
    guardian_born: str = ""
    restarts: int = 0
    last_exit: str = ""
    gave_up: str = ""
    failing: str = ""


@dataclass(frozen=True)
class Orders:
    """What a guardian is told: how to start the server, where its home is, when it has hung or crashed too often.

    `users` is the file whose lock its users hold, empty for a kept server. `adopt` names a living server that has lost
    its guardian, by process and birth; `restarts` is how often that was started again. `crashes` within `window`
    seconds are too many.
    """

    command: tuple[str, ...]
    home: str
    http: int
    grpc: int
    metrics: int
    users: str = ""
    hang_seconds: float = 10.0
    crashes: int = 5
    window: float = 60.0
    log_bytes: int = 16 << 20
    adopt: tuple[int, str] | None = None
    restarts: int = 0


def state_file(home: Home) -> Path:
    """The state file."""
    return home.server / "server.json"


def read_state(home: Home) -> ServerState | None:
    """What the state file says, also of a server that is gone.

    None when there is none, when it makes no sense, or when the machine was started since.
    """
    try:
        state = ServerState(**durable.read_json(state_file(home)))
        return state if this_boot(state.guardian_born or state.born) else None
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return None


def write_state(home: Home, state: ServerState) -> None:
    """Replace the state file, all or nothing. Raises OSError."""
    durable.write_json(state_file(home), asdict(state))


def routing_file(home: Home, project: str) -> Path:
    """The file of a project's routing table."""
    return home.server / "routing" / f"{project}.json"


def projects(home: Home) -> list[str]:
    """Projects that have a routing table; one with `__` in its name belongs to a measurement."""
    return sorted(path.stem for path in routing_file(home, "").parent.glob("*.json") if "__" not in path.stem)


def marker_file(home: Home, project: str) -> Path:
    """Where it is written which challengers a project's router does not ask (triton_models/router/1/breaker.py)."""
    return routing_file(home, project).with_suffix(".breaker")


def loading_file(home: Home, digest: str) -> Path:
    """Where it is noted of an artifact that its model is being loaded, and how often the server died of that."""
    return home.server / "loading" / f"{digest}.json"


def given_up(home: Home, table: RoutingTable) -> set[str]:
    """Challengers that the router does not ask any more under this table; the champion is never among them."""
    try:
        opened = durable.read_json(marker_file(home, table.project))["open"]
        return {str(model) for revision, model in opened if revision == table.revision} - {table.champion}
    except (OSError, ValueError, KeyError, TypeError):
        return set()  # there is none, or nobody can read it: the router does not either


def wanted_models(home: Home) -> list[str]:
    """What has to be loaded: the models of the projects' tables that are asked, and their routers."""
    found: list[str] = []
    for project in projects(home):
        with contextlib.suppress(ValueError):  # raised to whoever asks for that project
            table = read_table(routing_file(home, project))
            left_out = given_up(home, table)
            found += [*(model for model in table.models if model not in left_out), project]
    return list(dict.fromkeys(found))


def start_limit(home: Home) -> float:
    """Seconds within which a start has to be ready."""
    models = [home.repository / model for model in wanted_models(home)]
    return START_SECONDS + LOAD_SECONDS * len(models) + sum(map(reading_seconds, models))
