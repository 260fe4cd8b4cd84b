"""Jobs: a day of data, a model of a day and an experiment, a promotion. One run has one kind of partition.

A retraining is two runs: the daily job brings the newest days in; when it succeeded and carries the tag RETRAIN, the
sensor of sensors/training.py requests the model job. So a model is never trained on a window whose days failed.
"""

from datetime import date

import dagster as dg

from assets.project import DATA, MODEL, WINDOW, names, stages_of
from assets.stage import RETRAIN, key_of
from dl_pipelines.brief import Brief
from dl_pipelines.catalog import task_of
from dl_pipelines.data.stages import stored_stage
from dl_pipelines.data.window import window_days
from dl_pipelines.store.workspace import Workspace
from resources.workspaces import WorkspaceResource

PROJECT = "dlp/project"
REASON = "dlp/reason"
BY_SENSOR = "dagster/sensor_name"
"""Dagster's tag of a run that a sensor asked for."""
RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")


def daily_job_name(brief: Brief) -> str:
    """Name of the daily job."""
    return f"{brief.project}_daily"


def model_job_name(brief: Brief) -> str:
    """Name of the model job."""
    return f"{brief.project}_model"


def daily_job(brief: Brief):
    """Everything that belongs to a day, up to the window of that day."""
    return dg.define_asset_job(
        daily_job_name(brief),
        selection=[key_of(brief, name) for name in names(stages_of(brief, (*DATA, *WINDOW)))],
        tags={PROJECT: brief.project},
        description="Records of a day, made fit to train on, and the window that ends on it.",
    )


def model_job(brief: Brief):
    """Everything that belongs to a model, up to its report."""
    return dg.define_asset_job(
        model_job_name(brief),
        selection=[key_of(brief, name) for name in names(stages_of(brief, MODEL))],
        tags={PROJECT: brief.project},
        description="Training, evaluation, compression, publication, drift and the report of one day and experiment.",
    )


def promotion_job(brief: Brief):
    """Gives the traffic to a challenger, by the evidence that is stored under an id.

    Of a live experiment that is the row of `rollouts` that proposes it.
    """

    @dg.op(name=f"{brief.project}_promote", config_schema={"evidence": int})
    def promote(context: dg.OpExecutionContext, workspaces: dg.ResourceParam[WorkspaceResource]) -> None:
        from dl_pipelines.lifecycle.door import Rules
        from dl_pipelines.lifecycle.promotion import promote as give
        from dl_pipelines.lifecycle.promotion import read_evidence
        from dl_pipelines.lifecycle.verdict import accept

        workspace, number = workspaces.open(brief.project, context.log.info), context.op_config["evidence"]
        actor = "sensor" if context.has_tag(BY_SENSOR) else "promotion job"
        try:
            if brief.lifecycle.evidence == "live":
                accept(workspace, Rules.of(brief, task_of(brief)), actor, proposal=number)
            else:
                give(workspace, read_evidence(workspace, number), brief.lifecycle.margin, actor)
        except ValueError as error:
            raise dg.Failure(str(error), allow_retries=False) from error

    @dg.job(
        name=f"{brief.project}_promotion", tags={PROJECT: brief.project}, description="A challenger takes the traffic."
    )
    def promotion() -> None:
        promote()

    return promotion


def rollout_job(brief: Brief):
    """One step of the live experiment: mend, look, carry the decision out, begin the next one."""

    @dg.op(name=f"{brief.project}_rollout_step")
    def step(context: dg.OpExecutionContext, workspaces: dg.ResourceParam[WorkspaceResource]) -> None:
        import time

        from dl_pipelines.lifecycle import experiment

        workspace = workspaces.open(brief.project, context.log.info)
        try:
            experiment.step(workspace, experiment.Rules.of(brief, task_of(brief)), time.time())
        except ValueError as error:
            raise dg.Failure(str(error), allow_retries=False) from error

    @dg.job(
        name=f"{brief.project}_rollout",
        tags={PROJECT: brief.project},
        description="A step of the challenger's live experiment: its next share, its promotion, or its end.",
    )
    def rollout() -> None:
        step()

    return rollout


def daily_request(
    brief: Brief, workspace: Workspace, found: list[date], newest: date, experiment: str, reason: str, run_key: str
) -> dg.RunRequest:
    """A daily run over every day of the window of `newest` that has no dataset yet, at least `newest`; sets RETRAIN.

    `found` are the days with records. The run key makes a second request of the same key none.
    """
    there = set(workspace.days(stored_stage(task_of(brief))))
    missing = [day for day in window_days(found, newest, brief.data.window_days) if day not in there]
    first = min([*missing, newest])
    tags = {RETRAIN: f"{newest.isoformat()}|{experiment}", REASON: reason, PROJECT: brief.project}
    if first == newest:
        return dg.RunRequest(
            run_key=run_key, job_name=daily_job_name(brief), partition_key=newest.isoformat(), tags=tags
        )
    tags |= dict(zip(RANGE, (first.isoformat(), newest.isoformat()), strict=True))
    return dg.RunRequest(run_key=run_key, job_name=daily_job_name(brief), tags=tags)
