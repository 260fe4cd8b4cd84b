import json
import time
from datetime import UTC, datetime

import numpy as np
import pytest

from benchmarks.tiny import FIRST, SECOND, reference
from dl_pipelines.brief.live import Monitoring
from dl_pipelines.serving.champion import champion
from dl_pipelines.serving.client import acknowledged_folder, predict
from dl_pipelines.serving.label_inbox import new_key, sign_label
from dl_pipelines.serving.labels import LabelError, add_labels
from dl_pipelines.serving.prediction_log import make_prediction_log, read_log, window_of
from dl_pipelines.serving.publish import make_triton_repository
from dl_pipelines.serving.traffic import ensure_champion
from dl_pipelines.store import tables
from dl_pipelines.store.artifacts import ArtifactError
from dl_pipelines.store.database import Database
from dl_pipelines.store.records import read_records
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.wire.log_format import LogWriter
from dl_pipelines.wire.summaries import SUMMARIES
from tests.logged import answered, writer_of


class Ten:
    """Sends ten images of the calm day, and their labels."""

    def __init__(self, inputs):
        self.inputs, self.calls = inputs, 0

    def send(self, workspace, task, data):
        self.calls += 1
        ids = [f"replay/calm/{place}" for place in range(10)]
        if ids[0] not in read_log(workspace)["request_id"].to_pylist():
            predict(workspace, task, self.inputs[:10], ids)
        add_labels(workspace, {name: place % 2 for place, name in enumerate(ids[:8])})
        return ["calm"]


@pytest.fixture(scope="module")
def served(line, task, data, serving, evaluation):
    first = make_triton_repository(line, FIRST, serving, data, task, evaluation)
    make_triton_repository(line, SECOND, serving, data, task, evaluation)
    ensure_champion(line, FIRST, first)
    return line


def log_of(workspace, partition, task, data, traffic=None):
    return make_prediction_log(workspace, partition, Monitoring(), data, task, traffic)


def test_what_was_answered_is_there_with_its_labels(served, task, data, inputs):
    traffic = Ten(inputs)
    artifact = log_of(served, FIRST, task, data, traffic)
    assert [(gate.name, gate.passed, gate.blocking) for gate in artifact.gates] == [("nothing_missing", True, True)]
    rows = {row["request_id"]: row for row in read_records(artifact).to_pylist() if row["window"] == "calm"}
    assert len(rows) == 10
    for place in range(10):
        row = rows[f"replay/calm/{place}"]
        np.testing.assert_allclose(row["outputs"], reference(inputs[place : place + 1], 0)[0], atol=1e-4)
        assert row["label"] == (place % 2 if place < 8 else None)
        assert json.loads(row["answer_json"])["class"] in ("dark", "bright")
        assert row["model"] == champion(served).model
        assert row["arm"] == "champion"
        assert row["latency_ms"] > 0
        expected = SUMMARIES["image"](inputs[place])
        found = {name: row[f"summary_{name}"] for name in expected}
        assert found == pytest.approx(expected, abs=1e-5)
    assert artifact.measured["windows"]["calm"] == 10
    assert artifact.measured["labelled"] >= 8

    again = log_of(served, FIRST, task, data, traffic)
    assert again.digest == artifact.digest
    assert traffic.calls == 2
    add_labels(served, {"replay/calm/9": 1})
    assert log_of(served, FIRST, task, data, traffic).digest != artifact.digest, "a label that came later counts"


def test_rows_outside_of_the_sample_and_answers_of_another_arm(served, task, data):
    model, writer = champion(served).model, writer_of(served)
    writer.append([answered("kept/out", kept=False, model=model, columns={})])
    writer.append([answered("fell/back", model=model, arm="challenger", failure="it took too long")])
    writer.append([answered("others", model="tiny__other")])
    writer.close()
    add_labels(served, {"kept/out": 1})
    artifact = log_of(served, FIRST, task, data)
    rows = {row["request_id"]: row for row in read_records(artifact).to_pylist()}
    assert "others" not in rows
    out = rows["kept/out"]
    assert (out["outputs"], out["answer_json"], out["summary_mean"], out["label"]) == (None, None, None, 1)
    assert (out["unit"], out["latency_ms"], out["window"]) == ("u-kept/out", 1.25, "1970-01-01")
    fell = rows["fell/back"]
    assert (fell["arm"], fell["assigned"], fell["failure"]) == ("champion", "challenger", "it took too long")
    assert (out["arm"], out["assigned"], out["failure"]) == ("champion", "champion", None)
    assert artifact.measured["kept"] == artifact.measured["records"] - 1


