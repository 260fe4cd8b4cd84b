"""What is opened for bundling: only files that no runtime is harmed by, whatever an artifact lists."""

import json

import onnx
import pytest

from dl_pipelines.inference.model_files import ModelFileError
from dl_pipelines.store.artifacts import MANIFEST, Artifact
from dl_pipelines.store.digest import digest_file, digest_json
from tests.bundles.conftest import FP32


@pytest.fixture
def forged(copied):
    """`forged(name, data)`: the float32 model with such a file, listed and signed as if it had been made so."""

    def forge(name: str, data: bytes) -> None:
        folder = copied.get("compressed_model", FP32).path
        (folder / name).write_bytes(data)
        manifest = json.loads((folder / MANIFEST).read_text())
        manifest.pop("digest")
        manifest["files"][name] = digest_file(folder / name)
        (folder / MANIFEST).write_text(json.dumps({**manifest, "digest": digest_json(manifest)}))
        Artifact.open(folder).verify()

    return forge


def spoiled(path) -> bytes:
    """An ONNX file that reads weights from beside it."""
    model = onnx.load(path)
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../secret")
    return model.SerializeToString()


@pytest.mark.parametrize("name", ["model/model.onnx", "network.onnx"])
def test_a_file_that_reaches_outside_is_not_opened(forged, copied, source_of, name):
    forged(name, spoiled(copied.get("compressed_model", FP32).file(name)))
    told = rf"found external data of .* in '../../secret', outside .* in {name.removeprefix('model/')}; expected all"
    with pytest.raises(ModelFileError, match=told):
        source_of(FP32, within=copied)


@pytest.mark.parametrize("name", ["model/../../x", "model/../network.onnx"])
def test_a_name_that_leads_out_of_the_folder_is_refused(forged, copied, source_of, name):
    forged(name, (copied.get("compressed_model", FP32).path / "network.onnx").read_bytes())
    with pytest.raises(ModelFileError, match=rf"found the file '{name}' in manifest.json; expected names right in"):
        source_of(FP32, within=copied)


def test_a_file_that_no_runtime_reads_is_refused(forged, copied, source_of):
    forged("model/run.sh", b"#!/bin/sh\n")
    with pytest.raises(ModelFileError, match=r"found a list of files model\.onnx, run\.sh"):
        source_of(FP32, within=copied)
