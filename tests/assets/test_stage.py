"""The first stages really run by Dagster in this process: what it records of many days in one run, what stops it."""

from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from dagster._core.storage.tags import BACKFILL_ID_TAG

from assets.partitions import Partitions
from assets.stage import BACKFILL_TAGS, RETRAIN, Step, key_of, stage_asset
from dl_pipelines import catalog
from dl_pipelines.brief import Brief
from dl_pipelines.cli.run import failures
from dl_pipelines.data.validation import gates_of
from dl_pipelines.store.artifacts import Artifact, Draft, Gate
from dl_pipelines.store.database import Database
from dl_pipelines.store.digest import digest_json
from dl_pipelines.store.home import DATABASE_URL, Home
from dl_pipelines.store.workspace import Partition
from resources.workspaces import RESOURCE, WorkspaceResource
from tests.assets.conftest import DATA, runner

DAYS = {"2026-01-01": 60, "2026-01-02": 20, "2026-01-03": 20}
WITHOUT = ("2026-01-04", "2026-01-05")
NO_RECORDS = "no records arrived on {day}; the last day with records is 2026-01-03"


def materialized(result: dg.ExecuteInProcessResult, stage: str) -> dict[str, dg.AssetMaterialization]:
    """What Dagster recorded of a stage, by partition."""
    events = result.get_asset_materialization_events()
    found = [event.materialization for event in events if event.asset_key.path[-1] == stage]
    assert len(found) == len({item.partition for item in found}), "each partition once"
    return {item.partition: item for item in found}


def evaluated(result: dg.ExecuteInProcessResult, stage: str) -> list[tuple[str, str, bool]]:
    """Partition, check and outcome, sorted."""
    events = [event for event in result.get_asset_check_evaluations() if event.asset_key.path[-1] == stage]
    return sorted((event.partition, event.check_name, event.passed) for event in events)


def version(item: dg.AssetMaterialization) -> str:
    return item.tags["dagster/data_version"]


@pytest.fixture(scope="module")
def again(three_days) -> dg.ExecuteInProcessResult:
    """The same days a second time: nothing has changed."""
    del three_days.ends[:]
    return three_days.run(DATA, "2026-01-01", "2026-01-05")


def test_many_days_are_one_run_of_one_step_a_stage(three_days, again):
    runs = three_days.line.instance.get_runs(filters=dg.RunsFilter(run_ids=[again.run_id]))
    assert [run.status for run in runs] == [dg.DagsterRunStatus.SUCCESS]
    steps = [event.step_key for event in again.all_events if event.is_step_success]
    assert steps == [f"little__{stage}" for stage in DATA]


def test_each_day_has_its_own_checks(again, three_days):
    brief = three_days.line.brief
    names = {
        "raw_data": ["readable", "schema"],
        "validated_data": list(gates_of(brief.data, catalog.task_of(brief))),
        "augmented_dataset": ["only_train_grows", "targets_with_inputs"],
    }
    for stage, checks in names.items():
        assert evaluated(again, stage) == sorted((day, check, True) for day in DAYS for check in checks)


def test_each_day_has_its_own_metadata(again, three_days):
    for stage in DATA:
        found = materialized(again, stage)
        for day, records in DAYS.items():
            shown = found[day].metadata
            assert shown["records"].value == records
            assert shown["digest"].value == three_days.artifact(stage, day).digest


def test_a_day_without_records_says_why_it_has_none(again, three_days):
    for stage in DATA:
        found = materialized(again, stage)
        for day in WITHOUT:
            assert {name: item.value for name, item in found[day].metadata.items()} == {
                "skipped": NO_RECORDS.format(day=day)
            }
    skips = [(end.stage, end.partition.key, end.skipped) for end in three_days.ends if end.skipped]
    assert skips == [(stage, day, NO_RECORDS.format(day=day)) for stage in DATA for day in WITHOUT]


def test_a_run_over_many_days_has_one_version_of_all_of_them(again, three_days):
    for stage in DATA:
        digests = [three_days.artifact(stage, day).digest for day in DAYS]
        assert {version(item) for item in materialized(again, stage).values()} == {digest_json(digests)}


def test_a_second_run_finds_everything(again, three_days):
    found = [(end.stage, end.partition.key, end.made) for end in three_days.ends if end.artifact]
    assert found == [(stage, day, False) for stage in DATA for day in DAYS]


