"""`dlp run` and `dlp backfill` on one home: what is made, what is found again, what an option redoes, what they say."""

from __future__ import annotations

import json
import shutil

import dagster as dg
import pytest

from dl_pipelines.cli import run as line
from dl_pipelines.cli.run import STAGES
from dl_pipelines.store.database import Database
from dl_pipelines.store.home import Home
from dl_pipelines.store.tables import retraining_requests, served_ledger
from dl_pipelines.tasks.image_classification import ImageClassification
from resources.instance import POOL, open_instance
from resources.machine import holders
from tests.cli.conftest import digests, redone
from tests.small import small, write

HAS = [stage for stage in STAGES if stage not in ImageClassification.not_applicable]
DATA, MODEL = HAS[:4], HAS[4:]
DAYS = ("2026-01-01", "2026-01-02", "2026-01-03")


def rows(home, table):
    database = Database.of(Home(home))
    try:
        return database.rows(table, project="small")
    finally:
        database.close()


@pytest.mark.slow
def test_a_backfill_gives_a_model_and_a_report_a_day(made):
    assert made.backfill.code == 0
    runs = made.backfill.json["runs"]
    assert [run["partition"] for run in runs] == [f"{day}|base" for day in DAYS]
    models = {digests(run)["trained_model", f"{day}|base"] for run, day in zip(runs, DAYS, strict=True)}
    assert len(models) == 3
    for run, day in zip(runs, DAYS, strict=True):
        assert redone(run)[-len(MODEL) :] == sorted(MODEL, key=redone(run).index), "every stage of the model was made"
        assert run["report"] == str(made.home / "reports" / "small" / f"{day}_base" / "report.html")
        report = json.loads((made.home / "reports" / "small" / f"{day}_base" / "report.json").read_text())
        assert day in json.dumps(report)
    assert "no traffic was moved" in made.backfill.err


@pytest.mark.slow
def test_a_second_backfill_changes_nothing(made):
    assert made.again.code == 0
    first, second = made.backfill.json["runs"], made.again.json["runs"]
    assert [redone(run) for run in second] == [[], [], []]
    assert [digests(run) for run in second] == [digests(run) for run in first]
    assert all(run["failures"] == [] and run["skipped"] == [] for run in second)


@pytest.mark.slow
def test_only_a_run_moves_traffic(made):
    """The backfill published three models without a row; the run that followed gave the traffic to its own."""
    moves = [(row["event"], row["partition"]) for row in rows(made.home, served_ledger)]
    assert moves == [("published", "2026-01-03|base"), ("champion", "2026-01-03|base")]
    before = json.loads(json.dumps(made.run.json))
    assert redone(before) == ["prediction_log", "drift_report", "implementation_report"], "the rest was there"
    assert {key: value for key, value in digests(before).items() if key[0] in ("trained_model", "triton_repository")} \
        == {key: value for key, value in digests(made.backfill.json["runs"][2]).items()
            if key[0] in ("trained_model", "triton_repository")}  # fmt: skip


@pytest.mark.slow
def test_the_answer_is_one_object_and_the_rest_goes_to_the_error(made):
    answer = made.run.json
    assert made.run.code == 0 and answer["verdict"] == "met"
    (target,) = answer["targets"]
    assert target["name"] == "accuracy >= 0.2 (served)"
    assert target["target"] == 0.2 and target["met"] is True and target["measured"] >= 0.2
    assert {stage["asset"] for stage in answer["stages"]} == set(HAS)
    for stage in answer["stages"]:
        assert {"asset", "seconds", "artifact", "digest"} <= set(stage)
        manifest = json.loads((made.home.parent / stage["artifact"] / "manifest.json").read_text())
        assert manifest["digest"] == stage["digest"] and manifest["stage"] == stage["asset"]
    assert answer["report"].endswith("/reports/small/2026-01-03_base/report.html")
    assert "drift_report: comparing the window calm, 120 records" in made.run.err
    assert "small 2026-01-03|base: targets met" in made.run.err


@pytest.mark.slow
def test_the_calm_day_is_quiet_and_the_shifted_one_asks_for_a_retraining(made):
    (stage,) = (stage for stage in made.run.json["stages"] if stage["asset"] == "drift_report")
    report = json.loads((made.home / stage["artifact"] / "report.json").read_text())
    assert {item["name"]: item["decision"] for item in report["windows"]} == {"calm": "quiet", "shifted": "alarm"}
    (asked,) = rows(made.home, retraining_requests)
    assert asked["partition"] == "2026-01-04|base" and asked["report"] == stage["digest"]
    assert "retraining requested for 2026-01-04: drift in shifted" in " ".join(made.run.err.replace("│", " ").split())


