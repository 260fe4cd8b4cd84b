"""The cloud bundle: a repository as Triton loads it, and what is rendered around it. No server, no cluster."""

import json
import shlex
import shutil

import numpy as np
import pytest
import yaml
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from dl_pipelines.brief.sections import Evaluation
from dl_pipelines.bundles import cloud
from dl_pipelines.bundles.base import TRITON_IMAGE, BundleError, Options
from dl_pipelines.bundles.make import make_bundle
from dl_pipelines.serving.publish import _Stage
from dl_pipelines.store.artifacts import ArtifactError, Gate
from dl_pipelines.tasks.base import Rows
from dl_pipelines.wire.routing import read_table
from tests.bundles.conftest import FP32, INT8, IR, make_compressed


@pytest.fixture(scope="module")
def publish(workspace, serving, data, task, source_of):
    """`publish(partition)`: its `triton_repository`, written as publishing does, without a server."""

    def make(partition, within=workspace):
        source = source_of(partition, within=within)
        window = within.get("training_window", partition.daily)
        stage = _Stage(within, partition, serving, data, task, Evaluation(), source.compressed, window)

        def build(draft):
            rows = Rows(source.many_inputs, np.zeros(len(source.many_inputs)), np.arange(len(source.many_inputs)))
            stage._write(draft, rows, source.many_outputs)
            draft.gate(Gate("live_parity", True, "32 rows: made by a test", blocking=True))

        parents = {"compressed_model": source.compressed}
        return within.make("triton_repository", partition, build, settings={}, parents=parents)

    return make


@pytest.fixture(scope="module", params=[FP32, IR], ids=["onnxruntime", "openvino"])
def made(request, publish, source_of, tmp_path_factory):
    """The bundle of each runtime."""
    publish(request.param)
    folder = tmp_path_factory.mktemp("cloud")
    options = Options("nvcr.invalid/tritonserver:26.10-py3", "registry.invalid/tiny:7", "900M")
    return make_bundle(source_of(request.param, options), "cloud", folder / "out", folder)


def test_the_repository_is_what_triton_loads(made):
    model = made.manifest["facts"]["model"]
    assert {path.name for path in (made.path / "repository").iterdir()} == {model, "tiny"}
    for name in (model, "tiny"):
        text = (made.path / "repository" / name / "config.pbtxt").read_text()
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
        assert [item.name for item in (*config.input, *config.output)] == ["image", "logits"]
    router = text_format.Parse(text, model_config_pb2.ModelConfig())
    routing = made.path / "repository" / "tiny" / router.parameters["routing"].string_value
    table = read_table(routing.resolve())
    assert (table.project, table.champion, table.arms[0].model) == ("tiny", model, model)
    assert routing.resolve().is_relative_to(made.path)
    assert (made.path / "repository" / "tiny" / "1" / "wire" / "routing.py").is_file()


def test_the_files_answer_as_the_recorded_model(made):
    (check,) = made.manifest["parity"]
    assert (check["passed"], check["rows"]) == (True, 32)
    assert check["max_difference"] < 1e-5


def test_it_has_rows_to_ask_the_server_for(made, source_of):
    source = source_of(FP32)
    np.testing.assert_array_equal(np.load(made.path / "parity_inputs.npy"), source.inputs)
    np.testing.assert_allclose(np.load(made.path / "parity_outputs.npy"), source.outputs, atol=1e-4)


