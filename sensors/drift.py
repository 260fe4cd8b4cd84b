"""Reads the drift reports that were stored since the last tick and requests a retraining for an alarm, once a report.

What to do is `lifecycle.retraining.decide_retraining`; the run key carries the report's digest, which Dagster
remembers for ever.
"""

from datetime import date

import dagster as dg

from assets.partitions import source_days
from assets.stage import key_of
from dl_pipelines.brief import Brief
from dl_pipelines.store.workspace import Partition, Workspace
from resources.workspaces import WorkspaceResource
from sensors.jobs import daily_job_name, daily_request

LIMIT = 100
"""Materialisations a tick: it has 60 s."""


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
        requests, reasons = [], []
        for record in records:
            outcome = _decide(brief, workspace, record)
            (requests if isinstance(outcome, dg.RunRequest) else reasons).append(outcome)
        cursor = str(records[-1].storage_id)
        if requests:
            return dg.SensorResult(run_requests=requests, cursor=cursor)
        return dg.SensorResult(skip_reason="; ".join(reasons), cursor=cursor)

    return sensor


def _decide(brief: Brief, workspace: Workspace, record: dg.EventLogRecord) -> dg.RunRequest | str:
    """A request, or why there is none."""
    from dl_pipelines.lifecycle.retraining import Retraining, decide_retraining

    made = record.asset_materialization
    assert made is not None
    digest, partition = str(made.metadata["digest"].value), Partition.parse(record.partition_key or "")
    report = workspace.by_digest("drift_report", digest).read_json("report.json")
    newest = [day for day in source_days(brief) if day <= date.max]
    decision = decide_retraining(
        report, digest, partition.experiment or "base", newest, set(), brief.lifecycle.retrain_on_drift
    )
    if not isinstance(decision, Retraining):
        return f"{partition.key}: {decision.reason}"
    return daily_request(brief, workspace, newest, decision.day, decision.experiment, decision.reason, decision.key)


__all__ = ["daily_job_name", "drift_sensor"]
