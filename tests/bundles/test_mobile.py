"""The mobile bundle: ONNX Runtime's format with the answers of the file that it was made of."""

import numpy as np
import pytest

from dl_pipelines.bundles import executorch, mobile
from dl_pipelines.bundles.base import BundleError
from dl_pipelines.bundles.make import make_bundle
from tests.bundles.conftest import FP32, INT8, IR


def run(path, rows):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": rows})[0]


@pytest.mark.parametrize(
    ("partition", "precision", "why"),
    [
        (FP32, "fp32", "the served file"),
        (INT8, "int8", "the served file"),
        (IR, "fp32", "the float32 export of the network that serves: what serves (fp32, fp32) is in the format of"),
    ],
)
def test_it_answers_as_the_served_model(partition, precision, why, source_of, tmp_path):
    source = source_of(partition)
    made = make_bundle(source, "mobile", tmp_path / "out", tmp_path)
    assert (made.path / "model.ort").read_bytes()[4:8] == b"ORTM"
    np.testing.assert_allclose(run(made.path / "model.ort", source.inputs), source.outputs, atol=1e-4)
    assert made.manifest["facts"]["precision"] == precision
    assert made.manifest["facts"]["why"].startswith(why)
    assert [check["passed"] for check in made.manifest["parity"]][:3] == [True] * 3


def test_what_a_small_build_needs_is_listed(source_of, tmp_path):
    made = make_bundle(source_of(INT8), "mobile", tmp_path / "out", tmp_path)
    text = (made.path / mobile.OPERATORS).read_text()
    assert text.startswith("# Generated from model.ort\n")
    assert "QLinearConv" in text
    assert str(tmp_path) not in text


def test_a_graph_that_cannot_be_converted_is_told(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(
        BundleError, match=r"found a graph that ONNX Runtime can't write in its format \(.*\); expected"
    ):
        mobile._convert(tmp_path / "bad.onnx", tmp_path, tmp_path)


def test_executorch_or_the_reason_why_not(source_of, tmp_path, monkeypatch):
    made = make_bundle(source_of(FP32), "mobile", tmp_path / "out", tmp_path)
    found = made.manifest["facts"]["executorch"]
    readme = (made.path / "README.md").read_text()
    if executorch.missing() is None:
        assert found == "model.pte"
        assert made.manifest["parity"][3]["max_difference"] < 1e-4
        assert "`model.pte`: the float32 network for ExecuTorch with XNNPACK" in readme
    else:
        assert found == "not made: the package executorch is not installed"
        assert "`model.pte`: there is none (the package executorch is not installed)." in readme
        assert not (made.path / "model.pte").exists()


def test_an_executorch_that_fails_or_is_wrong_is_left_out(source_of, tmp_path, monkeypatch):
    source = source_of(FP32)

    def fail(source, path):
        raise executorch.ExecutorchFailed("ExecuTorch can't take this network (X: no)")

    monkeypatch.setattr(executorch, "missing", lambda: None)
    monkeypatch.setattr(executorch, "write", fail)
    made = make_bundle(source, "mobile", tmp_path / "failed", tmp_path)
    assert made.manifest["facts"]["executorch"] == "not made: ExecuTorch can't take this network (X: no)"

    def wrong(source, path):
        path.write_bytes(b"pte")
        return source.outputs + 1

    monkeypatch.setattr(executorch, "write", wrong)
    made = make_bundle(source, "mobile", tmp_path / "wrong", tmp_path)
    assert made.manifest["facts"]["executorch"].startswith("not made: what ExecuTorch wrote answers otherwise: 32 rows")
    assert "model.pte" not in made.manifest["files"]
