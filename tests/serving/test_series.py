"""A forecaster behind the router: frames with missing values in, forecasts out, all of it in the log."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from benchmarks.tiny import FIRST
from dl_pipelines.brief.live import Monitoring, Serving
from dl_pipelines.brief.references import SourceRef
from dl_pipelines.brief.sections import Data, Evaluation
from dl_pipelines.inference.parity import session_outputs
from dl_pipelines.inference.runtimes import open_runtime
from dl_pipelines.serving.client import PredictError, predict
from dl_pipelines.serving.labels import LabelError, add_labels
from dl_pipelines.serving.prediction_log import make_prediction_log
from dl_pipelines.serving.publish import make_triton_repository
from dl_pipelines.serving.server import running
from dl_pipelines.serving.traffic import ensure_champion
from dl_pipelines.store.artifacts import Draft, Gate
from dl_pipelines.store.home import Home
from dl_pipelines.store.records import read_records
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.tasks.base import Rows
from dl_pipelines.wire.summaries import SUMMARIES
from tests.sequences import frames, make_task, targets, tiny_onnx

pytestmark = pytest.mark.slow
DATA = Data(source=SourceRef(name="digits"))


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A home whose only model has the traffic; its server is running."""
    inputs = frames(40)
    held = Rows(inputs, targets(inputs), np.array([f"item|{place}" for place in range(40)], dtype=object))
    made = Workspace(Home(tmp_path_factory.mktemp("home")).prepare(), "sold")
    path = tiny_onnx(tmp_path_factory.mktemp("model") / "model.onnx")

    def compressed(draft: Draft) -> None:
        shutil.copyfile(path, draft.file("model/model.onnx"))
        choice = {"runtime": "onnxruntime", "variant": "fp32", "precision": "fp32", "file": "model/model.onnx"}
        draft.write_json("choice.json", choice)
        outputs = session_outputs(open_runtime("onnxruntime", path), inputs)
        np.save(draft.file("outputs_validation.npy"), outputs, allow_pickle=False)
        draft.gate(Gate("parity", True, "made by a test", blocking=True))

    def window(draft: Draft) -> None:
        draft.gate(Gate("no_leak", True, "made by a test", blocking=True))

    made.make("compressed_model", FIRST, compressed, settings={}, parents={})
    made.make("training_window", FIRST.daily, window, settings={}, parents={})
    with pytest.MonkeyPatch.context() as patch, running(made.home):
        patch.setattr("dl_pipelines.data.batches.window_rows", lambda *_: held)
        serving = Serving(load_seconds=0.3, load_clients=2, max_batch=8, queue_delay_ms=0)
        artifact = make_triton_repository(made, FIRST, serving, DATA, make_task(), Evaluation(resamples=100))
        assert [(gate.name, gate.passed) for gate in artifact.gates] == [("live_parity", True), ("no_failures", True)]
        assert artifact.read_json("model.json")["columns"] == ["day", "item", "value", "price"]
        assert "wape" in artifact.measured["metrics"]["test"]
        ensure_champion(made, FIRST, artifact)
        yield made


def test_what_was_asked_and_answered_is_logged(served):
    task, inputs = make_task(), frames(12, seed=4)
    ids = [f"replay/calm/item {place}|2026-01-01" for place in range(12)]
    outputs = predict(served, task, inputs, ids)
    assert outputs.shape == (12, 7, 4) and np.isfinite(outputs).all()
    labels = task.labels_of(targets(inputs))
    labels[0][2] = None
    add_labels(served, dict(zip(ids[:9], labels[:9], strict=True)))
    rows = {row["request_id"]: row for row in read_records(
        make_prediction_log(served, FIRST, Monitoring(), DATA, task)
    ).to_pylist()}  # fmt: skip
    for place, name in enumerate(ids):
        row = rows[name]
        np.testing.assert_allclose(np.reshape(row["outputs"], (7, 4)), outputs[place], atol=1e-4)
        assert row["label"] == (labels[place] if place < 9 else None)
        found = {name: row[f"summary_{name}"] for name in SUMMARIES["series"](inputs[place])}
        assert found == pytest.approx(SUMMARIES["series"](inputs[place]), abs=1e-5)
        assert len(json.loads(row["answer_json"])["mean"]) == 7
    found = task.targets_of([rows[name]["label"] for name in ids[:9]])
    expected = targets(inputs)[:9]
    expected[0, 2] = np.nan
    np.testing.assert_array_equal(found.astype(np.float32), expected)


def test_a_frame_of_another_length_is_told_before_it_is_sent(served):
    with pytest.raises(PredictError, match=r"found inputs of float32 \[1, 20, 4\]; expected float32 \[N, 21, 4\]"):
        predict(served, make_task(), frames(1)[:, 1:], ["short"])


def test_a_label_that_json_lacks_is_told(served):
    with pytest.raises(LabelError, match=r"found a label of a that JSON can't hold .* null for what is missing"):
        add_labels(served, {"a": [1.0, float("nan")]})
