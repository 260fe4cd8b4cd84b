import os
import subprocess
import sys

import numpy as np
import onnx
import pytest

from benchmarks.tiny import FIRST, THIRD, make_compressed, reference, tiny_onnx
from dl_pipelines.evaluation.test_reads import count_test_reads
from dl_pipelines.serving.publish import make_triton_repository
from dl_pipelines.serving.server import TritonServer
from dl_pipelines.store.artifacts import ArtifactError, Gate


def publish(workspace, partition, task, data, serving, evaluation):
    return make_triton_repository(workspace, partition, serving, data, task, evaluation)


@pytest.fixture(scope="module")
def fresh(make_workspace, task, data, serving, evaluation):
    """A home with one published model of each runtime, its server ended again."""
    workspace = make_workspace()
    found = {
        runtime: publish(workspace, partition, task, data, serving, evaluation)
        for runtime, partition in (("onnxruntime", FIRST), ("openvino", THIRD))
    }
    return workspace, found


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_it_is_measured_through_the_live_server(fresh, runtime):
    _, found = fresh
    artifact = found[runtime]
    assert [(gate.name, gate.passed, gate.blocking) for gate in artifact.gates] == [
        ("live_parity", True, True),
        ("no_failures", True, False),
    ]
    measured = artifact.measured
    assert measured["parity"]["difference"] < 1e-4
    latency = measured["latency"]
    assert 0 < latency["p50_ms"] <= latency["p95_ms"] <= latency["p99_ms"] < 1000
    assert latency["requests"] > 20
    assert (latency["failed"], latency["clients"], latency["seconds"]) == (0, 2, 0.3)
    assert latency["throughput_rps"] == pytest.approx(latency["requests"] / 0.3, rel=0.3)
    assert measured["metrics"]["validation"]["accuracy"]["value"] == 1.0
    assert measured["metrics"]["test"]["accuracy"]["low"] == 1.0
    assert measured["rows"]["test"] > 20
    assert 0 < measured["load_seconds"] < 10


def test_the_folder_is_a_triton_model(fresh):
    _, found = fresh
    artifact = found["openvino"]
    about = artifact.read_json("model.json")
    assert about["model"].startswith("tiny__")
    assert len(about["model"]) == len("tiny__") + 12
    assert about["runtime"] == "openvino"
    assert {name for name in artifact.files if name.startswith("model/")} == {
        "model/config.pbtxt",
        "model/labels.txt",
        "model/1/model.xml",
        "model/1/model.bin",
    }
    assert artifact.file("model/labels.txt").read_text() == "dark\nbright\n"


def test_it_is_unloaded_and_got_no_traffic(fresh):
    workspace, _ = fresh
    assert list(workspace.home.repository.iterdir()) == []
    assert TritonServer(workspace.home).state() is None
    assert not TritonServer(workspace.home).routing("tiny").exists()
    assert not list(workspace.home.predictions.glob("tiny/*"))


def test_no_runtime_reports_to_its_makers(fresh, tmp_path):
    workspace, found = fresh
    assert not (workspace.home.server / ".cache").exists(), "the server's ONNX Runtime keeps nothing to send"
    program = (
        "import sys; from pathlib import Path; from dl_pipelines.inference.runtimes import open_runtime\n"
        "open_runtime('onnxruntime', Path(sys.argv[1]))"
    )
    model = found["onnxruntime"].file("model/1/model.onnx")
    kept = {
        name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    }
    subprocess.run([sys.executable, "-c", program, model], check=True, env={**kept, "HOME": str(tmp_path)})
    assert list(tmp_path.iterdir()) == []


def test_each_look_at_the_test_rows_is_counted_and_a_second_run_takes_none(fresh, task, data, serving, evaluation):
    workspace, found = fresh
    assert count_test_reads(workspace) == 2
    again = publish(workspace, FIRST, task, data, serving, evaluation)
    assert again.digest == found["onnxruntime"].digest
    assert count_test_reads(workspace) == 2


def test_a_model_that_answers_otherwise_fails_its_gate(make_workspace, task, data, serving, evaluation, monkeypatch):
    workspace = make_workspace()
    real = np.load

    def other(path, **given):
        found = real(path, **given)
        return found + 1 if str(path).endswith("outputs_validation.npy") else found

    monkeypatch.setattr(np, "load", other)
    artifact = publish(workspace, FIRST, task, data, serving, evaluation)
    gate = artifact.gates[0]
    assert (gate.name, gate.passed) == ("live_parity", False)
    assert "largest difference 1.00e+00" in gate.summary
    with pytest.raises(ArtifactError, match=r"triton_repository .* may not be used: found live_parity"):
        artifact.require_gates()


def test_a_model_without_parity_is_not_published(make_workspace, task, data, serving, evaluation):
    workspace = make_workspace("refused")

    def build(draft):
        draft.write_json("choice.json", {"runtime": "onnxruntime", "precision": "fp32"})
        draft.gate(Gate("parity", False, "made by a test", blocking=True))

    workspace.make("compressed_model", FIRST, build, settings={"bad": True}, parents={})
    with pytest.raises(ArtifactError, match=r"compressed_model .* may not be used: found parity: made by a test"):
        publish(workspace, FIRST, task, data, serving, evaluation)
    make_compressed(workspace, FIRST, task, 0, "onnxruntime")


def test_a_model_that_can_not_be_loaded_says_so(make_workspace, task, data, serving, evaluation):
    from dl_pipelines.serving.process import TritonError

    workspace = make_workspace("broken")

    def build(draft):
        path = tiny_onnx(draft.file("model/model.onnx"), 0)
        model = onnx.load(str(path))
        model.graph.node[0].op_type = "Nonsense"  # of the standard's domain, so that only a runtime knows
        onnx.save(model, str(path))
        draft.write_json("choice.json", {"runtime": "onnxruntime", "precision": "fp32"})
        np.save(draft.file("outputs_validation.npy"), reference(np.zeros((40, 8, 8, 1), np.uint8), 0))
        draft.gate(Gate("parity", True, "made by a test", blocking=True))

    workspace.make("compressed_model", FIRST, build, settings={"bad": True}, parents={})
    with pytest.raises(TritonError, match=r"could not load broken__[0-9a-f]{12} \(.*server\.log"):
        publish(workspace, FIRST, task, data, serving, evaluation)
    assert list(workspace.home.repository.iterdir()) == []
    assert workspace.find("triton_repository", FIRST) is None
