"""Makes true what the routing table says: folders put back, rows of the ledger completed, models loaded.

The table is the one truth about who serves. What a crash left is mended by whatever command comes next.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime

from dl_pipelines.serving import repository, rollouts
from dl_pipelines.serving.champion import (
    MOVES,
    STAGE,
    Row,
    append,
    artifact_of,
    challenger_row,
    champion,
    exclusive,
    kept_models,
    ledger,
    routed,
)
from dl_pipelines.serving.control import Control
from dl_pipelines.serving.process import TritonError
from dl_pipelines.serving.server import TritonServer, running
from dl_pipelines.serving.unloading import drop_soon
from dl_pipelines.store import durable
from dl_pipelines.store.artifacts import Artifact, ArtifactError
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.wire.routing import RoutingTable, read_table


def reconcile(workspace: Workspace) -> list[str]:
    """Repair what a crash left, so that the champion of the routing table can serve; returns what was done.

    Needs no server; what it put back is loaded by the next use. Raises ArtifactError when the champion has to be put
    back and its own artifact is damaged.
    """
    with exclusive(workspace):
        return mend(workspace, TritonServer(workspace.home))


@contextlib.contextmanager
def serving(workspace: Workspace) -> Iterator[TritonServer]:
    """The running server with the project's router and models loaded. Raises NoChampion, TritonError."""
    artifact_of(workspace)
    if TritonServer(workspace.home).state() is None:
        reconcile(workspace)  # a start loads what is there: it must be whole
    with running(workspace.home) as server:
        ensure_served(workspace, server)
        yield server


def ensure_served(workspace: Workspace, server: TritonServer) -> None:
    """Have the router and the models of its table answer: look first, repair and load only what does not.

    A server that dies meanwhile is started once more. Raises TritonError, RoutingError, ArtifactError.
    """
    try:
        _ensure_served(workspace, server)
    except (TritonError, OSError):
        if server.state() is not None:
            raise
        _ensure_served(workspace, server)


def _ensure_served(workspace: Workspace, server: TritonServer) -> None:
    server.start()
    control, table = server.control, read_table(server.routing(workspace.project))
    if not all(control.model_ready(name) for name in (workspace.project, *table.models)):
        reconcile(workspace)
        server.serve(workspace.project)


def mend(workspace: Workspace, server: TritonServer) -> list[str]:
    """`reconcile` for who holds the lock; a living server unloads what is dropped."""
    project, done = workspace.project, list[str]()
    stray = [path.name for path in workspace.home.repository.glob(f"{project}__*")]
    if left := sorted({*stray, *repository.leftovers(workspace.home, project)} - kept_models(workspace)):
        drop_soon(workspace, server, *left)
        done += [f"removed {name}" for name in left]
    for path in (workspace.home.server / "incoming").glob(f"{project}*"):
        durable.remove_tree(path)
        done.append(f"removed the unfinished {path.name}")
    table = routed(workspace)
    if table is None:
        return done
    return [*done, *_mend_ledger(workspace, table), *_mend_folders(workspace, server, table)]


def _mend_ledger(workspace: Workspace, table: RoutingTable) -> list[str]:
    """Rows that were to follow the table and did not; their time is the table's."""
    rows, done = ledger(workspace), list[str]()
    written = TritonServer(workspace.home).routing(workspace.project).stat().st_mtime
    at = datetime.fromtimestamp(written, UTC).isoformat(timespec="milliseconds")
    settled = {row["evidence"].get("version") for row in rows}
    wanted = [table.version]
    if len(table.models) > 1 and (row := challenger_row(rows, table, table.models[1])):
        wanted.append(row["evidence"].get("version", row["id"]))
    for row in rows:
        if row["id"] in wanted and row["id"] not in settled:
            settle(workspace, row, at)
            done.append(f"wrote the ledger's row of {row['model']}")
    if withdraw(workspace, table, at):
        done.append("wrote the ledger's row of the trial that has ended")
    return done


def settle(workspace: Workspace, published: Row, at: str | None = None) -> None:
    """Write what follows the routing table: the move's row of the ledger, and the end of a rollout that it stops."""
    evidence = dict(published["evidence"])
    event, ends = evidence.pop("event", MOVES[0]), evidence.pop("ends", None)
    if ends is not None:
        why = f"{published['model']} was given the traffic: {published['reason']}"
        rollouts.end_rollout(workspace, ends, published["model"], why, published["actor"])
    copied = {key: published[key] for key in ("model", "digest", "partition", "reason", "actor")}
    given = {"at": at} if at else {}
    append(workspace, event=event, evidence={**evidence, "version": published["id"]}, **copied, **given)


def withdraw(workspace: Workspace, table: RoutingTable, at: str | None = None) -> bool:
    """Write that the last challenger has no traffic any more; False when the ledger says so already or it has some."""
    told = [row for row in ledger(workspace) if row["event"] in (*MOVES, "challenger", "withdrawn")]
    if len(table.models) > 1 or not told or told[-1]["event"] != "challenger":
        return False
    last = told[-1]
    found = rollouts.rollout_rows(workspace, id=table.revision)
    reason, actor = (found[0]["reason"], found[0]["actor"]) if found else ("the trial has ended", "run")
    copied = {key: last[key] for key in ("model", "digest", "partition")}
    evidence, given = {"revision": table.revision}, {"at": at} if at else {}
    append(workspace, event="withdrawn", reason=reason, actor=actor, evidence=evidence, **copied, **given)
    return True


def _mend_folders(workspace: Workspace, server: TritonServer, table: RoutingTable) -> list[str]:
    now, done = champion(workspace), list[str]()
    assert now is not None
    control = server.control if server.state() else None
    artifact = workspace.by_digest(STAGE, now.digest)
    if _put_back(workspace, now.model, artifact):
        done.append(f"put {now.model} back")
    rows = ledger(workspace)
    for model in table.models[1:]:
        if row := challenger_row(rows, table, model):
            try:
                if _put_back(workspace, model, workspace.by_digest(STAGE, row["digest"])):
                    done.append(f"put {model} back")
            except ArtifactError as error:  # the champion answers in its place
                done.append(f"could not put the challenger {model} back: {error}")
    if install_router(workspace, artifact, control):
        done.append(f"put the router {workspace.project} back")
    return done


def _put_back(workspace: Workspace, model: str, artifact: Artifact) -> bool:
    files = repository.model_files(artifact)
    if repository.is_sound(workspace.home, model, files):
        return False
    artifact.verify()
    return repository.install(workspace.home, model, files)


def install_router(workspace: Workspace, artifact: Artifact, control: Control | None) -> bool:
    """The router as this artifact wants it (batching, durability); a loaded one is loaded anew when it changed."""
    files = repository.router_files(artifact.read_text("router.pbtxt"))
    changed = repository.install(workspace.home, workspace.project, files)
    if changed and control and control.model_ready(workspace.project):
        control.load(workspace.project)
    return changed
