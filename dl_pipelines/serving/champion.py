"""Which model serves, which served before it, and what has to stay: read from the routing table and the ledger.

Nothing moves here: traffic.py gives traffic, trial.py a share of it, repair.py mends what a crash left.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dl_pipelines.serving.server import TritonServer
from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.store.database import Database, now, patiently
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.wire.routing import RoutingTable, read_table

STAGE = "triton_repository"
MOVES = ("champion", "rollback")
"""Events of the ledger that changed the champion."""
Row = Mapping[str, Any]
"""A row of the ledger as plain data."""


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
    actor: str = ""


def routed(workspace: Workspace) -> RoutingTable | None:
    """The project's routing table; None before the first publication. Raises RoutingError when it is damaged."""
    path = TritonServer(workspace.home).routing(workspace.project)
    return read_table(path) if path.exists() else None


def champion(workspace: Workspace) -> Champion | None:
    """What the routing table says serves, with its row of the ledger; None before the first publication."""
    table = routed(workspace)
    return None if table is None else _champion(workspace, table, ledger(workspace))


def _champion(workspace: Workspace, table: RoutingTable, rows: list[Row]) -> Champion:
    rows = [row for row in rows if row["model"] == table.champion and row["id"] >= table.version]
    if not rows:
        raise NoChampion(
            f"found {table.champion} in the routing table of {workspace.project} without a row of the ledger; expected "
            "the database of this home; check DLP_DATABASE_URL"
        )
    row = next((row for row in rows if row["event"] in MOVES), rows[0])
    return Champion(
        table.champion, row["digest"], row["partition"], row["at"], row["reason"], table.version, row["actor"]
    )


def artifact_of(workspace: Workspace) -> Artifact:
    """The champion's artifact. Raises NoChampion, ArtifactError."""
    now = champion(workspace)
    if now is None:
        raise NoChampion(
            f"found nothing published for {workspace.project}; expected a champion; run `dlp run` for its brief"
        )
    return workspace.by_digest(STAGE, now.digest)


def previous(workspace: Workspace) -> Row | None:
    """The ledger row of the version that a rollback brings back, or None.

    It is the last one that served before the champion and was not itself rolled back: two rollbacks in a row go two
    versions back, not forth again to what was taken out.
    """
    now = champion(workspace)
    return None if now is None else _below(ledger(workspace), now.digest)


def _below(rows: list[Row], digest: str) -> Row | None:
    """The row under `digest` on the pile that promotions add to and rollbacks take from."""
    pile: list[Row] = []
    for row in rows:
        if row["event"] not in MOVES:
            continue
        if row["event"] == "rollback" and any(row["digest"] == below["digest"] for below in pile):
            while pile[-1]["digest"] != row["digest"]:
                pile.pop()
        else:
            pile.append(row)
    if pile and pile[-1]["digest"] == digest:
        pile.pop()  # else a crash came between the table and the ledger: what is on top served before
    return next((row for row in reversed(pile) if row["digest"] != digest), None)


def kept(workspace: Workspace) -> dict[str, str]:
    """Digests of the artifacts that must stay whole, and their models, which must stay loaded.

    The champion, what a rollback would bring back, what served last (requests to it may be under way), and the
    challenger of a trial.
    """
    table = routed(workspace)
    if table is None:
        return {}
    rows = ledger(workspace)
    now = _champion(workspace, table, rows)
    last = next((row for row in reversed(rows) if row["event"] in MOVES and row["digest"] != now.digest), None)
    found = {now.digest: now.model}
    for row in (_below(rows, now.digest), last):
        if row:
            found[row["digest"]] = row["model"]
    for model in table.models[1:]:
        row = challenger_row(rows, table, model)
        found |= {row["digest"]: model} if row else {}
    return found


def kept_models(workspace: Workspace) -> set[str]:
    """Names of the models that stay loaded; also one of a trial of which the ledger knows nothing."""
    table = routed(workspace)
    return {*kept(workspace).values(), *(table.models if table else ())}


def challenger_row(rows: list[Row], table: RoutingTable, model: str) -> Row | None:
    """The ledger row with which `model` came into this table's trial."""
    found = [row for row in rows if row["model"] == model and row["evidence"].get("revision") == table.revision]
    return found[-1] if found else None


def exclusive(workspace: Workspace):
    """A lock: one publication of a project at a time. A thread may take it again."""
    from filelock import FileLock

    workspace.home.locks.mkdir(parents=True, exist_ok=True)
    return FileLock(workspace.home.locks / f"serving-{workspace.project}.lock", is_singleton=True)


def ledger(workspace: Workspace) -> list[Row]:
    """All rows of the project, oldest first. Raises DatabaseError."""
    from dl_pipelines.store.tables import served_ledger

    with contextlib.closing(Database.of(workspace.home, workspace.project)) as database:
        return patiently(lambda: database.rows(served_ledger, project=workspace.project), "read what served")


def append(workspace: Workspace, **values: Any) -> int:
    """Add a row to the ledger, once also when the database restarts meanwhile; returns its id. Raises DatabaseError."""
    from dl_pipelines.store.tables import served_ledger

    values = {"at": now(), **values, "project": workspace.project}
    known = {name: values[name] for name in ("project", "at", "event", "model", "digest")}

    def add() -> int:
        there = [row for row in database.rows(served_ledger, **known) if row["evidence"] == values["evidence"]]
        return there[0]["id"] if there else database.append(served_ledger, **values)

    with contextlib.closing(Database.of(workspace.home, workspace.project)) as database:
        return patiently(add, "write what serves")
