"""Which model has the traffic: publish, promote, roll back, repair. What served when, and why, is in the ledger.

Order: copy under another name, verify, rename, ledger row `published`, load with warm-up, live parity, routing table,
ledger row `champion`. The routing table is the one step that moves traffic; `reconcile` repairs what a crash left.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dl_pipelines.serving import repository
from dl_pipelines.serving.control import Control
from dl_pipelines.serving.parity import require_live_parity
from dl_pipelines.serving.process import TritonError
from dl_pipelines.serving.server import TritonServer, running
from dl_pipelines.store import durable
from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.store.database import Database
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.wire.routing import only, read_table

STAGE = "triton_repository"
_MOVES = ("champion", "rollback")


class NoChampion(ValueError):
    """Nothing has been published for a project, or nothing served before; says what to do."""


@dataclass(frozen=True)
class Champion:
    """The model that has the traffic. `version` is the ledger row of its publication, `since` ISO 8601."""

    model: str
    digest: str
    partition: str
    since: str
    reason: str
    version: int


def champion(workspace: Workspace) -> Champion | None:
    """What the routing table says serves, with its row of the ledger; None before the first publication."""
    path = TritonServer(workspace.home).routing(workspace.project)
    if not path.exists():
        return None
    table = read_table(path)
    rows = [row for row in _ledger(workspace) if row["model"] == table.champion and row["id"] >= table.version]
    if not rows:
        raise NoChampion(
            f"found {table.champion} in the routing table of {workspace.project} without a row of the ledger; expected "
            "the database of this home; check DLP_DATABASE_URL"
        )
    row = next((row for row in rows if row["event"] in _MOVES), rows[0])
    return Champion(table.champion, row["digest"], row["partition"], row["at"], row["reason"], table.version)


def artifact_of(workspace: Workspace) -> Artifact:
    """The champion's artifact. Raises NoChampion, ArtifactError."""
    now = champion(workspace)
    if now is None:
        raise NoChampion(
            f"found nothing published for {workspace.project}; expected a champion; run `dlp run` for its brief"
        )
    return workspace.by_digest(STAGE, now.digest)


def give_traffic(
    workspace: Workspace,
    artifact: Artifact,
    partition: Partition,
    reason: str,
    evidence: Mapping[str, Any] | None = None,
) -> None:
    """Make a published model the champion. A crash before the routing table is replaced leaves the old one serving.

    Raises ArtifactError (a gate failed, a file is damaged), ParityError, TritonError.
    """
    _move(workspace, artifact, partition.key, "champion", reason, dict(evidence or {}))


def ensure_champion(workspace: Workspace, partition: Partition, artifact: Artifact) -> bool:
    """The first published model gets the traffic; True when this artifact did. Otherwise what serves is only repaired.

    The champion's own partition with other serving settings takes over too: the answers are the same, so there is
    nothing to compare.
    """
    now = champion(workspace)
    if now is None:
        give_traffic(workspace, artifact, partition, "the first published model of this project")
        return True
    if now.partition == partition.key and now.digest != artifact.digest:
        serves = workspace.by_digest(STAGE, now.digest)
        if serves.parents["compressed_model"] == artifact.parents["compressed_model"]:
            give_traffic(workspace, artifact, partition, "the same model with other serving settings")
            return True
    reconcile(workspace)
    return False


def previous(workspace: Workspace) -> Mapping[str, Any] | None:
    """The ledger row of the version that last served before the champion, or None."""
    now = champion(workspace)
    moves = [row for row in _ledger(workspace) if row["event"] in _MOVES]
    return next((row for row in reversed(moves) if now and row["digest"] != now.digest), None)


def rollback(workspace: Workspace, reason: str = "rolled back by hand") -> Champion:
    """Give the traffic back to the version that last served, byte for byte. Raises NoChampion when there is none."""
    row = previous(workspace)
    if row is None:
        raise NoChampion(
            f"found no version of {workspace.project} that served before the present one; expected two in the ledger; "
            "promote another model first"
        )
    artifact = workspace.by_digest(STAGE, row["digest"])
    _move(workspace, artifact, row["partition"], "rollback", reason, {"served_at": row["at"]})
    now = champion(workspace)
    assert now is not None
    return now


def reconcile(workspace: Workspace) -> list[str]:
    """Repair what a crash left, so that the champion of the routing table can serve; returns what was done.

    Needs no server; what it put back is loaded by the next use. Raises ArtifactError when the champion's own artifact
    is damaged.
    """
    with exclusive(workspace):
        return _reconcile(workspace, TritonServer(workspace.home))


@contextlib.contextmanager
def serving(workspace: Workspace) -> Iterator[TritonServer]:
    """The running server with the project's router and champion loaded. Raises NoChampion, TritonError."""
    artifact_of(workspace)
    if TritonServer(workspace.home).state() is None:
        reconcile(workspace)  # a start loads what is there: it must be whole
    with running(workspace.home) as server:
        ensure_served(workspace, server)
        yield server


