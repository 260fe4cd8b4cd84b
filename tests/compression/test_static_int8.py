import collections

import numpy as np
import pytest
from pydantic import ValidationError

from dl_pipelines.brief.sections import Compression, TechniqueRef
from dl_pipelines.compression.candidates import make_candidates, served_files, spread
from dl_pipelines.compression.registry import TECHNIQUES
from dl_pipelines.compression.static_int8 import StaticInt8
from dl_pipelines.inference.parity import session_outputs
from dl_pipelines.inference.runtimes import open_runtime
from dl_pipelines.tasks.base import Rows


@pytest.fixture(scope="module")
def quantized(wide_onnx, wide_rows, tmp_path_factory):
    made = StaticInt8(StaticInt8.Params()).variants(wide_onnx, wide_rows.inputs, tmp_path_factory.mktemp("int8"))
    return {variant.name: variant for variant in made}


def weights(path):
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    arrays = [numpy_helper.to_array(item) for item in graph.initializer]
    return [array for array in arrays if array.dtype == np.int8 and array.ndim >= 2]


def test_both_ranges_are_made(quantized):
    assert list(quantized) == ["static_int8", "static_int8_reduced"]
    assert {variant.precision for variant in quantized.values()} == {"int8"}


def test_the_graph_has_qdq_nodes_and_int8_weights_with_a_scale_a_channel(quantized):
    import onnx
    from onnx import numpy_helper

    for variant in quantized.values():
        model = onnx.load(str(variant.path))
        onnx.checker.check_model(model, full_check=True)
        operators = collections.Counter(node.op_type for node in model.graph.node)
        assert operators["QuantizeLinear"] >= 4
        assert operators["DequantizeLinear"] >= 2 * 4
        assert sum(array.size for array in weights(variant.path)) == 32 * 9 + 256 * 32 * 9 + 512 * 256 * 4 + 2 * 512
        scales = [numpy_helper.to_array(item) for item in model.graph.initializer if item.name.endswith("weight_scale")]
        assert sorted(scale.size for scale in scales) == [2, 32, 256, 512]
        assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_the_reduced_range_keeps_weights_to_seven_bits(quantized):
    assert max(np.abs(array.astype(int)).max() for array in weights(quantized["static_int8"].path)) == 127
    assert max(np.abs(array.astype(int)).max() for array in weights(quantized["static_int8_reduced"].path)) <= 64


def test_weights_are_the_rounded_originals(quantized, wide_network):
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(quantized["static_int8"].path)).graph
    arrays = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    original = wide_network.features[3].weight.detach().numpy()
    (name,) = [name for name, array in arrays.items() if array.shape == original.shape]
    scale = arrays[name.replace("_quantized", "_scale")].reshape(-1, 1, 1, 1)
    assert np.abs(arrays[name] * scale - original).max() <= scale.max() / 2 + 1e-7


def test_a_model_of_mostly_weights_shrinks_to_about_a_quarter(quantized, wide_onnx):
    for variant in quantized.values():
        assert 0.24 < variant.path.stat().st_size / wide_onnx.stat().st_size < 0.30


def test_it_decides_as_the_original_on_both_runtimes(wide_onnx, wide_rows, wide_reference, tmp_path):
    candidates = make_candidates(wide_onnx, Compression(), lambda count: wide_rows.inputs[:count], tmp_path)
    assert list(candidates) == [
        (variant, runtime)
        for variant in ("fp32", "static_int8", "static_int8_reduced")
        for runtime in ("onnxruntime", "openvino")
    ]
    for (_, runtime), variant in candidates.items():
        outputs = session_outputs(open_runtime(runtime, variant.path), wide_rows.inputs)
        assert (outputs.argmax(1) == wide_reference.argmax(1)).mean() >= 0.98
        assert all(path.is_file() for path in served_files(variant.path))
    int8, fp32 = (
        sum(path.stat().st_size for path in served_files(candidates[name, "openvino"].path))
        for name in ("static_int8", "fp32")
    )
    assert int8 / fp32 < 0.4


def test_the_same_rows_give_the_same_bytes(quantized, wide_onnx, wide_rows, tmp_path):
    for variant in StaticInt8(StaticInt8.Params()).variants(wide_onnx, wide_rows.inputs, tmp_path):
        assert variant.path.read_bytes() == quantized[variant.name].path.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["static_int8.onnx", "static_int8_reduced.onnx"]


def test_a_model_without_anything_to_quantize_is_told(tmp_path):
    from onnx import TensorProto, helper, save

    given = helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", 4])
    gives = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    graph = helper.make_graph([helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)], "g", [given], [gives])
    path = tmp_path / "cast.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    made = StaticInt8(StaticInt8.Params()).variants(path, np.zeros((8, 4), np.uint8), tmp_path / "out")
    assert [variant.path for variant in made] == [None, None]
    assert made[0].failure == "found no operator that int8 covers; the graph would stay as it is"
    assert not list((tmp_path / "out").iterdir())


def test_no_calibration_rows_and_a_damaged_file_are_told(wide_onnx, wide_rows, tmp_path):
    technique = StaticInt8(StaticInt8.Params(ranges=("full",)))
    (variant,) = technique.variants(wide_onnx, wide_rows.inputs[:0], tmp_path)
    assert variant.failure == "found no calibration rows; expected rows of the train split"
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(wide_onnx.read_bytes()[:1000])
    (variant,) = technique.variants(bad, wide_rows.inputs, tmp_path)
    assert variant.path is None
    assert variant.failure.startswith("DecodeError: Error parsing message")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.onnx"]


def test_rows_are_spread_evenly_whatever_their_order():
    ids = np.array([f"{place:03d}" for place in range(100)], dtype=object)
    rows = Rows(np.arange(100, dtype=np.uint8)[:, None], np.zeros(100, int), ids)
    assert spread(rows, 5).ravel().tolist() == [0, 24, 49, 74, 99]
    order = np.random.default_rng(0).permutation(100)
    shuffled = Rows(rows.inputs[order], rows.targets, ids[order])
    np.testing.assert_array_equal(spread(shuffled, 40), spread(rows, 40))
    assert len(spread(rows, 1000)) == 100
    assert len(spread(Rows(rows.inputs[:0], rows.targets[:0], ids[:0]), 8)) == 0


def test_params_are_checked():
    assert TECHNIQUES.params_model("static_int8")().calibration_rows == 256
    for wrong in ({"ranges": []}, {"ranges": ["half"]}, {"calibration_rows": 0}, {"bits": 4}):
        with pytest.raises(ValidationError):
            StaticInt8.Params.model_validate(wrong)


def test_a_brief_may_try_nothing(wide_onnx, tmp_path):
    brief = Compression(techniques=(), runtimes=("openvino",))
    assert list(make_candidates(wide_onnx, brief, lambda count: np.zeros(0), tmp_path)) == [("fp32", "openvino")]
    one = TechniqueRef(name="static_int8", params={"ranges": ["reduced"], "calibration_rows": 7})
    asked = []

    def calibrate(count):
        asked.append(count)
        return np.full((count, 8, 8, 1), 100, np.uint8)

    made = make_candidates(wide_onnx, Compression(techniques=(one,), runtimes=("onnxruntime",)), calibrate, tmp_path)
    assert list(made) == [("fp32", "onnxruntime"), ("static_int8_reduced", "onnxruntime")]
    assert asked == [7]
