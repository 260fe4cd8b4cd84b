import collections

import numpy as np
import pytest
from pydantic import ValidationError

from dl_pipelines.brief.sections import Compression
from dl_pipelines.compression import mixed_precision
from dl_pipelines.compression.base import TechniqueError
from dl_pipelines.compression.candidates import on_runtimes, served_files
from dl_pipelines.compression.mixed_precision import MixedPrecision, store_half, write_half
from dl_pipelines.compression.registry import TECHNIQUES
from dl_pipelines.inference.parity import session_outputs
from dl_pipelines.inference.precision import missing_units
from dl_pipelines.inference.runtimes import open_runtime
from tests.quantizing import network_of, shop_of


@pytest.fixture
def make(wide_onnx, wide_task, wide_rows, wide_reference, tmp_path):
    """`make(objective="latency", **params)`: the variants by name."""

    def variants(objective="latency", **params):
        compression = Compression(objective=objective)
        shop = shop_of(tmp_path / objective, wide_onnx, wide_task, wide_rows, wide_reference, compression)
        made = MixedPrecision(MixedPrecision.Params(**params)).variants(network_of(wide_onnx), shop)
        return {variant.name: variant for variant in made}

    return variants


def size(path):
    return sum(file.stat().st_size for file in served_files(path))


def test_a_precision_without_units_is_a_failure_that_says_so(make, monkeypatch):
    monkeypatch.setattr(mixed_precision, "missing_units", lambda precision: f"no units for {precision}")
    made = make()
    assert list(made) == ["bf16", "fp16", "fp16_graph"]
    assert {(variant.path, variant.failure) for variant in made.values()} == {
        (None, "no units for bf16"), (None, "no units for fp16"),
    }  # fmt: skip
    stored = {name: variant for name, variant in make("size").items() if variant.path}
    assert list(stored) == ["fp16_stored", "fp16_stored_graph"], "the size is the same whatever computes"
    assert {variant.precision for variant in stored.values()} == {"fp16_stored"}
    assert stored["fp16_stored"].details == {"computed_in": "fp32", "stored_in": "fp16"}


@pytest.mark.skipif(missing_units("bf16") is not None, reason="no units for bfloat16 here")
def test_bfloat16_is_the_same_graph_computed_otherwise(make, wide_onnx, wide_rows, wide_reference, tmp_path):
    variant = make(formats=("bf16",))["bf16"]
    assert (variant.precision, variant.runtimes, variant.path) == ("bf16", ("openvino",), wide_onnx)
    (item,) = on_runtimes([variant], ("onnxruntime", "openvino"), tmp_path)
    answers = {
        precision: session_outputs(open_runtime("openvino", item.variant.path, 1, precision), wide_rows.inputs)
        for precision in ("fp32", "bf16")
    }
    assert np.abs(answers["fp32"] - wide_reference).max() < 1e-3
    assert 1e-3 < np.abs(answers["bf16"] - wide_reference).max() < 0.3
    assert (answers["bf16"].argmax(1) == wide_reference.argmax(1)).all()


def test_with_units_fp16_is_an_ir_and_a_graph_of_half_the_size(make, monkeypatch, wide_onnx, wide_rows, wide_reference):
    monkeypatch.setattr(mixed_precision, "missing_units", lambda precision: None)
    made = make(formats=("fp16",))
    assert {name: variant.runtimes for name, variant in made.items()} == {
        "fp16": ("openvino",), "fp16_graph": ("onnxruntime",),
    }  # fmt: skip
    for variant in made.values():
        assert 0.49 < size(variant.path) / wide_onnx.stat().st_size < 0.55
        session = open_runtime(variant.runtimes[0], variant.path, 1, variant.precision)
        outputs = session_outputs(session, wide_rows.inputs)
        assert outputs.dtype == np.float32
        np.testing.assert_allclose(outputs, wide_reference, atol=0.05)


def test_stored_weights_are_the_rounded_originals_computed_in_float32(make, wide_network, wide_rows, wide_onnx):
    import copy

    import torch

    from dl_pipelines.inference.parity import torch_outputs

    rounded = copy.deepcopy(wide_network)
    with torch.no_grad():
        for parameter in rounded.parameters():
            if parameter.numel() >= 64:
                parameter.copy_(parameter.half().float())
    expected = torch_outputs(rounded, wide_rows.inputs)
    for variant in (make("size", formats=("fp16",))[name] for name in ("fp16_stored", "fp16_stored_graph")):
        assert 0.49 < size(variant.path) / wide_onnx.stat().st_size < 0.55
        outputs = session_outputs(open_runtime(variant.runtimes[0], variant.path, 1, "fp16_stored"), wide_rows.inputs)
        np.testing.assert_allclose(outputs, expected, atol=2e-3 if variant.path.suffix == ".xml" else 1e-4)


def test_the_same_graph_gives_the_same_bytes(make, wide_onnx, tmp_path):
    first, second = (
        [write_half(wide_onnx, tmp_path / f"half_{turn}.onnx").read_bytes(),
         store_half(wide_onnx, tmp_path / f"stored_{turn}.onnx").read_bytes()]
        for turn in range(2)
    )  # fmt: skip
    assert first == second
    assert str(tmp_path).encode() not in first[0] + first[1]


def test_what_float16_does_not_hold_stays(tmp_path):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def graph(weights):
        given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 10])
        gives = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])
        node = helper.make_node("MatMul", ["x", "weights"], ["y"], "product")
        made = helper.make_graph([node], "g", [given], [gives], [numpy_helper.from_array(weights, "weights")])
        path = tmp_path / "model.onnx"
        onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
        return path

    large = np.full((10, 10), 1e6, np.float32)
    with pytest.raises(TechniqueError, match="found no weights that float16 holds; the graph would stay as it is"):
        store_half(graph(large), tmp_path / "out.onnx")
    stored = onnx.load(str(store_half(graph(np.ones((10, 10), np.float32)), tmp_path / "out.onnx")))
    assert collections.Counter(node.op_type for node in stored.graph.node) == {"Cast": 1, "MatMul": 1}


def test_params_are_checked():
    assert TECHNIQUES.params_model("mixed_precision")().formats == ("bf16", "fp16")
    for wrong in ({"formats": []}, {"formats": ["fp8"]}, {"bits": 16}):
        with pytest.raises(ValidationError):
            MixedPrecision.Params.model_validate(wrong)
