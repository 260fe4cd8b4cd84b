"""The chain on sound files, and on files that are wrong in each of its links."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from dl_pipelines.compression import dynamic_int8, static_int8
from dl_pipelines.inference.parity import torch_outputs
from dl_pipelines.inference.parity_chain import LINKS, NOISE_FACTOR, Files, first_broken, parity_chain
from dl_pipelines.inference.rounding import SMALLEST
from dl_pipelines.inference.runtimes import save_openvino
from tests.cpu import needs_exact_int8
from tests.sequences import frames, make_network, make_task
from tests.sequences import onnx_file as series_file


@pytest.fixture(scope="module")
def int8_file(onnx_file, images, tmp_path_factory):
    """The small network in int8."""
    path = tmp_path_factory.mktemp("int8") / "model.onnx"
    static_int8.quantize(onnx_file, path, images, reduce_range=False, per_channel=True)
    return path


@pytest.fixture
def chain(small_task, network, images, onnx_file, tmp_path):
    """A function: the links of the small network for a served file, with other files where given."""

    def run(served, runtime="onnxruntime", precision="int8", **changed):
        files = replace(Files(onnx_file, onnx_file, served, runtime, precision), **changed)
        return parity_chain(small_task, images, torch_outputs(network, images), files, tmp_path)

    return run


def with_weights(source, target, change, name=None):
    """A copy with one of its weights changed: the largest, or the one so named."""
    model = onnx.load(str(source))
    tensors = [item for item in model.graph.initializer if len(item.dims) > 1]
    tensor = max(tensors, key=lambda item: item.dims[0] * item.dims[1])
    if name is not None:
        tensor = next(item for item in model.graph.initializer if item.name == name)
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(change(values).astype(values.dtype), tensor.name))
    onnx.save(model, str(target))
    return target


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_sound_chain_holds(chain, onnx_file, int8_file, tmp_path, images, runtime, precision):
    served = onnx_file if precision == "fp32" else int8_file
    if runtime == "openvino":
        served, _ = save_openvino(served, tmp_path / "served" / "model.xml")
    links = chain(served, runtime, precision)
    assert [link.name for link in links] == list(LINKS)
    assert first_broken(links) is None
    assert [link.before for link in links] == ["torch", *(link.what for link in links[:-1])]
    assert links[1].what == f"float32 optimised by {runtime}"
    assert links[2].what == f"{precision} on {runtime}, as it serves"
    for link in links[:2] if precision == "int8" else links:
        assert link.rows == len(images)
        assert link.max_difference is not None and link.max_difference < 1e-5
        assert link.mean_difference is not None and link.mean_difference <= link.max_difference
        assert (link.noise, link.limit, link.agreement) == (None, None, 1.0)
    if precision == "int8":
        assert links[2].noise is not None and links[2].limit is not None
        assert 0 < links[2].noise < links[2].limit


def test_differences_are_those_of_the_outputs(chain, onnx_file, int8_file, images):
    from dl_pipelines.inference.parity import session_outputs
    from dl_pipelines.inference.runtimes import open_runtime

    link = chain(int8_file)[2]
    apart = np.abs(
        session_outputs(open_runtime("onnxruntime", onnx_file), images)
        - session_outputs(open_runtime("onnxruntime", int8_file), images)
    )
    assert link.max_difference == pytest.approx(apart.max())
    assert link.mean_difference == pytest.approx(apart.mean())
    assert set(link.plain()) >= {"passed", "noise", "limit", "max_difference", "mean_difference", "agreement", "rows"}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("at", LINKS)
def test_the_first_link_that_breaks_is_named(chain, onnx_file, int8_file, tmp_path, at, runtime):
    wrong = with_weights(onnx_file, tmp_path / "wrong.onnx", lambda values: -values)
    served = int8_file if at != "quantized" else with_weights(int8_file, tmp_path / "int8.onnx", lambda values: -values)
    if runtime == "openvino":
        served, _ = save_openvino(served, tmp_path / "served" / "model.xml")
    changed = {"onnx": {"onnx": wrong, "source": wrong}, "optimised": {"source": wrong}, "quantized": {}}[at]
    broken = first_broken(chain(served, runtime, **changed))
    assert broken is not None and broken.name == at


@needs_exact_int8
def test_wrong_weights_are_found_where_every_decision_agrees(chain, int8_file, tmp_path):
    """The scale of one layer's weights is half too large: no decision changes, and no rounding does that."""
    scale = next(
        item.name for item in onnx.load(str(int8_file)).graph.initializer if item.name.endswith("weight_scale")
    )
    larger = with_weights(int8_file, tmp_path / "larger.onnx", lambda values: values * 1.5, name=scale)
    *_, link = chain(larger)
    assert link.agreement >= 0.98 and link.alike and not link.passed
    assert "which rounding does not explain (at most " in link.told()
    assert link.limit is not None and link.noise is not None and link.noise > link.limit


def test_a_file_that_does_not_open_breaks_its_link_alone(chain, int8_file, tmp_path):
    (tmp_path / "nothing.onnx").write_bytes(b"nothing")
    links = chain(int8_file, source=tmp_path / "nothing.onnx")
    assert [link.passed for link in links] == [True, False, True]
    assert "nothing.onnx, which onnxruntime can't load" in links[1].told()
    assert links[2].before == "ONNX", "the last one that answered"


def test_answers_that_are_not_finite_break_a_link(chain, onnx_file, tmp_path):
    wrong = with_weights(onnx_file, tmp_path / "wrong.onnx", lambda values: values * np.nan)
    link = chain(wrong)[2]
    assert not link.passed
    assert (link.max_difference, link.mean_difference, link.noise) == (None, None, None)


def test_rounding_that_can_not_be_told_is_no_reason_to_refuse(chain, int8_file, monkeypatch):
    def unknown(*_):
        raise ValueError("found a graph that can't be rounded")

    monkeypatch.setattr("dl_pipelines.inference.rounding.explained", unknown)
    link = chain(int8_file)[2]
    assert link.passed and link.limit is None
    assert link.noise is not None and link.not_judged == "found a graph that can't be rounded"
    assert link.told() == f"{link.rule}; noise not judged: found a graph that can't be rounded"
    assert link.plain()["not_judged"] == link.not_judged


def test_a_yardstick_without_end_does_not_judge(chain, int8_file, monkeypatch):
    """An infinite limit would let everything pass, and is no JSON."""
    monkeypatch.setattr("dl_pipelines.inference.rounding.noise", lambda *_: float("inf"))
    link = chain(int8_file)[2]
    assert (link.noise, link.limit) == (None, None)
    assert link.not_judged == "found answers of model.onnx, rounded or not, that are not finite; expected finite ones"
    json.dumps(link.plain(), allow_nan=False)


def test_a_forecaster_holds_and_its_faults_are_found(tmp_path):
    path, rows = series_file(tmp_path / "model.onnx"), frames(60)
    dynamic_int8.quantize(path, tmp_path / "int8.onnx", False, True, False)
    own = torch_outputs(make_network(), rows)
    files = Files(path, path, tmp_path / "int8.onnx", "onnxruntime", "int8")
    links = parity_chain(make_task(), rows, own, files, tmp_path)
    assert first_broken(links) is None
    assert links[2].limit is not None and links[2].limit >= NOISE_FACTOR * SMALLEST
    wrong = with_weights(tmp_path / "int8.onnx", tmp_path / "wrong.onnx", lambda values: values[::-1])
    broken = first_broken(parity_chain(make_task(), rows, own, replace(files, served=wrong), tmp_path))
    assert broken is not None and broken.name == "quantized"
