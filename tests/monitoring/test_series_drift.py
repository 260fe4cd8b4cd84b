"""Drift of a task whose rows depend on each other: inputs, answers and, once labels have come, residuals."""

from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pytest

from dl_pipelines.brief.live import Monitoring
from dl_pipelines.brief.references import SourceRef
from dl_pipelines.brief.sections import Data
from dl_pipelines.monitoring.drift import make_drift_report
from dl_pipelines.monitoring.features import live, reference, size_of
from dl_pipelines.monitoring.thresholds import Size
from dl_pipelines.monitoring.traffic import request_id
from dl_pipelines.store.artifacts import Draft, Gate
from dl_pipelines.store.home import Home
from dl_pipelines.store.records import write_records
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Rows
from dl_pipelines.wire.summaries import BATCHES
from tests.sequences import HISTORY, frames, make_task, targets

PARTITION = Partition(date(2026, 1, 1), "base")
DATA = Data(source=SourceRef(name="digits"))
MONITORING = Monitoring(min_records=20, resamples=100, false_alarms=0.02)


def forecast(inputs: np.ndarray) -> np.ndarray:
    """[N, 7, 4]: the mean of the history, and quantiles around it."""
    seen = np.where(np.isfinite(inputs[:, :HISTORY, 2]), inputs[:, :HISTORY, 2], 20).mean(axis=1)
    return seen[:, None, None] * np.array([1, 0.6, 1.0, 1.4]) * np.linspace(0.98, 1.02, 7)[None, :, None]


def rows(count: int, seed: int) -> Rows:
    inputs = frames(count, seed)
    names = np.array([f"item-{place % 4}|{place // 4}" for place in range(count)], dtype=object)
    return Rows(inputs, targets(inputs, seed), names)


@pytest.fixture
def line(tmp_path, monkeypatch):
    """A home with what a drift report is made of; rows of splits are made here."""
    splits = {"train": rows(240, 1), "validation": rows(160, 2)}
    monkeypatch.setattr("dl_pipelines.data.batches.window_rows", lambda _, window, split, *rest: splits[split])
    made = Workspace(Home(tmp_path).prepare(), "sold")

    def compressed(draft: Draft) -> None:
        np.save(draft.file("outputs_validation.npy"), forecast(splits["validation"].inputs), allow_pickle=False)
        draft.gate(Gate("parity", True, "made by a test", blocking=True))

    def window(draft: Draft) -> None:
        draft.gate(Gate("no_leak", True, "made by a test", blocking=True))

    made.make("compressed_model", PARTITION, compressed, settings={}, parents={})
    made.make("training_window", PARTITION.daily, window, settings={}, parents={})
    return made


def table(window: str, asked: Rows, labels: list) -> pa.Table:
    """As `make_prediction_log` leaves it."""
    task, count = make_task(), len(asked)
    answers = forecast(asked.inputs).reshape(count, -1).tolist()
    return pa.table({
        "request_id": pa.array([request_id(window, name) for name in asked.ids]),
        "asked_at": pa.array([datetime(2026, 1, 2, tzinfo=UTC)] * count, pa.timestamp("us", tz="UTC")),
        "outputs": pa.array(answers, pa.list_(pa.float64())),
        **{f"summary_{name}": pa.array(values) for name, values in BATCHES["series"](asked.inputs).items()},
        "window": pa.array([window] * count),
        "label": pa.array(labels, task.label_type()),
    })  # fmt: skip


def report(line: Workspace, parts: list[pa.Table]):
    def build(draft: Draft) -> None:
        write_records(draft, pa.concat_tables(parts))
        draft.gate(Gate("nothing_missing", True, "made by a test", blocking=True))

    line.make("prediction_log", PARTITION, build, settings={}, parents={})
    artifact = make_drift_report(line, PARTITION, MONITORING, DATA, make_task())
    return artifact, {window["name"]: window for window in artifact.read_json("report.json")["windows"]}


def test_residuals_alarm_where_inputs_do_not(line):
    task, asked = make_task(), rows(24, 3)
    calm = task.labels_of(asked.targets)
    wrong = asked.targets.copy()
    wrong[:, :7] *= 6
    early = [*calm[:8], *[None] * 16]
    artifact, windows = report(
        line,
        [table("calm", asked, calm), table("wrong", asked, task.labels_of(wrong)), table("early", asked, early)],
    )
    assert {name: window["decision"] for name, window in windows.items()} == {
        "calm": "quiet", "wrong": "alarm", "early": "quiet",
    }  # fmt: skip
    drifted = {item["name"] for item in windows["wrong"]["features"] if item["drifted"]}
    assert "residual" in drifted and drifted <= {"residual", "pit"}
    assert windows["early"]["left_out"]["residual"] == "8 live values; at least 20 are needed"
    assert [window["clusters"] for window in windows.values()] == [6, 6, 6]
    content = artifact.read_json("report.json")
    assert content["reference"] == {"inputs": 240, "answers": 160, "residuals": 160}
    assert artifact.gates[0].facts["clusters"] == 6
    assert "cluster" not in {item["name"] for item in windows["calm"]["features"]}
    assert (line.home.root / windows["calm"]["page"]).is_file()


def test_prices_that_are_no_longer_sent_alarm(line):
    asked = rows(24, 3)
    asked.inputs[:, :, 3] = np.nan
    _, windows = report(line, [table("calm", asked, [None] * 24)])
    assert windows["calm"]["decision"] == "alarm"
    assert "absent" in {item["name"] for item in windows["calm"]["features"] if item["drifted"]}


def test_a_log_that_does_not_tell_its_days_is_one_cluster(line):
    asked = rows(24, 3)
    then = reference(line, line.get("training_window", PARTITION.daily),
                     line.get("compressed_model", PARTITION), DATA, make_task())  # fmt: skip
    logged = table("calm", asked, [None] * 24)
    assert size_of(then["answers"], live(logged, make_task())["answers"]) == Size(24, 6)
    untold = logged.drop_columns(["summary_cluster"])
    assert size_of(then["answers"], live(untold, make_task())["answers"]) == Size(24, 1)


def test_a_reference_of_few_origins_says_nothing_about_them(line, monkeypatch):
    few = {"train": rows(36, 1), "validation": rows(160, 2)}
    monkeypatch.setattr("dl_pipelines.data.batches.window_rows", lambda _, window, split, *rest: few[split])
    _, windows = report(line, [table("calm", rows(24, 3), [None] * 24)])
    assert windows["calm"]["left_out"]["recent"] == ("9 clusters of rows in the reference; at least 10 are needed")


def test_ids_of_long_names_fit_and_differ():
    assert request_id("calm", "a|2026-01-01") == "replay/calm/a|2026-01-01"
    long = [request_id("calm", f"{'x' * 100}{place}|2026-01-01") for place in range(2)]
    assert {len(name) for name in long} == {80} and long[0] != long[1]
    assert all(name.startswith("replay/calm/x") for name in long)