@pytest.mark.slow
def test_a_copied_home_finds_everything_done(copy, made, real):
    """As a process of its own: nothing but the object is on standard output, whatever the libraries print."""
    said = real("run", made.brief, "--date", "2026-01-03", "--home", copy, "--json")
    assert said.code == 0
    answer = said.json
    assert redone(answer) == []
    assert digests(answer) == digests(made.run.json)
    assert all(str(copy) in stage["artifact"] for stage in answer["stages"])
    assert "nothing to do: everything was there" in said.err
    assert [row["event"] for row in rows(copy, served_ledger)] == ["published", "champion"]
    assert len(rows(copy, retraining_requests)) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "first"),
    [
        ("training.learning_rate=0.02", "trained_model"),
        ("serving.max_batch=8", "triton_repository"),
        ("monitoring.min_records=121", "drift_report"),
    ],
)
def test_a_setting_redoes_what_depends_on_it(copy, made, dlp, setting, first):
    said = dlp("run", made.brief, "--date", "2026-01-03", "--set", setting, "--home", copy, "--json")
    assert said.code == 0
    answer, place = said.json, HAS.index(first)
    expected = {*HAS[place:]} - ({"evaluation", "compressed_model"} if first == "triton_repository" else set())
    expected -= {"augmentation_ablation", "scaling_report", "serving_benchmark", "ab_experiment"}  # not asked for
    assert set(redone(answer)) == expected
    assert answer["partition"].startswith("2026-01-03|set-")
    assert [row["event"] for row in rows(copy, served_ledger)] == ["published", "champion"], "an experiment"


@pytest.mark.slow
def test_until_stops_there_and_an_experiment_is_kept(copy, made, dlp):
    day = ("run", made.brief, "--date", "2026-01-04", "--home", copy, "--json")
    said = dlp(*day, "--until", "validated_data", "--experiment", "calm", "--set", "training.epochs=1")
    assert (said.code, said.json["verdict"], said.json["report"]) == (0, None, None)
    assert {stage["asset"] for stage in said.json["stages"]} == {"raw_data", "validated_data"}
    assert "small 2026-01-04|calm: done up to validated_data" in said.err
    assert dlp(*day, "--until", "validated_data", "--experiment", "calm").code == 0
    other = dlp(*day, "--experiment", "calm", "--set", "training.epochs=2")
    assert other.code == 2
    assert other.err == (
        "error: found the experiment 'calm' with other overrides ({'training.epochs': 1}); expected a new name\n"
    )


@pytest.mark.slow
def test_a_missed_target_is_named_with_what_was_measured(copy, made, dlp):
    """A target is no part of what is trained: what is compressed may not break it, and is asked again."""
    targets = [{"metric": "accuracy", "op": ">=", "value": 0.9999, "where": "served"},
               {"metric": "size_mb", "op": "<=", "value": 0.000001, "where": "compressed"}]  # fmt: skip
    path = write(copy.parent / "briefs", small(problem={"targets": targets}))
    said = dlp("run", path, "--date", "2026-01-03", "--home", copy, "--json")
    assert said.code == 3
    assert said.json["verdict"] == "missed"
    assert redone(said.json) == [
        "compressed_model", "triton_repository", "prediction_log", "drift_report", "implementation_report",
    ]  # fmt: skip
    accuracy, size = said.json["targets"]
    assert (accuracy["name"], accuracy["met"]) == ("accuracy >= 0.9999 (served)", False)
    assert (size["name"], size["met"]) == ("size_mb <= 1e-06 (compressed)", False)
    assert 0.2 < accuracy["measured"] < 0.9999 and size["measured"] > 0.001
    told = " ".join(said.err.replace("│", " ").split())
    assert "small 2026-01-03|base: targets missed" in told
    assert f"accuracy >= 0.9999 (served) {accuracy['measured']:.4g} no" in told
    assert accuracy["nearest"] and size["nearest"]
    assert all(word in told for word in accuracy["nearest"].split())


