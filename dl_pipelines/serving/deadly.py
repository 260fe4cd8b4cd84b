"""Notes whether the server outlives the loading of a model; one that it did not outlive twice is loaded no more.

Written before a load and cleared after it, so that a death counts also when the process that asked dies with the
server. Not here: deaths while a challenger that was loaded is asked (blame.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dl_pipelines.serving.process import TritonError
from dl_pipelines.serving.server import TritonServer
from dl_pipelines.serving.state import ServerState, loading_file
from dl_pipelines.store import durable
from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.store.home import Home

DEATHS, TIMES = 2, "twice"
"""Deaths in a row, with no sound load between them, after which a model is loaded no more; and in words."""


class DeadlyError(ValueError):
    """A model that is loaded no more: the server died while it was. Says what to do."""


@contextlib.contextmanager
def noted(server: TritonServer, artifact: Artifact, model: str) -> Iterator[None]:
    """Around the loading of a published model and its comparison. The caller holds the publication lock.

    Whoever else ends the server meanwhile is not told apart. Raises DeadlyError (before the load, too), and TritonError
    for the first death.
    """
    file, before = loading_file(server.home, artifact.digest), server.state()
    if before is None:
        raise TritonError(f"found no living server to load {model}; expected one; look again in a moment")
    deaths = _settled(file, before)
    _require_harmless(model, deaths)
    _write(file, deaths, {"server": before.born, "guardian": before.guardian_born})
    try:
        yield
    except Exception as error:
        now = server.state()
        if now and now.born == before.born:
            if server.control.ready():  # else it may be about to die: the next load finds that out
                _write(file, deaths)
            raise
        _write(file, deaths + 1)
        _require_harmless(model, deaths + 1)
        raise TritonError(
            f"found that the server died while {model} was loaded ({error}); expected it to outlive that; what served "
            "goes on; after the next time it is loaded no more"
        ) from error
    _write(file, 0)


def forgive(home: Home, artifact: Artifact) -> None:
    """Let a published model be loaded again, as a person wishes."""
    durable.remove_file(loading_file(home, artifact.digest))


def _require_harmless(model: str, deaths: int) -> None:
    if deaths >= DEATHS:
        raise DeadlyError(
            f"found of {model} that the server died {TIMES} while it was loaded; expected it to outlive that; read "
            "server/server.log in the home and train another model, or try this one again with `dlp promote --date D "
            "--force --reason TEXT`"
        )


def _settled(file: Path, now: ServerState) -> int:
    """How often the server has died; a load that nobody finished counts when the same guardian saw it die meanwhile."""
    try:
        found = durable.read_json(file)
        died = found.get("guardian") == now.guardian_born and found["server"] != now.born
        deaths = int(found["deaths"]) + died
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return 0  # there is none, or it makes no sense
    if died:
        _write(file, deaths)
    return deaths


def _write(file: Path, deaths: int, under_way: dict[str, Any] | None = None) -> None:
    if deaths or under_way:
        durable.write_json(file, {"deaths": deaths, **(under_way or {})})
    else:
        durable.remove_file(file)
