import json

import numpy as np
import pytest

from dl_pipelines.compression import qdq
from dl_pipelines.compression.base import TechniqueError


@pytest.fixture(scope="module")
def prepared(wide_onnx, tmp_path_factory):
    return qdq.prepare(wide_onnx, tmp_path_factory.mktemp("qdq") / "prepared.onnx")


def graph(path, nodes, arrays, width):
    """A file with one float input [n, width] and what the last node gives."""
    from onnx import TensorProto, helper, numpy_helper, save

    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *width])
    gives = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    model = helper.make_graph([helper.make_node(*node) for node in nodes], "g", [given], [gives], constants)
    save(helper.make_model(model, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    return path


def test_layers_are_those_that_compute(prepared):
    assert qdq.layers(prepared) == ["node_conv2d", "node_conv2d_1", "node_conv2d_2", "node_linear"]


def test_min_and_max_are_those_of_the_activations(prepared, wide_network, wide_rows, tmp_path):
    import torch
    from onnxruntime.quantization import load_tensors_data

    ranges = load_tensors_data(qdq.calibrate(prepared, wide_rows.inputs, "minmax", tmp_path / "ranges.json"))
    with torch.inference_mode():
        given = torch.from_numpy(wide_rows.inputs).permute(0, 3, 1, 2).float() / 255
        first = wide_network.features[0](given)
    np.testing.assert_allclose(np.ravel(ranges["conv2d"].range_value), (first.min(), first.max()), rtol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["ranges.json"]


@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_the_other_methods_cut_outliers_off_and_leave_the_rest(prepared, wide_rows, method, tmp_path, capsys):
    from onnxruntime.quantization import load_tensors_data

    def high(method, folder):
        folder.mkdir()
        found = load_tensors_data(qdq.calibrate(prepared, wide_rows.inputs, method, folder / "ranges.json"))
        return np.ravel(found["relu_1"].range_value[1]).item()

    assert (
        0.2 * high("minmax", tmp_path / "all") < high(method, tmp_path / method) <= high("minmax", tmp_path / "again")
    )
    assert capsys.readouterr().out == ""


def test_ranges_are_kept_for_a_second_call(prepared, wide_rows, tmp_path):
    path = qdq.calibrate(prepared, wide_rows.inputs[:8], "minmax", tmp_path / "ranges.json")
    before = path.read_bytes()
    assert json.loads(before)["calibration_method"]["value"] == "CalibrationMethod.MinMax"
    assert qdq.calibrate(prepared, wide_rows.inputs[:0], "minmax", path).read_bytes() == before


def test_no_rows_and_values_that_are_not_finite_are_told(prepared, wide_rows, tmp_path):
    with pytest.raises(TechniqueError, match="found no calibration rows; expected rows of the train split"):
        qdq.calibrate(prepared, wide_rows.inputs[:0], "minmax", tmp_path / "ranges.json")
    nan = np.full((4, 3), np.nan, np.float32)
    bad = graph(tmp_path / "nan.onnx", [("MatMul", ["x", "w"], ["y"], "mm")], {"w": nan}, [4])
    with pytest.raises(TechniqueError, match="found values of 'y' on the calibration rows that are not finite"):
        qdq.calibrate(bad, np.ones((4, 4), np.float32), "minmax", tmp_path / "nan.json")
    assert not list(tmp_path.glob("*.json"))


def test_a_layer_that_cant_be_quantized_is_named_and_may_be_left_in_float(tmp_path):
    import onnx

    rng = np.random.default_rng(0)
    arrays = {
        name: rng.normal(size=size).astype(np.float32)
        for name, size in (("first", (4, 4)), ("second", (4, 3)), ("bias", (1, 3)))
    }
    nodes = [("MatMul", ["x", "first"], ["h"], "entry"), ("Gemm", ["h", "second", "bias"], ["y"], "head")]
    base = graph(tmp_path / "model.onnx", nodes, arrays, [4])
    prepared = qdq.prepare(base, tmp_path / "prepared.onnx")
    ranges = qdq.calibrate(prepared, rng.normal(size=(8, 4)).astype(np.float32), "minmax", tmp_path / "ranges.json")
    with pytest.raises(TechniqueError) as caught:
        qdq.quantize(prepared, ranges, "minmax", tmp_path / "int8.onnx")
    assert str(caught.value).startswith("found the Gemm 'head', which can't be quantized (ValueError: ")
    assert str(caught.value).endswith("leave it in float with in_float: [head]")
    assert not list(tmp_path.glob("*int8*"))
    model = onnx.load(str(qdq.quantize(prepared, ranges, "minmax", tmp_path / "int8.onnx", in_float=["head"])))
    (head,) = [node for node in model.graph.node if node.op_type == "Gemm"]
    assert list(head.input[1:]) == ["second", "bias"]
    assert any(node.op_type == "QuantizeLinear" for node in model.graph.node)


def test_answers_are_not_rounded_to_eight_bits(prepared, wide_rows, tmp_path):
    import onnx

    from dl_pipelines.inference.parity import session_outputs
    from dl_pipelines.inference.runtimes import open_runtime

    ranges = qdq.calibrate(prepared, wide_rows.inputs, "minmax", tmp_path / "ranges.json")
    path = qdq.quantize(prepared, ranges, "minmax", tmp_path / "int8.onnx")
    graph = onnx.load(str(path)).graph
    assert graph.node[-1].op_type == "Gemm" and list(graph.node[-1].output) == ["logits"]
    read = {name for node in graph.node for name in node.input}
    assert {item.name for item in graph.initializer} <= read
    outputs = session_outputs(open_runtime("onnxruntime", path), wide_rows.inputs)
    assert len(np.unique(outputs)) > 350, "of 400 logits"


def test_a_damaged_graph_is_told(wide_onnx, tmp_path):
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(wide_onnx.read_bytes()[:1000])
    with pytest.raises(TechniqueError, match="could not prepare the graph: DecodeError: Error parsing message"):
        qdq.prepare(bad, tmp_path / "prepared.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.onnx"]