def test_a_corrupt_dataset_is_named_with_its_remedy(made, copy, dlp):
    (stage,) = (item for item in made.run.json["stages"]
                if (item["asset"], item["partition"]) == ("augmented_dataset", "2026-01-02"))  # fmt: skip
    folder = copy / "artifacts" / "small" / "augmented_dataset" / stage["digest"][:16]
    page = next(folder.glob("records.lance/data/*"))
    page.write_bytes(page.read_bytes()[:-40] + bytes(40))
    shutil.rmtree(copy / "cache")  # else the rows that were decoded before are trained on
    command = ("run", made.brief, "--date", "2026-01-03", "--home", copy, "--set", "training.epochs=1", "--json")
    said = dlp(*command, "--until", "trained_model")
    assert said.code == 1
    (failure,) = said.json["failures"]
    assert failure["asset"] == "trained_model"
    assert f"augmented_dataset {stage['digest'][:16]} damaged in {folder}; expected sha256 " in failure["message"]
    assert failure["message"].endswith("remove the folder and run augmented_dataset again")
    shutil.rmtree(folder)
    again = dlp(*command, "--until", "trained_model")
    assert again.code == 0
    assert redone(again.json) == ["augmented_dataset", "trained_model"]
    assert digests(again.json)["augmented_dataset", "2026-01-02"] == stage["digest"]


@pytest.mark.slow
def test_a_slot_of_a_run_that_is_over_is_given_back(copy):
    with open_instance(Home(copy)) as instance:
        (run,) = instance.get_runs(limit=1)
        storage = instance.event_log_storage
        assert storage.claim_concurrency_slot(POOL, run.run_id, "small__trained_model").is_claimed
        assert holders(instance) == {run.run_id}
        assert line.reap(instance) == []
        assert holders(instance) == set()


@pytest.mark.slow
def test_a_run_waits_for_the_machine_and_says_so(copy, made, dlp, monkeypatch):
    with open_instance(Home(copy)) as instance:
        run = instance.create_run_for_job(dg.GraphDefinition(name="other").to_job())
        storage = instance.event_log_storage
        assert storage.claim_concurrency_slot(POOL, run.run_id, "step").is_claimed

        def pause(_: float) -> None:
            instance.report_run_failed(run)

        monkeypatch.setattr(line.time, "sleep", pause)
        said = dlp("run", made.brief, "--date", "2026-01-03", "--home", copy, "--until", "training_window")
    assert said.code == 0
    assert f"training_window: waiting for the run {run.run_id} to end" in said.err


@pytest.mark.slow
def test_the_report_and_the_status_are_found(made, dlp):
    path = made.home / "reports" / "small" / "2026-01-03_base" / "report.html"
    assert dlp("report", "small", "--home", made.home).out == f"{path}\n"
    older = dlp("report", "small", "--date", "2026-01-01", "--home", made.home)
    assert older.out == f"{path.parent.parent / '2026-01-01_base' / 'report.html'}\n"
    said = dlp("report", "small", "--experiment", "wide", "--home", made.home)
    assert said.code == 2
    assert said.err == (
        "error: found no report of small for any day and wide; expected one of 2026-01-01_base, 2026-01-02_base, "
        "2026-01-03_base; run `dlp run` for its brief\n"
    )
    found = dlp("status", "--home", made.home, "--json").json
    (project,) = found["projects"]
    assert [item["verdict"] for item in project["models"]] == ["met"] * 3
    assert project["champion"]["partition"] == "2026-01-03|base" and project["days"] == 3
    assert found["server"] is None, "what a command started has ended"
    told = dlp("status", "--home", made.home).out
    assert f"small: 3 days of data; {project['champion']['model']} since " in told


@pytest.mark.slow
def test_gc_says_what_would_go_and_removes_it(copy, made, dlp):
    path = write(copy.parent / "briefs", small(lifecycle={"keep": 1}))
    (copy / "briefs" / "small.yaml").write_text(path.read_text())
    models = copy / "artifacts" / "small" / "trained_model"
    before = sorted(models.iterdir())
    said = dlp("gc", "--dry-run", "--home", copy)
    assert said.code == 0
    assert sorted(models.iterdir()) == before
    *lines, last = said.out.splitlines()
    assert last == f"{len(lines)} would be removed"
    assert sum(text.startswith("trained_model ") for text in lines) == 2
    assert dlp("gc", "--home", copy).out.splitlines()[-1] == f"{len(lines)} removed"
    assert len(list(models.iterdir())) == 1
    again = dlp("run", made.brief, "--date", "2026-01-03", "--home", copy, "--json")
    assert (again.code, redone(again.json)) == (0, [])
