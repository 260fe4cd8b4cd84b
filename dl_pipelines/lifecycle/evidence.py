"""What a stage of a live experiment has shown so far, counted from the tables; `rollout` decides on it.

Everything is by the arm that a unit was assigned to, whoever answered in the end. A unit counts once, by the mean of
its requests. How requests are counted is in counted.py, how answers are judged in judged.py.
"""

from __future__ import annotations

import contextlib
import math

from dl_pipelines.lifecycle.counted import breaker, of_arms, of_shadow
from dl_pipelines.lifecycle.judged import Stage, of_stage, scores
from dl_pipelines.lifecycle.rollout import ArmEvidence, Evidence
from dl_pipelines.store.database import Database
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.tasks.base import Task
from dl_pipelines.wire.routing import CHALLENGER, CHAMPION

HOUR = 3600.0


def gather(
    workspace: Workspace, task: Task, stage: Stage, label_hours: float, at: float, limit_ms: float = math.inf
) -> Evidence:
    """The evidence of a stage at the time `at`; only requests `label_hours` older than it are judged by their labels.

    An answer of either arm after more than `limit_ms` (serving.router.timeout_ms) is a failure, and its time that
    limit: a challenger is not waited for any longer, a champion is.

    `matured` and `labelled` count units: of those with an answer that is old enough, those with a label. What lies
    outside of the log's sample can't be judged and is in neither. In a shadow stage the challenger's figures are of the
    answers that nobody got, the champion's of the requests that the shadow was shown, and `paired` of units that both
    answered.
    """
    database = Database.of(workspace.home, workspace.project)
    with contextlib.closing(database), database.begin() as connection:
        counted = (of_shadow if stage.shadow else of_arms)(connection, stage, limit_ms)
        found, paired = scores(connection, stage, task, at - label_hours * HOUR)
        why = breaker(connection, stage)
    arms = {
        name: ArmEvidence(
            of.units, of.requests, of.failed, dict(sorted(of.latency.items())),
            found[name].units, found[name].moments.count, found[name].moments,
        )
        for name, of in counted.items()
    }  # fmt: skip
    hours = max(0.0, at - stage.since) / HOUR
    return Evidence(stage.number, hours, arms[CHAMPION], arms[CHALLENGER], paired, why)


def counts(workspace: Workspace, stage: Stage) -> dict[str, int]:
    """How many rows there are that `gather` would look at: as long as they stay the same, only time has passed."""
    import sqlalchemy as sa

    from dl_pipelines.store import tables

    database = Database.of(workspace.home, workspace.project)
    with contextlib.closing(database), database.begin() as connection:
        found: dict[str, int] = {}
        for table in (tables.predictions, tables.shadow_predictions, tables.router_events):
            query = sa.select(sa.func.count()).select_from(table).where(*of_stage(table, stage))
            found[table.name] = connection.execute(query).scalar_one()
        labels, answers = tables.labels, tables.predictions
        same = (labels.c.project == answers.c.project) & (labels.c.request_id == answers.c.request_id)
        query = sa.select(sa.func.count()).select_from(answers.join(labels, same)).where(*of_stage(answers, stage))
        return {**found, "labels": connection.execute(query).scalar_one()}