def test_the_version_of_one_partition_is_its_digest(three_days, again):
    result = three_days.run(["training_window"], "2026-01-03")
    (item,) = materialized(result, "training_window").values()
    artifact = three_days.artifact("training_window", "2026-01-03")
    assert (version(item), item.metadata["digest"].value) == (artifact.digest, artifact.digest)
    assert [item["day"] for item in artifact.read_json("window.json")["days"]] == list(DAYS)
    assert evaluated(result, "training_window") == [("2026-01-03", "complete", True), ("2026-01-03", "no_leak", True)]


def test_a_retraining_that_brings_in_many_days_makes_the_window_of_the_newest(three_days, again):
    del three_days.ends[:]
    assert three_days.run(["training_window"], "2026-01-01", "2026-01-03", **{RETRAIN: "2026-01-03|base"}).success
    why = "this run is for a model of 2026-01-03, which needs the window of that day only"
    assert [(end.partition.key, end.skipped) for end in three_days.ends] == [
        ("2026-01-01", why), ("2026-01-02", why), ("2026-01-03", None),
    ]  # fmt: skip


def test_a_day_without_records_alone_is_not_materialised(three_days):
    result = three_days.run([*DATA, "training_window"], "2026-02-01")
    assert result.success, "nothing to do is no failure"
    assert result.get_asset_materialization_events() == []
    assert result.get_asset_check_evaluations() == []
    skipped = [event.step_key for event in result.all_events if event.is_step_skipped]
    assert sorted(skipped) == ["little__augmented_dataset", "little__training_window", "little__validated_data"]
    assert three_days.ends[-1].skipped == NO_RECORDS.format(day="2026-02-01")


def test_a_later_stage_alone_skips_a_day_without_records(three_days):
    for stage in ("validated_data", "augmented_dataset", "training_window"):
        result = three_days.run([stage], "2026-02-01")
        assert (result.success, result.get_asset_materialization_events()) == (True, [])


@pytest.mark.parametrize("last", [None, "2026-01-02"], ids=["one day", "two days in one run"])
def test_a_failed_check_stops_what_is_downstream(tmp_path, little, last):
    brief = little(validation={"mean_range": [0, 1]})
    with runner(tmp_path / "home", brief) as home:
        result = home.run(DATA, "2026-01-01", last)
        assert not result.success
        assert [event.step_key for event in result.all_events if event.is_step_failure] == ["little__validated_data"]
        assert materialized(result, "augmented_dataset") == {}
        bad = [found for found in evaluated(result, "validated_data") if not found[2]]
        assert bad == [(day, "mean_range", False) for day in ("2026-01-01", last) if day]
        (failed,) = failures(result)
        assert failed.stage == "validated_data"
        assert failed.message.startswith("mean_range (2026-01-01): mean from 0.0 to 1.0 intensity: found 60 of 60")

        alone = home.run(["augmented_dataset"], "2026-01-01", last)
        assert not alone.success
        (refused,) = failures(alone)
        assert not refused.crashed
        assert refused.message == (
            f"validated_data {home.artifact('validated_data', '2026-01-01').short} may not be used: found mean_range: "
            f"{mean_gate(home.artifact('validated_data', '2026-01-01'))}; expected every blocking gate to pass; "
            "mend its input and run validated_data again"
        )


def mean_gate(artifact: Artifact) -> str:
    (found,) = [gate.summary for gate in artifact.gates if gate.name == "mean_range"]
    return found


def test_what_a_user_can_mend_is_told_in_the_library_s_words(tmp_path, little):
    brief = little(source={"name": "image_folder", "params": {"path": str(tmp_path / "nowhere")}})
    with runner(tmp_path / "home", brief) as home:
        result = home.run(["raw_data"], "2026-01-01")
    (event,) = [event for event in result.all_events if event.is_step_failure]
    assert event.step_failure_data.user_failure_data.description == (
        f"found nothing at {tmp_path / 'nowhere'}; expected a folder with one folder a class; "
        "mend data.source.params.path, or run from the folder that it is relative to"
    )


def test_an_experiment_that_nobody_made_is_refused(three_days):
    three_days.line.instance.add_dynamic_partitions("little_experiment", ["wide"])
    result = three_days.run(["trained_model"], "2026-01-03|wide")
    (failed,) = failures(result)
    assert failed.message == (
        "found no experiment 'wide' of little; expected one of base; make it with --set path=value"
    )


@pytest.mark.parametrize(
    ("experiment", "tags", "expected"),
    [
        ("base", {}, True),
        ("base", {"dlp/project": "little"}, True),
        ("base", {"dlp/backfill": "2026-01-01"}, False),
        ("base", {"dagster/backfill": "abcdefgh"}, False),
        ("wide", {}, False),
        ("wide", {"dlp/backfill": "2026-01-01"}, False),
    ],
)
def test_only_a_base_run_that_is_no_backfill_moves_traffic(experiment, tags, expected):
    context: Any = SimpleNamespace(run=SimpleNamespace(tags=tags))
    unused: Any = None
    step = Step(context, unused, Partition.parse(f"2026-01-01|{experiment}"), unused, unused)
    assert step.moves_traffic is expected


