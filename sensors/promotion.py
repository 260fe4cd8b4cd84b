"""Reads the promotion evidence that was stored and requests the promotion of a challenger that has won.

What to do is `lifecycle.promotion.decide_promotion`; with `lifecycle.promotion: manual` the answer is only told.
"""

import dagster as dg

from dl_pipelines.brief import Brief
from resources.workspaces import WorkspaceResource


def promotion_sensor(brief: Brief, promotion: dg.JobDefinition) -> dg.SensorDefinition:
    """One promotion run for each piece of evidence that says so."""

    @dg.sensor(
        name=f"{brief.project}_promotion_sensor",
        job=promotion,
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
        description="Gives the traffic to a challenger that the evidence favours.",
    )
    def sensor(context: dg.SensorEvaluationContext, workspaces: dg.ResourceParam[WorkspaceResource]):
        from dl_pipelines.lifecycle.promotion import decide_promotion, evidence_after
        from dl_pipelines.serving.champion import champion

        workspace = workspaces.open(brief.project, context.log.info)
        rows = evidence_after(workspace, int(context.cursor or 0))
        if not rows:
            return dg.SkipReason("no new evidence")
        newest, serves = rows[-1], champion(workspace)
        cursor, decision = str(newest["id"]), decide_promotion(newest, brief.lifecycle.margin)
        told = f"{newest['challenger']} against {newest['champion']}: {decision} ({newest['reason']})"
        if decision != "promote" or serves is None or serves.model != newest["champion"]:
            return dg.SensorResult(skip_reason=told, cursor=cursor)
        if brief.lifecycle.promotion == "manual":
            return dg.SensorResult(skip_reason=f"{told}; lifecycle.promotion is manual", cursor=cursor)
        config = {"ops": {f"{brief.project}_promote": {"config": {"evidence": newest["id"]}}}}
        return dg.SensorResult(
            run_requests=[dg.RunRequest(run_key=f"promote:{newest['id']}", run_config=config)], cursor=cursor
        )

    return sensor
