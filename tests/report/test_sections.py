"""The report of a task of series: each section in its words and units, with the tables and pictures that it adds."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from dl_pipelines.evaluation.wording import percent
from dl_pipelines.report.make import make_implementation_report
from dl_pipelines.report.verify import cells
from tests.report.series import make_brief

ABLATION = {
    "metric": "wape", "unit": "share", "better": "lower", "seeds": 3, "epochs": 4, "reason": None,
    "interval": "paired over rows and seeds",
    "rows": [
        {"augmentation": "jitter", "where": "online", "with": 0.081, "without": 0.084, "verdict": "helps",
         "effect": {"value": 0.003, "low": 0.001, "high": 0.005}},
    ],
    "none": {"value": 0.086, "with": 0.081, "without": 0.086, "verdict": "helps",
             "effect": {"value": 0.005, "low": 0.002, "high": 0.008}},
}  # fmt: skip


@pytest.fixture(scope="module")
def reported(series, series_brief, series_task):
    """The report before anybody asked for an ablation."""
    line, partition = series
    artifact = make_implementation_report(line, partition, series_brief, series_task)
    assert artifact.gates[0].passed is True, artifact.gates[0].summary
    return artifact


@pytest.fixture(scope="module")
def text(reported):
    return reported.file("report.md").read_text()


@pytest.fixture(scope="module")
def found(reported):
    return dict(cells(reported.read_json("report.json")))


def test_the_opening_reads_well(text):
    assert (
        "processing 30 simulated records of 3 days with LSTM ATTENTION architecture, targeting MAPE of the total at "
        "most 5%, 10ms inference latency, and deployment" in text
    )


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        ([], "targeting (not applicable: no target for the accuracy is in the brief) accuracy"),
        ([{"metric": "wape", "op": "<=", "value": 0.1}], "targeting WAPE by item and day at most 10%, "),
        ([{"metric": "coverage", "op": ">=", "value": 0.88}, {"metric": "mape", "op": "<=", "value": 0.05,
          "where": "trained"}], "targeting MAPE of the total at most 5%, "),
        ([{"metric": "rmse", "op": "<=", "value": 12.5}], "targeting RMSE at most 12.5 units, "),
    ],
)  # fmt: skip
def test_the_target_of_the_opening_is_the_one_that_stands_for_accuracy(series, series_task, targets, told):
    line, partition = series
    brief = make_brief(problem={"targets": targets})
    assert told in make_implementation_report(line, partition, brief, series_task).file("report.md").read_text()


def test_an_error_is_named_in_the_row_of_accuracy(found, series):
    line, partition = series
    metrics = line.get("evaluation", partition).read_json("metrics.json")["test"]
    assert found["section 6: Accuracy: Test"]["value"] == metrics["mape"]["value"]
    row = f"MAPE of the total {percent(metrics['mape']['value'])}%"
    text = make_text(series)
    assert text.count(row) == 2, "sections 1 and 6"
    assert f"| Loss | {percent(line_value(series, 'train', 'pinball'))}% [" in text


def make_text(series):
    line, partition = series
    return line.get("implementation_report", partition).file("report.md").read_text()


def line_value(series, split, metric):
    line, partition = series
    return line.get("evaluation", partition).read_json("metrics.json")[split][metric]["value"]


def test_all_metrics_are_told_with_their_units(found, series):
    for split, column in (("train", "Training"), ("test", "Test")):
        for metric, name in (("rmse", "RMSE (lower is better)"), ("coverage", "Coverage of the widest interval")):
            place = next(
                p for p in found if p.startswith(f"section 6: All metrics of the task: {name}") and column in p
            )
            assert found[place]["value"] == line_value(series, split, metric)
    assert (
        found["section 6: All metrics of the task: WAPE by item and day (lower is better): Threshold"]["value"] == 0.2
    )


def test_the_task_tells_of_the_data_in_its_own_words(text):
    for told in (
        "- Raw Data Volume: 0.00075 GB (0.75 MB, 3 days) (simulated)",
        "- Data Types: simulated numbers",
        "filled by the window's seasonal median",
        "- Outliers: demand: ",
        "- Normalization: each window of the target by its own mean level",
        "- Encoding: item: a vector for each of 4",
        "- Dimensionality: 42 steps x 6 columns",
        "- Augmentation Factor: not applicable: windows of series overlap",
        "- Online/Offline: online",
        "records, by time: the last days",
        "quantile and deviance; 0.5 on train batches",
        "| Feature Engineering | daily at 03:00 UTC |",
    ):
        assert told in text, told
    assert "cross entropy" not in text and "hash of the group" not in text


def test_layers_without_a_row_of_the_template_have_one(found, text):
    assert "#### All layers" in text
    assert found["section 3: All layers: Recurrent: Parameters"]["value"] == 18_944
    assert found["section 3: Dense/FC: Parameters"]["value"] == 4_680


def test_layers_are_told_with_what_they_cost(found, text):
    place = "section 3: What each kind of layer costs: Dense/FC"
    assert found[f"{place}: MACs"]["value"] == 4_608
    assert found[f"{place}: Share of time"]["value"] == 0.25
    assert "| Recurrent | 42 x 64 | 774,144 | 0.01126 MB | 3 ms | 75% |" in text
    assert "| head.1 | Dense/FC | 64->8 | 520 | 8 | 512 | 0.000032 MB | 0.25 ms | 6.25% |" in text
    assert (
        "with 64 records at once on 1 thread: they add up to 4 ms, 95.24% of the 4.2 ms of a whole forward at which "
        "nobody looks." in text
    )


def test_baselines_that_are_not_beaten_are_said_to_be(text, found):
    assert "Every baseline that must be beaten is." not in text
    assert re.search(r"\nNot beaten, on the test rows: ets \(wape [\d.]+%, theirs [\d.]+%\)\.\n", text)
    verdicts = {name: found[f"section 6: Against baselines: {name}: WAPE by item and day: Beaten"]["value"]
                for name in ("seasonal naive", "ets", "oracle")}  # fmt: skip
    assert verdicts == {
        "seasonal naive": "yes", "ets": "NO: the interval holds 0",
        "oracle": "the floor: shown beside, not to be beaten",
    }  # fmt: skip
    ratio = found["section 6: Against baselines: seasonal naive: WAPE by item and day: Ratio (above 1: ours is better)"]
    assert ratio["value"] == pytest.approx(3, rel=0.01), "errors were invented three times as large"


def test_the_page_has_the_pictures_and_says_simulated_on_each(reported):
    page = reported.file("report.html").read_text()
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    data = [drawing for drawing in drawings if "by epoch" not in drawing]
    assert len(data) == 4 + 3 + 4 + 3, "examples, by horizon, backtest, baselines"
    for drawing in drawings:
        ET.fromstring(drawing)
    assert all("(simulated)</text>" in drawing for drawing in data)


def test_an_ablation_is_told_with_its_intervals_or_why_there_is_none(series, series_brief, series_task, found):
    line, partition = series
    place = "section 2: What each augmentation is worth: jitter (online): Effect (above 0: better)"
    assert found[place]["reason"] == "not measured: the brief asks for no ablation (evaluation.ablation.seeds)"
    parents = {"training_window": line.get("training_window", partition.daily)}

    def measured(draft):
        draft.write_json("ablation.json", ABLATION)

    def told(draft):
        draft.write_json("ablation.json", {"metric": "wape", "seeds": 0, "rows": [], "none": None, "reason": "no time"})

    line.make("augmentation_ablation", partition, told, settings={"n": 0}, parents={})
    first = make_implementation_report(line, partition, series_brief, series_task)
    assert dict(cells(first.read_json("report.json")))[place]["reason"] == "not measured: no time"
    line.make("augmentation_ablation", partition, measured, settings={"n": 1}, parents=parents)
    artifact = make_implementation_report(line, partition, series_brief, series_task)
    assert artifact.gates[0].passed is True, artifact.gates[0].summary
    report = dict(cells(artifact.read_json("report.json")))
    assert report[place]["value"] == 0.003
    text, page = artifact.file("report.md").read_text(), artifact.file("report.html").read_text()
    assert "| jitter (online) | 8.1% | 8.4% | 0.3% [0.1%, 0.5%] | helps |" in text
    assert "| all of them | 8.1% | 8.6% | 0.5% [0.2%, 0.8%] | helps |" in text
    assert "Effect on WAPE by item and day (simulated)" in page
    assert "augmentation_ablation" in artifact.parents