def test_the_backfill_tags_are_ours_and_the_one_that_dagster_sets():
    assert set(BACKFILL_TAGS) == {"dlp/backfill", BACKFILL_ID_TAG}


def test_a_key_is_the_project_then_the_stage(little):
    assert key_of(little(), "raw_data") == dg.AssetKey(["little", "raw_data"])


def test_a_range_of_one_day_is_like_that_day(three_days, again):
    result = three_days.run(DATA, "2026-01-02", "2026-01-02")
    for stage in DATA:
        found = materialized(result, stage)
        assert {day: version(item) for day, item in found.items()} == {
            "2026-01-02": three_days.artifact(stage, "2026-01-02").digest
        }
        assert {partition for partition, _, _ in evaluated(result, stage)} == {"2026-01-02"}


GATES = {
    "finite": Gate("finite", True, "all finite", blocking=True),
    "parity": Gate("parity", False, "differs by 3", blocking=True),
    "undecided": Gate("undecided", None, "too few rows", blocking=True),
    "threshold": Gate("threshold", False, "0.9 is below 0.97"),
    "drift": Gate("drift", None, "100 records"),
}


def model_stages(brief: Brief, evaluated: list[str], declared: dict[str, bool]) -> list[dg.AssetsDefinition]:
    """A stage of a model whose gates are these, and one after it."""

    def build(draft: Draft) -> None:
        for name in evaluated:
            draft.gate(GATES[name])

    def make(step: Step) -> Artifact:
        return step.workspace.make("evaluation", step.partition, build, settings={"gates": evaluated}, parents={})

    def follow(step: Step) -> Artifact:
        found = step.workspace.get("evaluation", step.partition).require_gates()
        return step.workspace.make("report", step.partition, build, settings={}, parents={"evaluation": found})

    models = Partitions.of(brief).models
    blocking, warning = (
        {name: f"about {name}" for name, blocks in declared.items() if blocks is kind} for kind in (True, False)
    )
    first = stage_asset(
        brief, "evaluation", make, partitions=models, blocking=blocking, warning=warning, description="first"
    )
    after = stage_asset(brief, "report", follow, partitions=models, deps=("evaluation",), description="after")
    return [first, after]


def test_a_project_of_another_home_is_refused_before_a_stage_works(tmp_path, little, monkeypatch):
    monkeypatch.setenv(DATABASE_URL, f"sqlite:///{tmp_path / 'shared.sqlite'}")
    brief, name = little(), "2026-01-01|base"
    Database.claim(Home(tmp_path / "first"), brief.project)
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("little_experiment", ["base"])
        result = dg.materialize(
            model_stages(brief, ["finite"], {"finite": True}), partition_key=name, instance=instance,
            raise_on_error=False, resources={RESOURCE: WorkspaceResource(home=str(tmp_path / "second"))},
        )  # fmt: skip
    (told,) = failures(result)
    assert told.stage == "evaluation" and told.message.startswith("found the project little in the database as that of")
    assert not list((tmp_path / "second" / "artifacts").iterdir())


@pytest.mark.parametrize(
    ("gates", "declared", "stops"),
    [
        (["finite"], {"finite": True}, False),
        (["finite", "parity"], {"finite": True, "parity": True}, True),
        (["finite", "undecided"], {"finite": True, "undecided": True}, True),
        (["finite", "threshold", "drift"], {"finite": True, "threshold": False, "drift": False}, False),
        (["finite"], {"finite": True, "drift": False}, False),
    ],
    ids=["passed", "failed", "undecided", "warned", "not evaluated"],
)
def test_only_an_integrity_gate_stops_a_model(tmp_path, little, gates, declared, stops):
    brief, name = little(), "2026-01-01|base"
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("little_experiment", ["base"])
        result = dg.materialize(
            model_stages(brief, gates, declared), partition_key=name, instance=instance, raise_on_error=False,
            resources={RESOURCE: WorkspaceResource(home=str(tmp_path))},
        )  # fmt: skip
    assert result.success is not stops
    told = {gate: GATES[gate].passed is True if gate in gates else False for gate in declared}
    assert evaluated(result, "evaluation") == sorted((name, gate, passed) for gate, passed in told.items())
    assert set(materialized(result, "evaluation")) == {name}
    assert set(materialized(result, "report")) == (set() if stops else {name})
