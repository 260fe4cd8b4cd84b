import dagster as dg
import pytest

from assets.partitions import experiments_name
from sensors.jobs import PROJECT, REASON, RETRAIN, daily_job, model_job
from sensors.training import training_sensor


@pytest.fixture
def sensor(brief):
    return training_sensor(brief, daily_job(brief), model_job(brief))


@pytest.fixture
def after(brief, instance):
    """A function: what the sensor says after a daily run with these tags succeeded."""

    @dg.job(name=f"{brief.project}_daily")
    def daily():
        pass

    def do(sensor, **tags):
        ran = daily.execute_in_process(instance=instance, tags=tags)
        event = ran.get_run_success_event()
        context = dg.build_run_status_sensor_context(
            sensor_name=sensor.name, dagster_event=event, dagster_instance=instance, dagster_run=ran.dagster_run
        )
        with dg.partition_loading_context(dynamic_partitions_store=instance):
            return ran.run_id, sensor(context)

    return do


def test_it_is_on_by_default(sensor):
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING


def test_it_trains_what_the_daily_run_was_asked_for(sensor, after, instance, brief):
    tags = {RETRAIN: "2026-01-08|base", REASON: "drift in shifted", PROJECT: "digits", "other": "thing"}
    run_id, request = after(sensor, **tags)
    assert request.run_key == f"train:{run_id}"
    assert request.partition_key == "2026-01-08|base"
    assert request.tags == {REASON: "drift in shifted", PROJECT: "digits"}
    assert instance.get_dynamic_partitions(experiments_name(brief)) == ["base"]


def test_the_request_is_one_that_dagster_can_run(sensor, after, instance, brief):
    from dl_pipelines.definitions import build_defs, shared_defs
    from resources.workspaces import WorkspaceResource

    _, request = after(sensor, **{RETRAIN: "2026-01-08|base"})
    defs = dg.Definitions.merge(shared_defs([brief], WorkspaceResource()), build_defs(brief))
    job = defs.resolve_job_def("digits_model")
    with dg.partition_loading_context(dynamic_partitions_store=instance):
        assert job.partitions_def.has_partition_key(request.partition_key)
        assert not job.partitions_def.has_partition_key("2026-01-08|unheard")


def test_a_daily_run_that_asked_for_nothing_is_left_alone(sensor, after):
    _, skipped = after(sensor)
    assert skipped.skip_message == "the daily run asked for no training"