def test_signed_labels_are_taken_and_old_rows_go(served, task, data):
    key, database, writer = new_key(served.home), Database.of(served.home, served.project), writer_of(served)
    writer.append([answered(name, at=at, model=champion(served).model) for name, at in
                   [("inbox/1", time.time()), ("inbox/old", time.time() - 3 * 86_400)]])  # fmt: skip
    writer.close()
    signature = sign_label(key, "tiny", "inbox/1", "bright")
    for name, given in [("inbox/1", signature), ("inbox/2", "0" * 64)]:
        database.append(tables.label_inbox, project="tiny", request_id=name, label="bright", signature=given)
    said = []
    watched = Workspace(served.home, "tiny", lambda step: said.append(step.message))
    try:
        artifact = make_prediction_log(watched, FIRST, Monitoring(), data, task, None, keep_days=2)
        rows = {row["request_id"]: row for row in read_records(artifact).to_pylist()}
        assert rows["inbox/1"]["label"] == 1
        assert "inbox/old" not in rows
        assert artifact.measured["labels_refused"] == 1
        assert "1 rows of the label inbox are refused" in said
        artifact.require_gates()
    finally:
        served.home.label_key.unlink()
        database.close()


def test_a_label_that_is_none_of_the_tasks_is_named(served, task, data):
    writer = writer_of(served)
    writer.append([answered("misfit", model=champion(served).model)])
    writer.close()
    add_labels(served, {"misfit": "nothing such"})
    database = Database.of(served.home, served.project)
    try:
        with pytest.raises(LabelError, match=r"misfit: found the label 'nothing such' .*; remove it from the"):
            log_of(served, FIRST, task, data)
    finally:
        with database.begin() as connection:
            connection.execute(tables.labels.delete().where(tables.labels.c.request_id == "misfit"))
        database.close()


def test_a_model_without_traffic_has_no_records_and_says_why(served, task, data, inputs):
    traffic = Ten(inputs)
    artifact = log_of(served, SECOND, task, data, traffic)
    assert traffic.calls == 0
    assert read_records(artifact).num_rows == 0
    assert f"never had the traffic: {champion(served).model} serves" in artifact.measured["reason"]
    artifact.require_gates()


def test_an_acknowledged_request_that_is_not_logged_fails_the_gate(served, task, data):
    writer = LogWriter(acknowledged_folder(served.home, "tiny"))
    writer.append([{"id": "lost/1"}])
    writer.close()
    try:
        artifact = log_of(served, FIRST, task, data)
        with pytest.raises(ArtifactError, match=r"1 acknowledged requests are not in the log: lost/1"):
            artifact.require_gates()
    finally:
        writer.path.unlink()


def test_a_torn_end_of_the_routers_log_is_left_out(served, task, inputs):
    before = read_log(served).num_rows
    folder = served.home.predictions / "tiny"
    (folder / "99999999999999999999-1-x.log").write_bytes(b'0a1b2c3d {"id": "torn", "at"')
    assert read_log(served).num_rows == before
    predict(served, task, inputs[:1], ["torn/after"])
    assert read_log(served).num_rows == before + 1


def test_labels_are_kept_as_they_came_first(served):
    assert add_labels(served, {"label/1": 1, "label/2": 0}) == 2
    assert add_labels(served, {"label/1": 0, "label/3": 1}) == 1
    with pytest.raises(LabelError, match="expected 1 to 80 characters"):
        add_labels(served, {"x" * 81: 1})


def test_windows_come_from_ids_or_from_days():
    at = datetime(2026, 1, 5, 12, tzinfo=UTC)
    assert window_of("replay/calm/7/abc", at) == "calm"
    assert window_of("someone's own id", at) == "2026-01-05"


def test_nothing_published_is_an_error(make_workspace, task, data):
    with pytest.raises(ArtifactError, match="found no triton_repository of tiny"):
        log_of(make_workspace(), FIRST, task, data)
