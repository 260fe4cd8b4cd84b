"""`dlp serve` and `dlp stop`: the server that is kept, and what it does at this moment, as a table or an object."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dl_pipelines.cli.frame import HomeOption, JsonOption, Project, brief_of, command, home_of, output, say

if TYPE_CHECKING:
    from dl_pipelines.serving.server import TritonServer
    from dl_pipelines.serving.state import ServerState

Port = Annotated[int | None, typer.Option(help="Port of 127.0.0.1; default: a free one")]
LOOK_SECONDS = 1.0
OVER_SECONDS = 10.0
"""What the table's rates and latencies are of: so many last seconds."""


@command
def serve(
    project: Project,
    http: Port = None,
    grpc: Port = None,
    detach: Annotated[bool, typer.Option("--detach", help="Show no table: only start it and say where it is")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start the server with the project's champion and leave it running; `dlp stop` ends it.

    On a terminal it shows what the server does until Ctrl-C, which leaves the server running. With --json it prints
    that of one second.
    """
    with output(as_json) as put:
        server, told = _started(home_of(home), project, http, grpc)
        if not as_json:
            typer.echo(told)
        if as_json:
            put(_snapshot(server, project))
        elif sys.stdout.isatty() and not detach:
            _watch(server, project)


@command
def stop(home: HomeOption = None) -> None:
    """End the server of this home."""
    from dl_pipelines.serving.server import TritonServer

    ended = TritonServer(home_of(home)).stop()
    typer.echo("the server has ended" if ended else "no server was running")


def _started(home: Any, project: str, http: int | None, grpc: int | None) -> tuple[TritonServer, str]:
    """The kept server with the project's router and champion loaded, and a sentence that says where."""
    from dl_pipelines.serving import champion, repair
    from dl_pipelines.serving.server import TritonServer
    from dl_pipelines.store.workspace import Workspace

    workspace = Workspace(home, brief_of(home, project).project)
    server = TritonServer(home, http, grpc)
    champion.artifact_of(workspace)
    repair.reconcile(workspace)
    state = server.start(keep=True)
    repair.ensure_served(workspace, server)
    serving = champion.champion(workspace)
    assert serving is not None
    return server, (
        f"{project} serves {serving.model}: http://127.0.0.1:{state.http}/v2/models/{project}/infer, gRPC 127.0.0.1:"
        f"{state.grpc} (model {project})"
    )


class Looks:
    """Looks at the metrics of the last seconds, all of one server: another one counts from zero."""

    def __init__(self, over: float = OVER_SECONDS):
        self._over, self._pid = over, 0
        self._seen: list[tuple[float, Any]] = []

    def look(self, state: ServerState | None) -> None:
        """One more; a server that does not answer is left out."""
        from dl_pipelines.serving.metrics import scrape
        from dl_pipelines.serving.process import TritonError

        now = time.monotonic()
        same = state is not None and state.pid == self._pid
        self._seen = [(at, samples) for at, samples in self._seen if same and now - at <= self._over]
        if state:
            self._pid = state.pid
            with contextlib.suppress(OSError, TritonError):
                self._seen.append((now, scrape(state.metrics)))

    def traffic(self, project: str) -> Any:
        """The `Traffic` between the first look and the last; None when there are not two."""
        from dl_pipelines.serving.metrics import traffic

        if len(self._seen) < 2:
            return None
        (first, before), (last, after) = self._seen[0], self._seen[-1]
        return traffic(project, before, after, last - first)


def _snapshot(server: TritonServer, project: str) -> dict[str, Any]:
    from dataclasses import asdict

    from dl_pipelines.wire.routing import read_table

    looks = Looks()
    looks.look(server.state())
    time.sleep(LOOK_SECONDS)
    state = server.state()
    looks.look(state)
    table, traffic = read_table(server.routing(project)), looks.traffic(project)
    return {
        "project": project,
        "server": asdict(state) if state else None,
        "metrics": f"http://127.0.0.1:{state.metrics}/metrics" if state else None,
        "log": str(server.log),
        "routing": table.plain(),
        "traffic": traffic.plain() if traffic else None,
    }


def _watch(server: TritonServer, project: str) -> None:
    """The live table, until Ctrl-C or until the server was stopped."""
    from rich.live import Live

    from dl_pipelines.cli.live import view
    from dl_pipelines.cli.screen import console
    from dl_pipelines.wire.routing import read_table

    looks, ended = Looks(), False
    try:
        with Live(console=console(), auto_refresh=False) as shown:
            while not ended:
                last = server.last()
                ended = last is None or bool(last.gave_up)
                looks.look(server.state())
                if last:
                    table = read_table(server.routing(project))
                    shown.update(view(table, last, looks.traffic(project), server.log), refresh=True)
                if not ended:
                    time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        say("the server runs on; `dlp stop` ends it, `dlp serve` shows it again")
        return
    say("the server has ended" if server.last() is None else "the server was given up; see the log")
