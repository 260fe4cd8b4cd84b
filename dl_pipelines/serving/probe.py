"""A model in the live repository while it is measured: loaded, behind a router of its own whose log is thrown away.

The router is the same code as the one that clients call, so the figures are what a client would see. Both are gone
afterwards, the model unless it serves or served last. Nothing here gives traffic (traffic.py).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dl_pipelines.brief.live import Serving
from dl_pipelines.serving import champion, config, repair, repository
from dl_pipelines.serving.server import TritonServer, running
from dl_pipelines.serving.unloading import drop
from dl_pipelines.store import durable
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.tasks.base import Signature
from dl_pipelines.wire.routing import only


@dataclass(frozen=True)
class Live:
    """A model while it is measured: the server, its name, the router in front of it, how long loading took."""

    server: TritonServer
    model: str
    router: str
    load_seconds: float


def router_pbtxt(project: str, signature: Signature, serving: Serving) -> str:
    """The config of a project's router, as clients will call it."""
    base = (repository.ROUTER / "config.pbtxt").read_text(encoding="utf-8")
    parameters = config.router_parameters(project, signature, serving)
    return config.router_config(base, signature, serving, parameters)


@contextlib.contextmanager
def probed(workspace: Workspace, folder: Path, router: str) -> Iterator[Live]:
    """The model of a Triton folder, loaded, behind a router with this config. Raises TritonError.

    Nothing is published or promoted meanwhile. At the end the router goes, and the model too unless it serves or
    served last.
    """
    home, model = workspace.home, repository.model_name(workspace.project, folder)
    name = f"{model}{repository.PROBE}"
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    with champion.exclusive(workspace), running(home) as server:
        repair.reconcile(workspace)
        repository.install(home, model, files)
        started = time.perf_counter()
        try:
            server.control.load(model)
            seconds = time.perf_counter() - started
            _install_router(workspace, server, router, model, name)
            yield Live(server, model, name, seconds)
        finally:
            stays = model in champion.kept_models(workspace)
            drop(workspace, server, name, *([] if stays else [model]))


def _install_router(workspace: Workspace, server: TritonServer, text: str, model: str, router: str) -> None:
    durable.write_json(server.routing(router), only(workspace.project, model, 0).plain())
    places = {"routing": f"../../server/routing/{router}.json", "log_folder": f"../../server/probes/{router}"}
    repository.install(workspace.home, router, repository.router_files(config.with_parameters(text, places)))
    server.control.load(router)
