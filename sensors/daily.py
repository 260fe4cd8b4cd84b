"""The daily schedule: yesterday's records, and a model of them. A day without records is skipped with that reason."""

from datetime import date, timedelta
from zoneinfo import ZoneInfo

import dagster as dg

from assets.partitions import source_days
from dl_pipelines.brief import BASE, Brief
from resources.workspaces import WorkspaceResource
from sensors.jobs import daily_job_name, daily_request


def retraining_schedule(brief: Brief) -> dg.ScheduleDefinition:
    """At `lifecycle.retrain_hour` in the time zone of the brief."""

    @dg.schedule(
        name=f"{brief.project}_retraining",
        job_name=daily_job_name(brief),
        cron_schedule=f"0 {brief.lifecycle.retrain_hour} * * *",
        execution_timezone=brief.data.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Trains on the records up to yesterday.",
    )
    def schedule(context: dg.ScheduleEvaluationContext, workspaces: dg.ResourceParam[WorkspaceResource]):
        day = yesterday(context, brief)
        found = source_days(brief)
        if day not in found:
            last = f"; the last day with records is {found[-1]}" if found else ""
            return dg.SkipReason(f"no records arrived on {day}{last}")
        workspace = workspaces.open(brief.project, context.log.info)
        key = f"schedule:{day.isoformat()}"
        return daily_request(brief, workspace, found, day, BASE, f"daily retraining of {day}", key)

    return schedule


def yesterday(context: dg.ScheduleEvaluationContext, brief: Brief) -> date:
    """The day before the tick, in the brief's time zone."""
    return context.scheduled_execution_time.astimezone(ZoneInfo(brief.data.timezone)).date() - timedelta(days=1)
