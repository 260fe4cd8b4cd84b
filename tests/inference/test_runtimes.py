import sys

import numpy as np
import pytest

from dl_pipelines.inference.parity import session_outputs, torch_outputs
from dl_pipelines.inference.runtimes import (
    MODEL_FILES,
    RUNTIMES,
    ModelRunError,
    RuntimeFileError,
    RuntimeMissing,
    open_runtime,
    save_openvino,
)


@pytest.fixture(params=["onnxruntime", "openvino"])
def runtime(request):
    return request.param


@pytest.fixture
def model_file(runtime, onnx_file, xml_file):
    return onnx_file if runtime == "onnxruntime" else xml_file


@pytest.mark.parametrize("threads", [1, 2])
def test_every_runtime_answers_as_torch_does_for_any_batch(runtime, model_file, network, images, threads):
    session = open_runtime(runtime, model_file, threads)
    expected = torch_outputs(network, images)
    for batch in (1, 5, 37):
        outputs = session_outputs(session, images, batch)
        assert outputs.dtype == np.float32
        np.testing.assert_allclose(outputs, expected, atol=1e-5)


def test_an_answer_is_not_overwritten_by_the_next(runtime, model_file, images):
    session = open_runtime(runtime, model_file)
    first = session.run(images[:2])
    kept = first.copy()
    session.run(images[2:4])
    np.testing.assert_array_equal(first, kept)


def test_answers_repeat_bit_by_bit(runtime, model_file, images):
    first, second = (open_runtime(runtime, model_file).run(images) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_inputs_may_be_read_only_and_strided(runtime, model_file, images):
    session = open_runtime(runtime, model_file)
    expected = session.run(images[::2].copy())
    locked = images.copy()
    locked.flags.writeable = False
    np.testing.assert_array_equal(session.run(locked[::2]), expected)


def test_a_wrong_type_is_refused(runtime, model_file, images):
    with pytest.raises(ModelRunError, match="found an input of float32"):
        open_runtime(runtime, model_file).run(images.astype(np.float32))


def test_a_wrong_input_is_refused(runtime, model_file, images):
    session = open_runtime(runtime, model_file)
    with pytest.raises(ModelRunError, match=rf"found an input of uint8 \[37, 5, 3\] that {runtime} can't run"):
        session.run(images[:, 0])


def test_a_missing_file_is_named(runtime, tmp_path):
    with pytest.raises(RuntimeFileError, match=f"expected a model for {runtime}; run compressed_model again"):
        open_runtime(runtime, tmp_path / "model.onnx")


def test_a_runtime_that_is_not_installed_is_named(runtime, model_file, monkeypatch):
    monkeypatch.setitem(sys.modules, runtime, None)
    with pytest.raises(RuntimeMissing) as caught:
        open_runtime(runtime, model_file)
    assert str(caught.value).startswith(f"found no runtime {runtime} here (import of {runtime} halted")
    assert str(caught.value).endswith(
        f"install what requirements.lock lists, or take {runtime} out of compression.runtimes"
    )


@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_a_damaged_file_is_named(runtime, model_file, tmp_path, damage):
    content = model_file.read_bytes()
    bad = {"cut": content[: len(content) // 2], "noise": b"\xff\x00" * 200, "empty": b""}[damage]
    path = tmp_path / model_file.name
    path.write_bytes(bad)
    with pytest.raises(RuntimeFileError) as caught:
        open_runtime(runtime, path)
    message = str(caught.value)
    assert message.startswith(f"found {path.name}, which {runtime} can't load (")
    assert f"remove the folder {tmp_path} and run compressed_model again" in message
    assert len(message) < 600


def test_openvino_says_when_it_cant_read_the_graph(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(RuntimeFileError, match=r"found model\.onnx, which openvino can't read"):
        save_openvino(path, tmp_path / "model.xml")


def test_a_runtime_that_does_not_exist(onnx_file):
    with pytest.raises(ValueError, match="found the runtime 'tensorrt'; expected one of onnxruntime, openvino"):
        open_runtime("tensorrt", onnx_file)


def test_ir_has_the_same_bytes_whatever_was_converted_before(onnx_file, xml_file, tmp_path):
    for path in save_openvino(onnx_file, tmp_path / "model.xml"):
        assert path.read_bytes() == xml_file.with_suffix(path.suffix).read_bytes()
    assert b"FP32" in xml_file.read_bytes()
    assert b"FP16" not in xml_file.read_bytes()


def test_openvino_is_imported_without_its_telemetry(xml_file):
    assert "openvino" in sys.modules
    assert sys.modules["openvino_telemetry"] is None


def test_every_runtime_names_the_files_it_serves():
    assert set(RUNTIMES) == set(MODEL_FILES)
