"""Whether a drift report asks for a retraining, as a pure function, and the store of what was asked for.

It is executed by the daemon (sensors/drift.py), not here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import date
from typing import Any

from dl_pipelines.brief import BASE
from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.store.database import Database
from dl_pipelines.store.digest import SHORT
from dl_pipelines.store.workspace import Partition, Workspace


@dataclass(frozen=True)
class Retraining:
    """A model of `day` and `experiment` is to be trained because of `report` (a digest). `key` is the request's own."""

    day: date
    experiment: str
    reason: str
    key: str
    report: str

    @property
    def partition(self) -> Partition:
        """What is trained."""
        return Partition(self.day, self.experiment)


@dataclass(frozen=True)
class NoRetraining:
    """Why nothing is trained."""

    reason: str


def decide_retraining(
    report: Mapping[str, Any],
    digest: str,
    experiment: str,
    days: Sequence[date],
    already: Set[str],
    retrain_on_drift: bool,
) -> Retraining | NoRetraining:
    """What a drift report (plain data, with its digest) asks for: at most one retraining, on the newest of `days`.

    `days` are those with records that the report's model hasn't seen: trained again on the same days it would be the
    same model. `already` holds keys of earlier requests and the partitions that they train. Only `base` is retrained:
    an experiment has no traffic to drift.
    """
    alarms = [window for window in report["windows"] if window["decision"] == "alarm"]
    key = request_key(digest, experiment)
    if not alarms:
        told = ", ".join(f"{window['name']} {window['decision']}" for window in report["windows"])
        return NoRetraining(f"no window alarms ({told or 'there is none'})")
    if not retrain_on_drift:
        return NoRetraining(f"{_told(alarms)}, but lifecycle.retrain_on_drift is off")
    if experiment != BASE:
        return NoRetraining(f"{_told(alarms)}, but {experiment} is an experiment: only {BASE} is retrained")
    if not days:
        return NoRetraining(f"{_told(alarms)}, but no records have arrived since the model's day")
    decision = Retraining(max(days), experiment, _told(alarms), key, digest)
    asked = next((name for name in (key, decision.partition.key) if name in already), None)
    return NoRetraining(f"{_told(alarms)}, and {asked} was requested already") if asked else decision


def settle_retraining(
    workspace: Workspace, report: Artifact, partition: Partition, days: Sequence[date], retrain_on_drift: bool,
    executed: bool = False,
) -> Retraining | NoRetraining:  # fmt: skip
    """What the drift report of a partition asks for, with `days` all that have records; the request is stored.

    A request of this report that is stored already is returned as it is, so that all who ask mean the same day, until
    it was `executed`. A day for which another report has asked is not trained once more. Raises ArtifactError.
    """
    experiment = partition.experiment or BASE
    key, asked = request_key(report.digest, experiment), requested(workspace)
    already = {request.partition.key for name, request in asked.items() if name != key} | ({key} if executed else set())
    newer = [day for day in days if day > partition.day]
    decision = decide_retraining(
        report.read_json("report.json"), report.digest, experiment, newer, already, retrain_on_drift
    )
    if not isinstance(decision, Retraining) or request_retraining(workspace, decision):
        return decision
    return requested(workspace)[key]


def request_key(digest: str, experiment: str) -> str:
    """The key of what a report can ask for: once a report and experiment."""
    return f"drift:{digest[:SHORT]}:{experiment}"


def _told(alarms: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for window in alarms:
        drifted = [feature["name"] for feature in window.get("features", ()) if feature.get("drifted")]
        parts.append(window["name"] + (f" ({', '.join(drifted)})" if drifted else ""))
    return f"drift in {'; '.join(parts)}"


def request_retraining(workspace: Workspace, decision: Retraining) -> bool:
    """Store the request; False when a request of this key is stored already (that one stays as it is)."""
    from dl_pipelines.store.tables import retraining_requests

    with contextlib.closing(Database.of(workspace.home, workspace.project)) as database:
        return database.append_once(
            retraining_requests, project=workspace.project, key=decision.key, partition=decision.partition.key,
            reason=decision.reason, report=decision.report,
        )  # fmt: skip


def requested(workspace: Workspace) -> dict[str, Retraining]:
    """Every stored request by its key, oldest first."""
    from dl_pipelines.store.tables import retraining_requests

    with contextlib.closing(Database.of(workspace.home, workspace.project)) as database:
        rows = database.rows(retraining_requests, project=workspace.project)
    found = {}
    for row in rows:
        partition = Partition.parse(row["partition"])
        found[row["key"]] = Retraining(
            partition.day, partition.experiment or BASE, row["reason"], row["key"], row["report"]
        )
    return found
