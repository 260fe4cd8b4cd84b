"""Makes the routing table what the ledger of experiments says: after each row, and first of all after a crash.

A row is added, then the traffic follows; what a crash left in between is found and finished by the next call. Which
row to add is decided in experiment.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from dl_pipelines.brief.live import Router
from dl_pipelines.lifecycle import ledger
from dl_pipelines.lifecycle.ledger import Experiment, Row
from dl_pipelines.serving.champion import STAGE, Champion, champion, exclusive, routed
from dl_pipelines.serving.deadly import DeadlyError
from dl_pipelines.serving.parity import ParityError
from dl_pipelines.serving.process import TritonError
from dl_pipelines.serving.repository import RepositoryError
from dl_pipelines.serving.server import TritonServer
from dl_pipelines.serving.state import ServerState
from dl_pipelines.serving.traffic import give_traffic
from dl_pipelines.serving.trial import TrialError, end_trial, put_challenger, require_servable
from dl_pipelines.store.artifacts import ArtifactError
from dl_pipelines.store.database import Database
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.wire.routing import RoutingTable

SENSOR = "sensor"
UNFIT = (DeadlyError, ParityError, ArtifactError, RepositoryError)
"""What a model is that may not answer clients, whoever decided that it should."""


def to_mend(workspace: Workspace) -> str:
    """What is not as the ledger says, or nothing: a crash was between a row and the table, or a person was faster."""
    every = ledger.experiments(workspace)
    if not every:
        return ""
    last, table, now = every[-1], routed(workspace), champion(workspace)
    on_trial = table is not None and table.revision in last.revisions and _has_challenger(table)
    moved = now is None or now.version != last.version
    if last.end is None:
        if moved:
            return f"{now.model if now else 'nothing'} serves now, not {last.champion}"
        return "" if on_trial and table and table.revision == last.stage["id"] else "the challenger has not its share"
    if last.end["event"] == ledger.PROMOTED and not moved and not _given(workspace, last.end):
        return f"{last.challenger} was to be promoted"
    return f"{last.challenger} was to be taken out" if on_trial else ""


def mend(workspace: Workspace, router: Router) -> list[str]:
    """Make the routing table what the newest experiment's rows say; sentences on what was done.

    Raises TritonError, RoutingError; a challenger that can't be served any more ends its experiment.
    """
    if not to_mend(workspace):  # the common case, without the lock
        return []
    with exclusive(workspace):  # nobody moves the champion between the look and the move
        return _mend(workspace, router) if to_mend(workspace) else []


def _mend(workspace: Workspace, router: Router) -> list[str]:
    last, now = ledger.experiments(workspace)[-1], champion(workspace)
    if last.end is None and (now is None or now.version != last.version):
        return _moved(workspace, last, now)
    if last.end is None:
        return _put(workspace, router, last)
    if last.end["event"] == ledger.PROMOTED:
        return _promote(workspace, router, last, last.end)
    end_trial(workspace, last.end["id"])
    return [f"{last.challenger} is taken out; {last.champion} has the traffic"]


def _promote(workspace: Workspace, router: Router, found: Experiment, row: Row) -> list[str]:
    """Give the challenger all traffic, as its row says; one that was damaged since is taken out, and a row says so."""
    facts = {"rollout": row["id"], "experiment": found.name, "champion": found.champion}
    before = TritonServer(workspace.home).state()
    try:
        artifact = workspace.by_digest(STAGE, found.first["decision"]["digest"])
        give_traffic(
            workspace, artifact, Partition.parse(row["partition"]), row["reason"], facts, actor=row["actor"]
        )  # fmt: skip
    except (*UNFIT, TritonError) as error:
        if _away(workspace, found, error, before):
            raise
        reason, key = f"the challenger can't be promoted: {error}", f"{found.name}:not promoted"
        told = _add(workspace, found, ledger.STOPPED, row["stage"], row["share"], {}, reason, SENSOR, key)
        return told + mend(workspace, router)
    return [f"{found.challenger} has the traffic"]


def promote(
    workspace: Workspace, router: Router, found: Experiment, reason: str, actor: str, decision: Mapping[str, Any]
) -> list[str]:
    """End an experiment by the promotion of its challenger, which is loaded and compared before any row says so.

    One that can't be served is taken out instead. Raises TritonError when the server is away: then nothing has ended.
    """
    with exclusive(workspace):  # nobody moves the champion between the look and the row
        if not _goes_on(workspace, found):
            return mend(workspace, router)
        before = TritonServer(workspace.home).state()
        try:
            require_servable(workspace, workspace.by_digest(STAGE, found.first["decision"]["digest"]))
        except (*UNFIT, TritonError) as error:
            if _away(workspace, found, error, before):
                raise
            return end(workspace, router, found, ledger.STOPPED, f"the challenger can't be promoted: {error}", SENSOR)
        return end(workspace, router, found, ledger.PROMOTED, reason, actor, decision)


def _away(workspace: Workspace, found: Experiment, error: Exception, before: ServerState | None) -> bool:
    """Whether the server is to blame for an error, not the challenger: it does not load the champion either.

    Or it was started again since `before`: what it had under way then was cut off.
    """
    if not isinstance(error, TritonError):
        return False
    server = TritonServer(workspace.home)
    try:
        server.control.load(found.champion)
    except (TritonError, OSError):
        return True
    now = server.state()
    return now is not None and (now.born != before.born if before else now.restarts > 0)


def _put(workspace: Workspace, router: Router, found: Experiment) -> list[str]:
    row, before = found.stage, TritonServer(workspace.home).state()
    try:
        artifact = workspace.by_digest(STAGE, found.first["decision"]["digest"])
        put_challenger(
            workspace, artifact, share=row["share"], salt=found.name, revision=row["id"], router=router
        )  # fmt: skip
    except (*UNFIT, TrialError, TritonError) as error:
        if _away(workspace, found, error, before):
            raise
        return end(workspace, router, found, ledger.STOPPED, f"the challenger can't be served: {error}", SENSOR)
    what = "sees all and answers nobody" if row["share"] == 0 else f"answers {row['share']:.1%} of the units"
    return [f"{found.challenger} {what}"]


def _moved(workspace: Workspace, found: Experiment, now: Champion | None) -> list[str]:
    """End an experiment whose champion somebody moved."""
    took_over = now is not None and now.model == found.challenger
    event, actor = (ledger.PROMOTED if took_over else ledger.STOPPED), (now.actor if now else "") or "unknown"
    reason = f"{now.model if now else 'nothing'} was given the traffic: {now.reason if now else 'the table is gone'}"
    row = found.stage
    return _add(workspace, found, event, row["stage"], row["share"], {}, reason, actor, f"{found.name}:end")


def end(
    workspace: Workspace, router: Router, found: Experiment, event: str, reason: str, actor: str,
    decision: Mapping[str, Any] | None = None,
) -> list[str]:  # fmt: skip
    """End an experiment, unless it has ended, and have the traffic follow."""
    row, key = found.stage, f"{found.name}:end"
    told = add(workspace, found, event, row["stage"], row["share"], decision or {}, reason, actor, key)
    return told + mend(workspace, router)


def add(
    workspace: Workspace, found: Experiment, event: str, stage: int, share: float, decision: Mapping[str, Any],
    reason: str, actor: str, key: str,
) -> list[str]:  # fmt: skip
    """Add a row to an experiment; what it says as a sentence, nothing when its key is there already.

    Nothing either when the experiment has ended since it was read, or the champion was moved: `mend` then says so.
    """
    with exclusive(workspace):  # who moves the champion holds this, and ends the experiment
        if not _goes_on(workspace, found):
            return []
        return _add(workspace, found, event, stage, share, decision, reason, actor, key)


def _goes_on(workspace: Workspace, found: Experiment) -> bool:
    """Whether an experiment has not ended since it was read, and its champion serves."""
    now = champion(workspace)
    return not ledger.newest(workspace, found.name).end and now is not None and now.version == found.version


def _add(
    workspace: Workspace, found: Experiment, event: str, stage: int, share: float, decision: Mapping[str, Any],
    reason: str, actor: str, key: str,
) -> list[str]:  # fmt: skip
    added = ledger.add(
        workspace, key, experiment=found.name, event=event, stage=stage, share=share, champion=found.champion,
        challenger=found.challenger, partition=found.first["partition"], decision=decision, reason=reason, actor=actor,
    )  # fmt: skip
    words = f"stage {stage}" if event == ledger.STAGE else event.replace("_", " ")
    return [f"{found.challenger}: {words} ({reason})"] if added else []


def began(workspace: Workspace, stage: Row) -> float:
    """When the routing table took a stage, in seconds since 1970; until then when its row was added."""
    taken = [
        row["at"]
        for row in _served(workspace)
        if row["event"] == "challenger" and row["evidence"].get("revision") == stage["id"]
    ]
    return datetime.fromisoformat(taken[0] if taken else stage["at"]).timestamp()


def _given(workspace: Workspace, end: Row) -> bool:
    """Whether the move of a promotion is in the ledger of what serves."""
    return any(row["evidence"].get("rollout") == end["id"] for row in _served(workspace) if row["event"] != "published")


def _served(workspace: Workspace) -> list[Row]:
    from dl_pipelines.store.tables import served_ledger

    with contextlib.closing(Database.of(workspace.home, workspace.project)) as database:
        return database.rows(served_ledger, project=workspace.project)


def _has_challenger(table: RoutingTable) -> bool:
    return bool(table.shadow) or len(table.arms) > 1
