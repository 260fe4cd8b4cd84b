"""Alerts when a run failed, whoever started it: by the log, and by the webhook of its brief.

A run whose process was killed can't say so itself: it is marked as failed first.
"""

from collections.abc import Mapping

import dagster as dg

from dl_pipelines.brief import Brief
from resources.workspaces import WorkspaceResource
from sensors.jobs import PROJECT


def failure_sensor(briefs: Mapping[str, Brief]) -> dg.SensorDefinition:
    """One sensor for all projects; runs in a process of our own belong to no code location, so all are watched."""

    @dg.run_failure_sensor(
        name="run_failure_alert",
        monitor_all_code_locations=True,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells the log and the webhook of the brief that a run failed.",
    )
    def sensor(context: dg.RunFailureSensorContext, workspaces: dg.ResourceParam[WorkspaceResource]):
        from dl_pipelines.monitoring.alerts import alert

        run = context.dagster_run
        project = project_of(run, briefs)
        if project is None:
            return dg.SkipReason(f"run {run.run_id} is of no project of ours")
        workspace = workspaces.open(project, context.log.info)
        steps = [event.step_key for event in context.get_step_failure_events() if event.step_key]
        body = {"run": run.run_id, "job": run.job_name, "steps": steps, "message": reason(context)}
        subject = f"{project}: the run {run.run_id[:8]} failed" + (f" in {', '.join(steps)}" if steps else "")
        alert(workspace, "run_failure", f"run:{run.run_id}", subject, body, briefs[project].monitoring.webhook)
        return None

    return sensor


@dg.sensor(
    name="lost_runs",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    description="Marks runs as failed whose process was killed.",
)
def lost_runs(context: dg.SensorEvaluationContext):
    """Nothing else would, and no other run would get the machine."""
    from resources.lost import reap

    gone = reap(context.instance)
    return dg.SkipReason(f"marked as failed: {', '.join(gone)}" if gone else "no run has lost its process")


def project_of(run: dg.DagsterRun, briefs: Mapping[str, Brief]) -> str | None:
    """The project of a run: its tag, else the first part of what it selects."""
    names = [run.tags.get(PROJECT, ""), *(key.path[0] for key in run.asset_selection or ())]
    return next((name for name in names if name in briefs), None)


def reason(context: dg.RunFailureSensorContext) -> str:
    """What the first failed step said, in the library's words."""
    for event in context.get_step_failure_events():
        data = event.step_failure_data
        if data.user_failure_data and data.user_failure_data.description:
            return data.user_failure_data.description
    return context.failure_event.message or "it failed before its first step"