def ensure_served(workspace: Workspace, server: TritonServer) -> None:
    """Have the router and the champion answer: look first, repair and load only what does not.

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
    if not all(control.model_ready(name) for name in (workspace.project, *(arm.model for arm in table.arms))):
        reconcile(workspace)
        server.serve(workspace.project)


def _move(
    workspace: Workspace, artifact: Artifact, partition: str, event: str, reason: str, evidence: dict[str, Any]
) -> None:
    artifact.require_gates().verify()
    about = artifact.read_json("model.json")
    model, files = about["model"], repository.model_files(artifact)
    with running(workspace.home) as server, exclusive(workspace):
        _reconcile(workspace, server)
        now = champion(workspace)
        if now and now.digest == artifact.digest:
            server.serve(workspace.project)
            return
        repository.install(workspace.home, model, files)
        row = {"model": model, "digest": artifact.digest, "partition": partition, "reason": reason}
        version = _append(workspace, event="published", evidence={**evidence, "event": event}, **row)
        control = server.control
        control.load(model)
        require_live_parity(server, artifact, model)
        _install_router(workspace, artifact, control)
        durable.write_json(server.routing(workspace.project), only(workspace.project, model, version).plain())
        _append(workspace, event=event, evidence={**evidence, "version": version}, **row)
        if not control.model_ready(workspace.project):
            control.load(workspace.project)
        _forget(workspace, server)


def _install_router(workspace: Workspace, artifact: Artifact, control: Control | None) -> bool:
    """The router as this artifact wants it (batching, durability); a loaded one is loaded anew when it changed."""
    text = artifact.file("router.pbtxt").read_text(encoding="utf-8")
    changed = repository.install(workspace.home, workspace.project, repository.router_files(text))
    if changed and control and control.model_ready(workspace.project):
        control.load(workspace.project)
    return changed


def _reconcile(workspace: Workspace, server: TritonServer) -> list[str]:
    home, project, done = workspace.home, workspace.project, list[str]()
    control = server.control if server.state() else None
    if left := repository.leftovers(home, project):
        drop(workspace, server, *left)
        done += [f"removed {name}" for name in left]
    for path in (home.server / "incoming").glob(f"{project}*"):
        durable.remove_tree(path)
        done.append(f"removed the unfinished {path.name}")
    now = champion(workspace)
    if now is None:
        return done
    rows = {row["id"]: row for row in _ledger(workspace)}
    published = rows[now.version]
    if not any(row["event"] in _MOVES and row["evidence"].get("version") == now.version for row in rows.values()):
        evidence = dict(published["evidence"])
        event = evidence.pop("event", "champion")
        copied = {key: published[key] for key in ("model", "digest", "partition", "reason")}
        _append(workspace, event=event, evidence={**evidence, "version": now.version}, **copied)
        done.append(f"wrote the ledger's row of {now.model}")
    artifact = workspace.by_digest(STAGE, now.digest)
    if repository.install(home, now.model, repository.model_files(artifact.verify())):
        done.append(f"put {now.model} back")
    if _install_router(workspace, artifact, control):
        done.append(f"put the router {project} back")
    return done


def kept_models(workspace: Workspace) -> set[str]:
    """Names of the champion and of the version that last served: both stay loaded, for requests under way."""
    now, before = champion(workspace), previous(workspace)
    return {*([now.model] if now else []), *([before["model"]] if before else [])}


def drop(workspace: Workspace, server: TritonServer, *names: str) -> None:
    """Unload models and routers of a measurement, and remove what they have in the home."""
    home = workspace.home
    with contextlib.suppress(OSError):  # a server that died has unloaded everything
        if server.state():
            server.control.unload(*(name for name in names if server.control.model_ready(name)))
    for name in names:
        repository.remove(home, name)
        server.routing(name).unlink(missing_ok=True)
        durable.remove_tree(home.server / "probes" / name)


def _forget(workspace: Workspace, server: TritonServer) -> None:
    kept = kept_models(workspace)
    names = [path.name for path in workspace.home.repository.glob(f"{workspace.project}__*")]
    drop(workspace, server, *(name for name in names if name not in kept))


def exclusive(workspace: Workspace):
    """A lock: one publication of a project at a time. A thread may take it again."""
    from filelock import FileLock

    workspace.home.locks.mkdir(parents=True, exist_ok=True)
    return FileLock(workspace.home.locks / f"serving-{workspace.project}.lock", is_singleton=True)


def _ledger(workspace: Workspace) -> list[Mapping[str, Any]]:
    from dl_pipelines.store.tables import served_ledger

    database = Database.of(workspace.home)
    with contextlib.closing(database):
        return database.rows(served_ledger, project=workspace.project)


def _append(workspace: Workspace, **values: Any) -> int:
    from dl_pipelines.store.tables import served_ledger

    database = Database.of(workspace.home)
    with contextlib.closing(database):
        return database.append(served_ledger, project=workspace.project, **values)
