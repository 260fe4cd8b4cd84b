"""Publishing a model whose files nobody should load: refused before the server hears of it; the old one serves on."""

import shutil

import numpy as np
import onnx
import pytest

from benchmarks.tiny import FIRST, SECOND, make_compressed, reference, tiny_onnx
from dl_pipelines.inference.model_files import ModelFileError
from dl_pipelines.serving.client import predict
from dl_pipelines.serving.publish import make_triton_repository
from dl_pipelines.serving.server import TritonServer, running
from dl_pipelines.serving.traffic import ensure_champion
from dl_pipelines.store.artifacts import ArtifactError, Gate


def hostile(draft):
    """Weights in a file above the model's folder."""
    path = tiny_onnx(draft.file("model/model.onnx"), 1)
    model = onnx.load(str(path))
    weights = next(item for item in model.graph.initializer if item.name == "weights")
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="../../../secret.bin")
    path.write_bytes(model.SerializeToString())
    draft.write_json("choice.json", {"runtime": "onnxruntime", "precision": "fp32"})
    np.save(draft.file("outputs_validation.npy"), reference(np.zeros((40, 8, 8, 1), np.uint8), 1))
    draft.gate(Gate("parity", True, "made by a test", blocking=True))


def test_the_old_model_serves_on(make_workspace, task, data, serving, evaluation, inputs):
    workspace = make_workspace("guarded")

    def publish(partition):
        return make_triton_repository(workspace, partition, serving, data, task, evaluation)

    def answers(tag):
        return predict(workspace, task, inputs, [f"{tag}/{place}" for place in range(len(inputs))])

    with running(workspace.home, lazy=True):
        first = publish(FIRST)
        ensure_champion(workspace, FIRST, first)
        live = sorted(path.name for path in workspace.home.repository.iterdir())
        workspace.make("compressed_model", SECOND, hostile, settings={"bad": True}, parents={})
        told = r"external data of 'weights' in '../../../secret.bin', outside its folder in model.onnx; expected"
        with pytest.raises(ModelFileError, match=told):
            publish(SECOND)
        np.testing.assert_allclose(answers("after"), reference(inputs, 0), atol=1e-4)
        assert sorted(path.name for path in workspace.home.repository.iterdir()) == live
    assert workspace.find("triton_repository", SECOND) is None
    made = workspace.home.artifacts / "guarded" / "triton_repository"
    assert [path.name for path in made.iterdir()] == [first.path.name], "no draft is left"


@pytest.mark.parametrize("change", ["a link", "other bytes", "one file more"])
def test_files_changed_after_they_were_made_never_reach_a_server(
    make_workspace, task, data, serving, evaluation, change, tmp_path
):
    workspace = make_workspace("changed")
    compressed = make_compressed(workspace, FIRST, task, 0, "onnxruntime")
    file = compressed.file("model/model.onnx")
    if change == "a link":
        shutil.move(file, tmp_path / "kept.onnx")
        file.symlink_to(tmp_path / "kept.onnx")
    elif change == "other bytes":
        file.write_bytes(file.read_bytes() + b"more")
    else:
        (file.parent / "model.onnx.data").write_bytes(b"more")
    with pytest.raises(ArtifactError, match="it was not published"):
        make_triton_repository(workspace, FIRST, serving, data, task, evaluation)
    assert TritonServer(workspace.home).state() is None
    assert not workspace.home.repository.exists()


@pytest.mark.parametrize("change", ["a link", "other bytes"])
def test_files_changed_while_they_are_copied_never_reach_a_server(
    make_workspace, task, data, serving, evaluation, change, tmp_path, monkeypatch
):
    """The source is sound when it is looked at, and is replaced before it is opened again."""
    workspace = make_workspace("raced")
    file = make_compressed(workspace, FIRST, task, 0, "onnxruntime").file("model/model.onnx")
    copy, other = shutil.copyfile, tmp_path / "other.onnx"
    other.write_bytes(file.read_bytes() + b"more")

    def replaced(source, target):
        if source == file:
            file.unlink()
            if change == "a link":
                file.symlink_to(other)
            else:
                copy(other, file)
        return copy(source, target)

    monkeypatch.setattr("dl_pipelines.serving.repository.shutil.copyfile", replaced)
    with pytest.raises(ModelFileError, match=r"found sha256 .* in model\.onnx; expected .*, as its artifact lists it"):
        make_triton_repository(workspace, FIRST, serving, data, task, evaluation)
    assert file.is_symlink() == (change == "a link")
    assert TritonServer(workspace.home).state() is None
    assert not workspace.home.repository.exists()
