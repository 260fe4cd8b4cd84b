"""Requests the model of a daily run that succeeded and was asked to be trained on."""

import dagster as dg

from assets.partitions import experiments_name
from dl_pipelines.brief import Brief
from sensors.jobs import PROJECT, REASON, RETRAIN


def training_sensor(brief: Brief, daily, model) -> dg.SensorDefinition:
    """One model run for each daily run with the tag."""

    @dg.run_status_sensor(
        name=f"{brief.project}_train_after_data",
        run_status=dg.DagsterRunStatus.SUCCESS,
        monitored_jobs=[daily],
        request_job=model,
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=10,
        description="Trains a model when the days that it needs are there.",
    )
    def sensor(context: dg.RunStatusSensorContext):
        tags = context.dagster_run.tags
        if RETRAIN not in tags:
            return dg.SkipReason("the daily run asked for no training")
        partition = tags[RETRAIN]
        context.instance.add_dynamic_partitions(experiments_name(brief), [partition.partition("|")[2]])
        kept = {name: tags[name] for name in (PROJECT, REASON) if name in tags}
        return dg.RunRequest(run_key=f"train:{context.dagster_run.run_id}", partition_key=partition, tags=kept)

    return sensor
