"""Looks at a project's live experiment and requests the step that its evidence, or a crash, asks for.

What to do is `lifecycle.rollout.decide_rollout`; what is due is told by `lifecycle.experiment`, which the run of the
job carries out. The ledger's keys let the same evidence move once, so a request needs none.
"""

import time

import dagster as dg

from dl_pipelines import catalog
from dl_pipelines.brief import Brief
from resources.workspaces import WorkspaceResource

AT_WORK = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
)


def rollout_sensor(brief: Brief, rollout: dg.JobDefinition) -> dg.SensorDefinition:
    """A run of the rollout job whenever there is something for it to do, one at a time."""

    @dg.sensor(
        name=f"{brief.project}_rollout_sensor",
        job=rollout,
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
        description="Looks at the challenger's live experiment; a step of it is a run.",
    )
    def sensor(context: dg.SensorEvaluationContext, workspaces: dg.ResourceParam[WorkspaceResource]):
        from dl_pipelines.lifecycle.experiment import Rules, due

        at_work = dg.RunsFilter(job_name=rollout.name, statuses=list(AT_WORK))
        if context.instance.get_runs_count(at_work):
            return dg.SkipReason("a step is being carried out")
        workspace, rules = workspaces.open(brief.project, context.log.info), Rules.of(brief, catalog.task_of(brief))
        found = due(workspace, rules, time.time(), context.cursor or "")
        if not found.needed:
            return dg.SensorResult(skip_reason=found.told, cursor=found.seen)
        context.log.info(found.told)
        return dg.SensorResult(run_requests=[dg.RunRequest()], cursor=found.seen)

    return sensor
