import hashlib
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError

from dl_pipelines.brief.sections import Compression
from dl_pipelines.compression.nncf_int8 import NncfInt8
from dl_pipelines.compression.registry import TECHNIQUES
from dl_pipelines.inference.parity import session_outputs
from dl_pipelines.inference.runtimes import open_runtime
from dl_pipelines.tasks.base import Rows
from tests.quantizing import network_of, shop_of


@pytest.fixture(scope="module")
def make(wide_onnx, wide_task, wide_rows, wide_reference, tmp_path_factory):
    """`make(folder=None, calibration=None, compression=None, onnx=wide, **params)`: the technique's variants."""

    def variants(folder=None, calibration=None, compression=None, onnx=wide_onnx, **params):
        folder = folder or tmp_path_factory.mktemp("nncf")
        shop = shop_of(folder, onnx, wide_task, wide_rows, wide_reference, compression, calibration)
        return NncfInt8(NncfInt8.Params(**params)).variants(network_of(onnx), shop)

    return variants


@pytest.fixture(scope="module")
def quantized(make, wide_rows):
    (variant,) = make(calibration=wide_rows.inputs[:32])
    return variant


def digest(variant):
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in (variant.path, variant.path.with_suffix(".bin"))]


def test_it_is_an_ir_for_openvino_alone_with_weights_in_int8(quantized, wide_onnx):
    assert (quantized.name, quantized.precision, quantized.runtimes) == ("nncf_int8", "int8", ("openvino",))
    size = sum(path.stat().st_size for path in (quantized.path, quantized.path.with_suffix(".bin")))
    assert 0.2 < size / wide_onnx.stat().st_size < 0.35
    assert quantized.path.read_text().count('type="FakeQuantize"') >= 3
    assert quantized.details == {"calibration": {"rows": 32, "preset": "auto"}}


def test_it_decides_as_the_original(quantized, wide_rows, wide_reference):
    outputs = session_outputs(open_runtime("openvino", quantized.path, 1, "int8"), wide_rows.inputs)
    assert (outputs.argmax(1) == wide_reference.argmax(1)).mean() >= 0.98
    assert np.abs(outputs - wide_reference).max() > 0


def test_the_same_rows_give_the_same_bytes(quantized, make, wide_rows, tmp_path):
    (again,) = make(tmp_path, calibration=wide_rows.inputs[:32])
    assert digest(again) == digest(quantized)
    assert str(tmp_path).encode() not in again.path.read_bytes()
    before = again.path.stat().st_mtime_ns
    (kept,) = make(tmp_path, calibration=wide_rows.inputs[:32])
    assert kept.path.stat().st_mtime_ns == before, "what is there already is not made again"


def test_a_write_that_was_cut_off_is_done_again(quantized, make, wide_rows, tmp_path, monkeypatch):
    from dl_pipelines.compression import nncf_int8

    def cut(model, path):
        path.parent.mkdir(parents=True)
        path.write_text("<net")
        path.with_suffix(".bin").write_bytes(b"")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(nncf_int8, "write_openvino", cut)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path, calibration=wide_rows.inputs[:32])
    (again,) = make(tmp_path, calibration=wide_rows.inputs[:32])
    assert digest(again) == digest(quantized)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nncf_int8"]


def test_accuracy_is_controlled_where_a_slice_alone_is_over_the_budget(
    wide_onnx, wide_task, wide_rows, wide_reference, tmp_path, monkeypatch
):
    from dl_pipelines.compression import nncf_int8

    worst = wide_reference.copy()
    worst[1:9:2] = -worst[1:9:2]  # four bright rows
    sliced = Rows(wide_rows.inputs, wide_rows.targets, wide_rows.ids, {"bright": wide_rows.targets == 1})
    seen = shop_of(tmp_path, wide_onnx, wide_task, sliced, wide_reference)
    between = Compression(max_loss=(seen.loss(worst)["high"] + seen.worst(worst)) / 2)
    assert seen.loss(worst)["high"] < between.max_loss < seen.worst(worst)
    monkeypatch.setattr(type(seen), "outputs", lambda *_: worst)
    monkeypatch.setattr(nncf_int8._Tool, "controlled", lambda self: self.quantized())
    shop = shop_of(tmp_path, wide_onnx, wide_task, sliced, wide_reference, between, wide_rows.inputs[:8])
    made = NncfInt8(NncfInt8.Params()).variants(network_of(wide_onnx), shop)
    assert [variant.name for variant in made] == ["nncf_int8", "nncf_int8_accurate"]
    tool = nncf_int8._Tool(network_of(wide_onnx), shop, NncfInt8.Params(), wide_rows.inputs[:8])
    request = SimpleNamespace(infer=lambda given: [worst[: len(given[0])]])
    metric, answers = tool._validate(SimpleNamespace(create_infer_request=lambda: request), range(200))
    assert metric == 1 - shop.worst(worst) and len(answers) == 200


