"""Reads the promotion evidence that was stored and requests the promotion of a challenger that has won.

What to do is `lifecycle.promotion.decide_promotion`; with `lifecycle.promotion: manual` the answer is only told. With
`lifecycle.evidence: live` it is not asked: held-out rows are the door to an experiment, on which rollout.py looks.
"""

import dagster as dg

from dl_pipelines.brief import Brief
from resources.workspaces import WorkspaceResource


def promotion_sensor(brief: Brief, promotion: dg.JobDefinition) -> dg.SensorDefinition:
    """A promotion run for the newest evidence that says so and is about what serves."""

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

        if brief.lifecycle.evidence == "live":
            return dg.SkipReason("lifecycle.evidence is live: the rollout sensor decides")
        workspace = workspaces.open(brief.project, context.log.info)
        rows = evidence_after(workspace, int(context.cursor or 0))
        if not rows:
            return dg.SkipReason("no new evidence")
        serves, cursor = champion(workspace), str(rows[-1]["id"])
        outcomes = [(row, decide_promotion(row, brief.lifecycle.margin)) for row in rows]
        told = "; ".join(
            f"{row['challenger']} against {row['champion']}: {word} ({row['reason']})" for row, word in outcomes
        )
        won = [row for row, word in outcomes if word == "promote" and serves and serves.model == row["champion"]]
        if not won:
            stale = any(word == "promote" for _, word in outcomes)
            why = f"; {serves.model if serves else 'nothing'} serves now" if stale else ""
            return dg.SensorResult(skip_reason=told + why, cursor=cursor)
        if brief.lifecycle.promotion == "manual":
            return dg.SensorResult(skip_reason=f"{told}; lifecycle.promotion is manual", cursor=cursor)
        number = won[-1]["id"]
        config = {"ops": {f"{brief.project}_promote": {"config": {"evidence": number}}}}
        return dg.SensorResult(
            run_requests=[dg.RunRequest(run_key=f"promote:{number}", run_config=config)], cursor=cursor
        )

    return sensor
