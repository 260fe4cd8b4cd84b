"""Reads the drift reports that were stored since the last tick and requests a retraining for an alarm, once a report.

What to do is decided and stored by `lifecycle.retraining`, for `dlp run` as for this sensor; the run key carries the
report's digest, which Dagster remembers for ever.
"""

import dagster as dg

from assets.partitions import source_days
from assets.stage import key_of
from dl_pipelines.brief import BASE, Brief
from dl_pipelines.store.artifacts import ArtifactError
from dl_pipelines.store.workspace import Partition, Workspace
from resources.workspaces import WorkspaceResource
from sensors.jobs import daily_request

LIMIT = 100
"""Materialisations a tick: it has 60 s."""
RUN_KEY = "dagster/run_key"
"""Dagster's tag of a run that a sensor requested."""


def drift_sensor(brief: Brief, daily) -> dg.SensorDefinition:
    """Requests the daily run of the newest day with records; the model follows it (sensors/training.py)."""

    @dg.sensor(
        name=f"{brief.project}_drift",
        job=daily,
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=15,
        description="Retrains when a live window has drifted.",
    )
    def sensor(context: dg.SensorEvaluationContext, workspaces: dg.ResourceParam[WorkspaceResource]):
        after = int(context.cursor) if context.cursor else None
        records = context.instance.fetch_materializations(
            dg.AssetRecordsFilter(key_of(brief, "drift_report"), after_storage_id=after), limit=LIMIT, ascending=True
        ).records
        if not records:
            return dg.SkipReason("no new drift report")
        workspace = workspaces.open(brief.project, context.log.info)
        requests: dict[str, dg.RunRequest] = {}
        reasons = []
        for record in records:
            outcome = _decide(brief, workspace, context.instance, record)
            if isinstance(outcome, dg.RunRequest):
                requests[str(outcome.run_key)] = outcome  # a run that found its report again stored it a second time
            else:
                reasons.append(outcome)
        cursor = str(records[-1].storage_id)
        if requests:
            return dg.SensorResult(run_requests=list(requests.values()), cursor=cursor)
        return dg.SensorResult(skip_reason="; ".join(reasons), cursor=cursor)

    return sensor


def _decide(
    brief: Brief, workspace: Workspace, instance: dg.DagsterInstance, record: dg.EventLogRecord
) -> dg.RunRequest | str:
    """A request, or why there is none."""
    from dl_pipelines.lifecycle.retraining import Retraining, request_key, settle_retraining

    made = record.asset_materialization
    assert made is not None
    digest, partition = str(made.metadata["digest"].value), Partition.parse(record.partition_key or "")
    key, found = request_key(digest, partition.experiment or BASE), source_days(brief)
    executed = instance.get_runs_count(dg.RunsFilter(tags={RUN_KEY: key})) > 0
    try:
        report = workspace.by_digest("drift_report", digest)
        decision = settle_retraining(workspace, report, partition, found, brief.lifecycle.retrain_on_drift, executed)
    except ArtifactError as error:  # `dlp gc` may have removed it: an old report must not stop the newer ones
        return f"{partition.key}: {error}"
    if not isinstance(decision, Retraining):
        return f"{partition.key}: {decision.reason}"
    return daily_request(brief, workspace, found, decision.day, decision.experiment, decision.reason, decision.key)
