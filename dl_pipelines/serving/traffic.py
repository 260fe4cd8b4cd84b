"""Moves all traffic from one model to another: the first publication, a promotion, a rollback.

Order: copy under another name, verify, rename, load with warm-up, live parity, ledger row `published`, routing table,
ledger row of the move. The routing table is the one step that moves traffic; repair.py mends what a crash left. What
does not load, or answers otherwise than its artifact, is in no ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dl_pipelines.serving import repository, rollouts
from dl_pipelines.serving.champion import STAGE, Champion, NoChampion, append, champion, exclusive, ledger, previous
from dl_pipelines.serving.deadly import forgive
from dl_pipelines.serving.parity import load_and_compare
from dl_pipelines.serving.repair import install_router, mend, reconcile, settle
from dl_pipelines.serving.server import running
from dl_pipelines.serving.unloading import clean_up, forget
from dl_pipelines.store import durable
from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.wire.routing import only


def give_traffic(
    workspace: Workspace,
    artifact: Artifact,
    partition: Partition,
    reason: str,
    evidence: Mapping[str, Any] | None = None,
    actor: str = "run",
) -> None:
    """Make a published model the champion; a trial ends. A crash before the table is replaced leaves the old serving.

    `actor` goes into the ledger: run, sensor, or a person's login name. Raises ArtifactError (a gate failed, a file is
    damaged), RepositoryError, ParityError, DeadlyError, TritonError.
    """
    _move(workspace, artifact, partition.key, "champion", reason, dict(evidence or {}), actor)


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


def rollback(workspace: Workspace, reason: str = "rolled back by hand", actor: str = "run") -> Champion:
    """Give the traffic back to the version that last served, byte for byte. Raises NoChampion when there is none.

    What was rolled back is not gone back to: a second rollback goes one version further (see `previous`).
    """
    with exclusive(workspace):  # who serves is not changed between the look and the move
        row = previous(workspace)
        if row is None:
            raise NoChampion(
                f"found no version of {workspace.project} that served before the present one; expected two in the "
                "ledger, the older one not rolled back itself; promote another model first"
            )
        artifact = workspace.by_digest(STAGE, row["digest"])
        forgive(workspace.home, artifact)  # it has served, and a person wants it back
        _move(workspace, artifact, row["partition"], "rollback", reason, {"served_at": row["at"]}, actor)
        now = champion(workspace)
    assert now is not None
    return now


def _move(
    workspace: Workspace, artifact: Artifact, partition: str, event: str, reason: str, evidence: dict[str, Any],
    actor: str,
) -> None:  # fmt: skip
    artifact.require_gates().verify()
    with running(workspace.home) as server, exclusive(workspace):
        mend(workspace, server)
        now = champion(workspace)
        if now and now.digest == artifact.digest:
            server.serve(workspace.project)
            return
        under_way = rollouts.open_rollout(workspace)
        ends = {"ends": under_way["id"]} if under_way else {}
        with clean_up(workspace, server):
            model = repository.install_model(workspace.home, workspace.project, artifact)
            load_and_compare(server, artifact, model)
            row = {"model": model, "digest": artifact.digest, "partition": partition, "reason": reason, "actor": actor}
            version = append(workspace, event="published", evidence={**evidence, "event": event, **ends}, **row)
        install_router(workspace, artifact, server.control)
        durable.write_json(server.routing(workspace.project), only(workspace.project, model, version).plain())
        settle(workspace, next(row for row in ledger(workspace) if row["id"] == version))
        if not server.control.model_ready(workspace.project):
            server.control.load(workspace.project)
        forget(workspace, server)
