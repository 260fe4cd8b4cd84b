"""A challenger beside the champion: its model loaded and compared with its artifact, a share of the units, or shadow.

Which share, and when it ends, is decided elsewhere (lifecycle); a move of the champion ends every trial.
"""

from __future__ import annotations

from dataclasses import replace

from dl_pipelines.brief.live import Router
from dl_pipelines.serving import parity, repository, rollouts
from dl_pipelines.serving.champion import NoChampion, append, artifact_of, exclusive, ledger, routed
from dl_pipelines.serving.repair import mend, settle, withdraw
from dl_pipelines.serving.server import TritonServer, running
from dl_pipelines.serving.unloading import clean_up, forget
from dl_pipelines.store import durable
from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.wire.routing import CHALLENGER, CHAMPION, Arm, RoutingTable, only


class TrialError(ValueError):
    """A challenger that may not be tried so, or a revision that is over; says why and what to do."""


def put_challenger(
    workspace: Workspace, artifact: Artifact, *, share: float, salt: str, revision: int, router: Router
) -> RoutingTable:
    """Give a published model `share` of the units (0: shadow), under this revision of the ledger of rollouts.

    The model is installed, loaded and compared live with its artifact first; the champion keeps the rest. The same
    revision twice changes nothing. Raises TrialError, NoChampion, ArtifactError, RepositoryError, ParityError,
    DeadlyError, TritonError: the table is then as it was.
    """
    if not 0 <= share < 1 or revision < 1:
        raise TrialError(
            f"found the share {share} and the revision {revision}; expected a share from 0 (shadow) to below 1 and the "
            "id of a row of the ledger of rollouts"
        )
    artifact.require_gates().verify()
    with running(workspace.home) as server, exclusive(workspace):
        mend(workspace, server)
        table = _table(workspace)
        _require_newest(workspace, table, revision)
        if table.revision == revision:
            server.serve(workspace.project)
            return table
        model = artifact.read_json("model.json")["model"]
        if other := _unfit(workspace, table, artifact, model):
            raise TrialError(other)
        with clean_up(workspace, server):
            repository.install_model(workspace.home, workspace.project, artifact)
            parity.load_and_compare(server, artifact, model)
            number = _publish(workspace, artifact, model, share, salt, revision)
        arms = (Arm(CHAMPION, table.champion, 1 - share), *([Arm(CHALLENGER, model, share)] if share else []))
        table = replace(
            only(workspace.project, table.champion, table.version), arms=arms, shadow="" if share else model, salt=salt,
            revision=revision, timeout_ms=router.timeout_ms, breaker=router.breaker,
        )  # fmt: skip
        _write(workspace, server, table)
        settle(workspace, next(row for row in ledger(workspace) if row["id"] == number))
        forget(workspace, server)
        return table


def require_servable(workspace: Workspace, artifact: Artifact) -> None:
    """Have a published model loaded and compared live with its artifact, as a move does; no ledger, no table knows.

    Raises ArtifactError, RepositoryError, ParityError, DeadlyError, TritonError: a model that no table names is
    taken out again.
    """
    artifact.require_gates().verify()
    with running(workspace.home) as server, exclusive(workspace):
        mend(workspace, server)
        with clean_up(workspace, server):
            model = repository.install_model(workspace.home, workspace.project, artifact)
            parity.load_and_compare(server, artifact, model)


def end_trial(workspace: Workspace, revision: int) -> RoutingTable:
    """Give the champion everything again; the challenger's model is unloaded unless it served last.

    `revision` is the row of the ledger of rollouts that ends it. Without a trial nothing changes. Raises NoChampion,
    TrialError (a later revision has come), TritonError.
    """
    with running(workspace.home) as server, exclusive(workspace):
        mend(workspace, server)
        table = _table(workspace)
        if len(table.models) == 1:
            return table
        _require_newest(workspace, table, revision)
        table = replace(only(workspace.project, table.champion, table.version), revision=revision)
        _write(workspace, server, table)
        withdraw(workspace, table)
        forget(workspace, server)
        return table


def _table(workspace: Workspace) -> RoutingTable:
    table = routed(workspace)
    if table is None:
        raise NoChampion(
            f"found nothing published for {workspace.project}; expected a champion; run `dlp run` for its brief"
        )
    return table


def _require_newest(workspace: Workspace, table: RoutingTable, revision: int) -> None:
    """A revision that another one followed is over: who serves, or the stage, has changed since it was decided."""
    told = [row for row in rollouts.rollout_rows(workspace) if row["event"] != "proposed"]
    mine = next((row for row in told if row["id"] == revision), None)
    newest = max([table.revision, *(row["id"] for row in told if mine)])
    if newest > revision:
        raise TrialError(
            f"found the revision {revision} of {workspace.project}; expected {newest}, which came after it; look again "
            "at the experiment (`dlp ab status`)"
        )
    if mine and mine["champion"] != table.champion:
        raise TrialError(
            f"found {table.champion} serving {workspace.project}; expected {mine['champion']}, against which revision "
            f"{revision} is; start another experiment"
        )


def _unfit(workspace: Workspace, table: RoutingTable, artifact: Artifact, model: str) -> str | None:
    if model == table.champion:
        return f"found {model} as challenger of itself in {workspace.project}; expected another model"
    if other := repository.unlike(artifact_of(workspace), artifact):
        return f"not tried: {other}"
    return None


def _publish(workspace: Workspace, artifact: Artifact, model: str, share: float, salt: str, revision: int) -> int:
    """The ledger's row of a publication for a trial; its reason and actor are those of the rollout."""
    found = rollouts.rollout_rows(workspace, id=revision)
    told = found[0] if found else {"reason": "a trial", "actor": "run", "partition": ""}
    evidence = {"event": "challenger", "revision": revision, "share": share, "salt": salt}
    values = {name: told[name] for name in ("reason", "actor", "partition")}
    return append(workspace, event="published", model=model, digest=artifact.digest, evidence=evidence, **values)


def _write(workspace: Workspace, server: TritonServer, table: RoutingTable) -> None:
    durable.write_json(server.routing(workspace.project), table.plain())
    server.serve(workspace.project)
