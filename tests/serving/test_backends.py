"""The code that runs inside Triton, here without it: batches cut apart, tensors that stay, failures told."""

import contextlib
import importlib.util
import json
import sys
import threading
import time
import uuid
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.tiny import reference, tiny_onnx
from dl_pipelines.inference.runtimes import save_openvino
from dl_pipelines.serving.process import BACKENDS, WIRE
from dl_pipelines.wire.channel import Failed, Gone, connect


class FakeTensor:
    def __init__(self, name, array):
        self.name, self._array = name, array

    def as_numpy(self):
        return self._array


class FakeResponse:
    def __init__(self, tensors=(), error=None):
        self.tensors, self.error = list(tensors), error


@pytest.fixture
def backend(monkeypatch, tmp_path):
    """A function: one of our backends, loaded with model 0 of benchmarks/tiny.py."""
    fake = SimpleNamespace(
        Tensor=FakeTensor, InferenceResponse=FakeResponse, TritonError=str,
        get_input_tensor_by_name=lambda request, name: request[name],
        triton_string_to_numpy={"TYPE_FP32": np.float32, "TYPE_UINT8": np.uint8}.__getitem__,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake)
    monkeypatch.syspath_prepend(str(BACKENDS))
    monkeypatch.syspath_prepend(str(WIRE))
    name, loaded = f"backend-{uuid.uuid4().hex}", []

    def load(runtime, warmups=()):
        onnx = tiny_onnx(tmp_path / "1" / "model.onnx", 0)
        if runtime == "openvino":
            save_openvino(onnx, onnx.with_suffix(".xml"))
        spec = importlib.util.spec_from_file_location(f"{runtime}_backend", BACKENDS / runtime / "model.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = {"input": [{"name": "image"}], "output": [{"name": "logits", "data_type": "TYPE_FP32"}]}
        config["model_warmup"] = list(warmups)
        given = {"model_config": json.dumps(config), "model_repository": str(tmp_path), "model_version": "1",
                 "model_name": name}  # fmt: skip
        model = module.TritonPythonModel()
        model.initialize(given)
        loaded.append(model)
        return model

    load.name = name
    yield load
    for model in loaded:
        model.line.close()
    for module in ("batching", "line", "channel"):
        sys.modules.pop(module, None)


def images(rows, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (rows, 8, 8, 1)).astype(np.uint8)


def ask(model, *inputs):
    return model.execute([{"image": FakeTensor("image", array)} for array in inputs])


def outputs(response):
    (tensor,) = response.tensors
    assert tensor.name == "logits" and response.error is None
    return tensor.as_numpy()


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_each_request_gets_its_rows_whatever_came_with_it_and_before(backend, runtime):
    model = backend(runtime)
    large = 2**16 // 64 + 1  # rows of more bytes than the backend copies
    given = [(1,), (1,), (3,), (1,), (large,), (large,), (1,), (2, 1, 4), (large, 2), (1,)]
    asked = [[images(rows, 10 * turn + place) for place, rows in enumerate(sizes)] for turn, sizes in enumerate(given)]
    found = [[outputs(response) for response in ask(model, *inputs)] for inputs in asked]
    for inputs, answers in zip(asked, found, strict=True):  # at the end: no answer may be written over by a later one
        assert len(inputs) == len(answers)
        for image, answer in zip(inputs, answers, strict=True):
            np.testing.assert_allclose(answer, reference(image, 0), atol=1e-3)
            assert answer.dtype == np.float32
    model.finalize()


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("order", ["read-only", "turned", "every second"])
def test_inputs_in_any_order_of_memory_are_read_as_they_look(backend, runtime, order):
    model, image = backend(runtime), images(2000)
    for rows in (4, 1400):
        given = image[: 2 * rows : 2] if order == "every second" else image[:rows]
        if order == "turned":
            given = given.transpose(0, 2, 1, 3)
        if order == "read-only":
            given.flags.writeable = False
        np.testing.assert_allclose(outputs(ask(model, given)[0]), reference(np.array(given), 0), atol=1e-3)


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_a_run_that_fails_is_an_error_of_each_request_and_the_next_one_works(backend, runtime):
    model = backend(runtime)
    failed = ask(model, np.zeros((1, 7, 7, 1), np.uint8), np.zeros((2, 7, 7, 1), np.uint8))
    assert len(failed) == 2
    assert all(response.error.startswith("the model failed on 2 requests: ") for response in failed)
    image = images(1)
    np.testing.assert_allclose(outputs(ask(model, image)[0]), reference(image, 0), atol=1e-3)


def warmup(rows, dims=(8, 8, 1)):
    """As Triton hands it to a backend: large numbers are texts in protobuf's JSON."""
    given = {"data_type": "TYPE_UINT8", "dims": list(map(str, dims)), "zero_data": True}
    return {"name": f"rows_{rows}", "batch_size": rows, "inputs": {"image": given}}


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_a_model_that_would_fail_at_a_warm_up_of_the_servers_is_refused_before(backend, runtime, monkeypatch):
    model = backend(runtime, [warmup(1), warmup(8)])
    seen = []
    monkeypatch.setattr(model, "_run", lambda inputs: seen.append(inputs))
    model.settings.warm_up(model._run)
    assert [(array.shape, array.dtype, int(array.max())) for array in seen] == [
        ((rows, 8, 8, 1), np.uint8, 0) for rows in (1, 8)
    ]
    with pytest.raises(Exception, match=r"(?i)shape|dimension"):
        backend(runtime, [warmup(1), warmup(8, (9, 9, 1))])


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_past_triton_a_model_answers_as_through_it_also_for_several_at_once(backend, runtime):
    model = backend(runtime)
    wrong = []

    def ask_often(seed):
        line = connect(backend.name)
        for turn, rows in enumerate([1, 3, 1500, 2, 5000, 1, 1500]):
            image = images(rows, 100 * seed + turn)
            line.send(image)
            answer = line.receive()
            if answer.dtype != np.float32 or not np.allclose(answer, reference(image, 0), atol=1e-3):
                wrong.append((seed, turn))
        line.close()

    callers = [threading.Thread(target=ask_often, args=(seed,)) for seed in range(4)]
    for caller in callers:
        caller.start()
    for turn in range(20):
        np.testing.assert_allclose(outputs(ask(model, images(2, turn))[0]), reference(images(2, turn), 0), atol=1e-3)
    for caller in callers:
        caller.join(30)
    assert not wrong and not any(caller.is_alive() for caller in callers)
    model.finalize()


def test_past_triton_a_model_says_how_long_it_took_without_waiting_for_others(backend, monkeypatch):
    model = backend("onnxruntime")
    run, busy = model.line._run, threading.Event()

    def slowly(inputs):
        busy.set()
        time.sleep(0.1)
        return run(inputs)

    monkeypatch.setattr(model.line, "_run", slowly)
    lines = [connect(backend.name) for _ in range(2)]
    started = time.perf_counter()
    lines[0].send(images(1))
    assert busy.wait(10)
    lines[1].send(images(1))
    for line in lines:
        line.receive()
    whole = time.perf_counter() - started
    assert min(line.seconds for line in lines) >= 0.1
    assert sum(line.seconds for line in lines) <= whole, "one after the other, and no wait is counted"
    for line in lines:
        line.close()
    model.finalize()


def test_past_triton_a_failed_run_is_told_and_the_next_one_works(backend):
    model = backend("onnxruntime")
    line = connect(backend.name)
    line.send(np.zeros((1, 9, 9, 1), np.uint8))
    with pytest.raises(Failed, match="the model failed on 1 rows: "):
        line.receive()
    line.send(images(1))
    np.testing.assert_allclose(line.receive(), reference(images(1), 0), atol=1e-3)
    line.close()
    model.finalize()


def test_a_model_that_is_unloaded_ends_the_call_under_way_and_takes_no_more(backend):
    model = backend("onnxruntime")
    begun, go_on, run = threading.Event(), threading.Event(), model.line._run

    def slowly(inputs):
        begun.set()
        assert go_on.wait(30)
        return run(inputs)

    model.line._run = slowly
    line, late = connect(backend.name), connect(backend.name)
    line.send(images(1))
    assert begun.wait(30)
    late.send(images(1))
    ending = threading.Thread(target=model.finalize)
    ending.start()
    go_on.set()
    np.testing.assert_allclose(line.receive(), reference(images(1), 0), atol=1e-3)
    ending.join(30)
    with contextlib.suppress(Gone):  # it is told, unless it came before the end
        np.testing.assert_allclose(late.receive(), reference(images(1), 0), atol=1e-3)
    for caller in (line, late):
        with pytest.raises(Gone):
            caller.send(images(1))
        caller.close()
    with pytest.raises(Gone, match="nobody listens"):
        connect(backend.name)
