"""Takes out of server and repository what no routing table names any more, without holding up who serves."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from dl_pipelines.serving import repository
from dl_pipelines.serving.champion import STAGE, kept_models
from dl_pipelines.serving.process import TritonError
from dl_pipelines.serving.server import TritonServer
from dl_pipelines.serving.stubs import end_processes
from dl_pipelines.store import durable
from dl_pipelines.store.workspace import Workspace

GRACE_SECONDS = 0.25
"""Between a table that names a model no more and its unloading: the router reads the table at each batch."""

UNLOAD_SECONDS = 5.0
"""How long a model that no table names is waited for: a challenger may hang, and its rollback must not."""


def drop(workspace: Workspace, server: TritonServer, *names: str, seconds: float = 20) -> None:
    """Unload models and routers of a measurement, and remove what they have in the home.

    Triton lets a model end the requests that it has. Raises TritonError when that takes longer than `seconds`; it goes
    when they have ended, and its folder is gone already. A load that is still under way, as it was given up, is ended:
    else the model would stay in the server, and in its memory, where nobody knows of it.
    """
    home = workspace.home
    try:
        with contextlib.suppress(OSError):  # a server that died has unloaded everything
            if state := server.state():
                states = server.control.index()
                begun = [name for name in names if states.get(name) == "LOADING"]
                for name in begun:
                    end_processes(home, state.pid, name)
                loaded = [name for name in names if name in begun or server.control.model_ready(name)]
                server.control.unload(*loaded, seconds=seconds)
    finally:
        for name in names:
            repository.remove(home, name)
            server.routing(name).unlink(missing_ok=True)
            durable.remove_tree(home.server / "probes" / name)


def drop_soon(workspace: Workspace, server: TritonServer, *names: str) -> None:
    """Drop models without letting one that hangs hold up who serves."""
    try:
        drop(workspace, server, *names, seconds=UNLOAD_SECONDS)
    except TritonError as error:
        workspace.progress(STAGE, f"{error}; nothing waits for it")


@contextlib.contextmanager
def clean_up(workspace: Workspace, server: TritonServer) -> Iterator[None]:
    """A model that the block brought in and that failed is taken out again; the block's error is raised."""
    try:
        yield
    except Exception as error:
        try:
            forget(workspace, server)
        except (ValueError, OSError) as second:
            error.add_note(f"what it left could not be removed yet ({second}); the next command does")
        raise


def forget(workspace: Workspace, server: TritonServer) -> None:
    """Drop the models that no table names any more, when requests that were on their way to them have been asked.

    Triton itself ends the requests that a model has before it is gone; a challenger's that comes too late is answered
    by the champion.
    """
    staying = kept_models(workspace)
    names = [path.name for path in workspace.home.repository.glob(f"{workspace.project}__*")]
    if gone := [name for name in names if name not in staying]:
        time.sleep(GRACE_SECONDS)
        drop_soon(workspace, server, *gone)
