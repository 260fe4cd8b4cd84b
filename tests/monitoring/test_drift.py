import json
import os

import numpy as np
import pyarrow as pa
import pytest

from dl_pipelines.monitoring.drift import make_drift_report, plain_name
from dl_pipelines.monitoring.features import live, reference
from dl_pipelines.monitoring.thresholds import WASSERSTEIN, jensen_shannon, wasserstein
from dl_pipelines.store.artifacts import ArtifactError
from dl_pipelines.store.records import read_records


@pytest.fixture
def report(partition, brief, task, write_log):
    """A function: the drift report of these windows in a home."""

    def make(line, windows, **changed):
        write_log(line, windows)
        monitoring = brief.monitoring.model_copy(update=changed)
        return make_drift_report(line, partition, monitoring, brief.data, task)

    return make


def by_name(artifact):
    return {window["name"]: window for window in artifact.read_json("report.json")["windows"]}


def test_the_calm_day_of_the_demo_is_quiet_and_the_shifted_one_alarms(report, line, live_inputs):
    artifact = report(line, {**live_inputs, "small": live_inputs["shifted"][:150]})
    windows = by_name(artifact)
    assert {name: window["decision"] for name, window in windows.items()} == {
        "calm": "quiet", "shifted": "alarm", "small": "undecided",
    }  # fmt: skip
    assert [(gate.name, gate.passed, gate.blocking) for gate in artifact.gates] == [
        ("drift_calm", True, False), ("drift_shifted", False, False), ("drift_small", None, False),
    ]  # fmt: skip
    assert [windows[name]["records"] for name in ("calm", "shifted", "small")] == [250, 250, 150]
    drifted = {item["name"] for item in windows["shifted"]["features"] if item["drifted"]}
    assert {"mean", "std", "max", "energy_x", "roughness"} <= drifted
    assert set(artifact.gates[1].facts["drifted"]) == drifted
    assert "mean" in artifact.gates[1].summary
    assert artifact.gates[2].summary == "undecided: 150 records; at least 200 are needed"
    assert windows["calm"]["left_out"] == {"min": "always 0.0 in the reference; 0 of 250 live values differ"}
    assert windows["small"] == {
        "name": "small", "records": 150, "decision": "undecided", "features": [], "left_out": {}, "page": None,
        "reason": "150 records; at least 200 are needed",
    }  # fmt: skip
    assert {item["statistic"] for item in windows["calm"]["features"]} == {"wasserstein", "jensenshannon"}
    assert "**drifted**" in artifact.show["features"]["md"]
    assert artifact.show["calm"].startswith("quiet: 10 features within their thresholds, ")
    page = line.home.root / windows["calm"]["page"]
    assert page == line.home.docs / "digits/evidently/2026-01-01_base/calm.html"
    assert artifact.show["calm_page"] == str(page)
    assert page.read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html>")


def test_values_are_evidentlys_and_ours(report, line, live_inputs, partition, brief, task):
    artifact = report(line, live_inputs)
    content = artifact.read_json("report.json")
    window = by_name(artifact)["shifted"]
    told = json.loads((line.home.root / window["page"]).with_suffix(".json").read_text())
    theirs = {metric["config"]["column"]: metric for metric in told["metrics"]}
    failed = {test["metric_config"]["params"]["column"]: test["status"] == "FAIL" for test in told["tests"]}
    then = reference(
        line, line.get("training_window", partition.daily), line.get("compressed_model", partition), brief.data, task
    )
    inputs, answers = then["inputs"], then["answers"]
    assert set(then) == {"inputs", "answers"} and inputs.clusters is None
    assert content["reference"] == {"inputs": inputs.rows, "answers": answers.rows}
    assert (inputs.rows, answers.rows) == (713, 161)
    then = {**inputs.values, **answers.values}
    rows = read_records(line.get("prediction_log", partition))
    now = live(rows.filter(pa.array(np.array(rows["window"].to_pylist()) == "shifted")), task)
    now = {**now["inputs"].values, **now["answers"].values}
    assert len(window["features"]) == 10
    for item in window["features"]:
        name, config = item["name"], theirs[item["name"]]["config"]
        measure = wasserstein if item["statistic"] == WASSERSTEIN else jensen_shannon
        assert theirs[name]["value"] == pytest.approx(measure(then[name], now[name]), abs=1e-9)
        assert item["value"] == pytest.approx(theirs[name]["value"], abs=1e-9)
        assert (config["method"], config["threshold"]) == (item["statistic"], item["threshold"])
        assert failed[name] == item["drifted"]


def test_rows_outside_of_the_sample_are_not_compared(report, make_line, live_inputs, write_log, partition, brief, task):
    plain, sampled = make_line("plain"), make_line("sampled")
    expected = by_name(report(plain, live_inputs))
    write_log(sampled, live_inputs, unkept=100)
    artifact = make_drift_report(sampled, partition, brief.monitoring, brief.data, task)
    assert by_name(artifact) == expected


def test_the_same_log_gives_the_same_report(report, make_line, live_inputs):
    first, second = make_line("first"), make_line("second")
    artifact = report(first, live_inputs)
    assert report(second, live_inputs).digest == artifact.digest
    assert set(artifact.files) == {"report.json"}
    before = len(first.made)
    assert report(first, live_inputs).digest == artifact.digest
    assert len(first.made) == before
    stricter = report(first, live_inputs, false_alarms=0.1)
    assert stricter.digest != artifact.digest
    pairs = zip(by_name(stricter)["calm"]["features"], by_name(artifact)["calm"]["features"], strict=True)
    assert all(one["threshold"] < other["threshold"] for one, other in pairs)


def test_nothing_logged_gives_no_window_and_the_reason(report, line):
    artifact = report(line, {})
    assert artifact.read_json("report.json")["windows"] == []
    assert artifact.gates == []
    assert artifact.show == {"reason": "digits__abc has the traffic, but nobody has asked it yet"}


def test_a_name_that_a_client_chose_stays_below_the_docs(report, line, live_inputs):
    artifact = report(line, {"../../a|b": live_inputs["calm"]})
    window = by_name(artifact)["../../a|b"]
    (page,) = (line.home.docs / "digits/evidently/2026-01-01_base").glob("*.html")
    assert line.home.root / window["page"] == page
    assert page.name == f"{plain_name('../../a|b')}.html"
    assert artifact.gates[0].name == f"drift_{plain_name('../../a|b')}"
    assert "a|b" not in artifact.show["features"]["md"]
    assert plain_name("2026-01-31") == "2026-01-31"


def test_an_incomplete_log_is_refused(line, live_inputs, partition, brief, task, write_log):
    write_log(line, live_inputs, complete=False)
    with pytest.raises(ArtifactError) as caught:
        make_drift_report(line, partition, brief.monitoring, brief.data, task)
    assert "found nothing_missing: 1 acknowledged requests are not in the log" in str(caught.value)


def test_evidently_says_nothing_and_does_not_report_home(report, line, live_inputs, capfd):
    report(line, {"calm": live_inputs["calm"]})
    assert os.environ["DO_NOT_TRACK"] == "1"
    assert capfd.readouterr() == ("", "")