def test_what_is_rendered_is_labelled_and_agrees(made):
    facts = made.manifest["facts"]
    assert (facts["container"], facts["kubernetes"]) == ("rendered, not run", "rendered, not run")
    assert facts["live_parity"] == "32 rows: made by a test"
    assert "**Container and manifests are rendered, not run**" in (made.path / "README.md").read_text()
    text = (made.path / "Containerfile").read_text()
    assert text.startswith("# rendered, not run")
    lines = text.replace("\\\n", "").splitlines()
    assert "FROM nvcr.invalid/tritonserver:26.10-py3" in lines
    sources = [shlex.split(line)[2] for line in lines if line.startswith("COPY")]
    assert all((made.path / name).exists() for name in sources)
    start = json.loads(next(line for line in lines if line.startswith("CMD")).removeprefix("CMD "))
    assert start == ["/opt/dlp/start.sh"] and f'"--load-model={facts["model"]}"' in (made.path / "start.sh").read_text()
    names = sorted(path.name for path in (made.path / "kubernetes").iterdir())
    assert names == sorted(facts["manifests"])
    for name in (*(f"kubernetes/{name}" for name in names), "kserve/inferenceservice.yaml", "compose.yaml"):
        assert (made.path / name).read_text().startswith("# rendered, not run")
    deployment = yaml.safe_load((made.path / "kubernetes" / "deployment.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert (container["image"], container["command"]) == ("registry.invalid/tiny:7", start)
    assert container["resources"]["requests"] == {"cpu": "4", "memory": "900M"}


def test_the_default_image_has_a_release():
    assert TRITON_IMAGE.startswith("nvcr.io/nvidia/tritonserver:2")
    assert TRITON_IMAGE.endswith("-py3")


def test_bad_options_write_nothing(publish, source_of, tmp_path):
    publish(FP32)
    source = source_of(FP32, Options("nvcr.io/nvidia/tritonserver"))
    with pytest.raises(ValueError, match=r"found --triton-image 'nvcr\.io/nvidia/tritonserver'; expected an image"):
        make_bundle(source, "cloud", tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_model_that_was_not_published_is_told(source_of, tmp_path):
    with pytest.raises(ArtifactError, match="found no triton_repository of tiny for 2026-01-01"):
        make_bundle(source_of(INT8), "cloud", tmp_path / "out", tmp_path)


def test_a_repository_of_another_model_is_refused(publish, copied, task, network, source_of, tmp_path):
    publish(FP32, copied)
    make_compressed(copied, FP32, task, network, shift=0.5)
    with pytest.raises(BundleError, match="found a triton_repository of another model than compressed_model"):
        make_bundle(source_of(FP32, within=copied), "cloud", tmp_path / "out", tmp_path)


def test_a_damaged_repository_is_refused(publish, copied, source_of, tmp_path):
    artifact = publish(FP32, copied)
    path = artifact.file("model/1/model.onnx")
    shutil.copyfile(artifact.file("router.pbtxt"), path)
    with pytest.raises(ArtifactError, match=r"found model/1/model.onnx of triton_repository .* damaged"):
        make_bundle(source_of(FP32, within=copied), "cloud", tmp_path / "out", tmp_path)


def test_triton_answers_from_the_bundle(publish, source_of, task, tmp_path):
    """The folders lie as in a home, so the embedded server loads them as they are; the container is not run."""
    from dl_pipelines.serving.client import Caller, batched
    from dl_pipelines.serving.server import running
    from dl_pipelines.store.home import Home

    publish(FP32)
    source = source_of(FP32)
    made = make_bundle(source, "cloud", tmp_path / "bundle", tmp_path)
    shutil.copytree(made.path, tmp_path / "home")
    with running(Home(tmp_path / "home")) as server:
        for name in (made.manifest["facts"]["model"], "tiny"):
            server.control.load(name)
        answers = batched(Caller.of(server.grpc, "tiny", task.signature()), source.inputs, 16)
    np.testing.assert_allclose(answers, source.outputs, atol=1e-5)
    assert list((tmp_path / "home" / "predictions" / "tiny").iterdir())


@pytest.mark.parametrize(("model", "name"), [("tiny", "../../../x"), ("../x", "config.pbtxt"), ("tiny", "/x")])
def test_names_that_lead_out_of_the_bundle_are_refused(tmp_path, model, name):
    with pytest.raises(BundleError, match=r"found the file '.*x.*' in the triton_repository; expected names inside it"):
        cloud._copy(tmp_path / "repository", model, {"1/model.onnx": b"", name: b""})
    assert not (tmp_path / "x").exists()