def test_where_the_loss_can_not_be_told_the_plain_variant_stays(make, wide_task, wide_rows, monkeypatch):
    monkeypatch.setattr(type(wide_task), "measure", lambda *_: {})
    (variant,) = make(calibration=wide_rows.inputs[:8])
    assert (variant.name, variant.failure) == ("nncf_int8", None)


def test_nothing_is_printed_logged_or_reported(wide_onnx, tmp_path):
    rows = tmp_path / "rows.npy"
    np.save(rows, np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1)).astype(np.uint8))
    code = f"""
import logging, socket, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np
def refused(*_):
    raise AssertionError("it asked the network")
socket.socket.connect = refused
from dl_pipelines.compression.nncf_int8 import NncfInt8, _Tool
assert "nncf" not in sys.modules
_Tool(SimpleNamespace(onnx=Path({str(wide_onnx)!r})), None, NncfInt8.Params(), np.load({str(rows)!r})).quantized()
assert sys.modules["openvino_telemetry"] is None and logging.getLoggerClass() is logging.Logger
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_budget_that_it_misses_has_layers_given_back(make, wide_network, wide_task, wide_rows, tmp_path):
    import copy

    import torch

    from dl_pipelines.inference.export import export_onnx
    from dl_pipelines.inference.parity import torch_outputs

    # One channel whose values dwarf the others of its tensor: of those, eight bits leave nothing.
    network = copy.deepcopy(wide_network)
    with torch.no_grad():
        network.features[3].weight[0] *= 3000
        network.features[6].weight[:, 0] /= 3000
    onnx = export_onnx(network, wide_task, tmp_path / "outlier" / "model.onnx")
    reference = torch_outputs(network, wide_rows.inputs)
    rows = Rows(wide_rows.inputs, reference.argmax(1), wide_rows.ids)
    shop = shop_of(
        tmp_path / "out", onnx, wide_task, rows, reference, Compression(max_loss=0.01), wide_rows.inputs[:32]
    )
    plain, accurate = NncfInt8(NncfInt8.Params(restored=1)).variants(network_of(onnx), shop)
    assert (plain.name, accurate.name) == ("nncf_int8", "nncf_int8_accurate")
    assert not shop.within_budget(shop.outputs(plain.path, "openvino", "int8"))
    count = [variant.path.read_text().count('type="FakeQuantize"') for variant in (plain, accurate)]
    assert 0 < count[1] < count[0], "one layer is in float again"
    again = replace(shop, folder=tmp_path / "all")
    _, nothing = NncfInt8(NncfInt8.Params()).variants(network_of(onnx), again)
    assert nothing.failure == "every layer went back to float before the loss was within the budget"
    off = NncfInt8(NncfInt8.Params(accuracy_control="off"))
    assert [variant.name for variant in off.variants(network_of(onnx), shop)] == ["nncf_int8"]


def test_without_openvino_there_is_nothing_to_try(wide_onnx, wide_task, wide_rows, wide_reference, tmp_path):
    technique = NncfInt8(NncfInt8.Params())
    for runtimes, expected in (
        (("onnxruntime",), "its graphs are for openvino, which compression.runtimes leaves out"),
        (("onnxruntime", "openvino"), None),
    ):
        shop = shop_of(tmp_path, wide_onnx, wide_task, wide_rows, wide_reference, Compression(runtimes=runtimes))
        assert technique.unsuited(network_of(wide_onnx), shop) == expected


def test_a_graph_without_layers_is_told(make, tmp_path):
    from onnx import TensorProto, helper, save

    given = helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", 8, 8, 1])
    gives = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8, 8, 1])
    graph = helper.make_graph([helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)], "g", [given], [gives])
    path = tmp_path / "cast.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    (variant,) = make(tmp_path / "out", onnx=path)
    assert variant.failure == "found no operator that int8 covers; the graph would stay as it is"


def test_params_are_checked():
    assert TECHNIQUES.params_model("nncf_int8")().preset == "auto"
    for wrong in ({"preset": "fast"}, {"restored": 0}, {"accuracy_control": "always"}, {"bits": 4},
                  {"calibration_rows": 1}):  # fmt: skip
        with pytest.raises(ValidationError):
            NncfInt8.Params.model_validate(wrong)
