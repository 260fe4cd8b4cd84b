import collections

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dl_pipelines.inference.lean_graph import make_lean
from dl_pipelines.inference.runtimes import open_unoptimised, openvino, save_openvino, write_openvino

RNG = np.random.default_rng(0)
CONSTANTS = {
    "scale": np.float32(0.1), "zero": np.uint8(0), "middle": np.uint8(128),
    "small": RNG.integers(-127, 128, (5, 3, 3, 3)).astype(np.int8), "small_scale": np.full(5, 0.01, np.float32),
    "small_zero": np.zeros(5, np.int8), "bias": RNG.integers(-9999, 9999, 5).astype(np.int32),
    "bias_scale": np.full(5, 0.001, np.float32), "bias_zero": np.zeros(5, np.int32),
}  # fmt: skip


@pytest.fixture
def quantized(tmp_path):
    """A quantized convolution of a signed input, and the quantized answer: as ONNX Runtime's quantizer writes them."""
    nodes = [
        ("QuantizeLinear", ["x", "scale", "middle"], "x_whole"),
        ("DequantizeLinear", ["x_whole", "scale", "middle"], "x_restored"),
        ("DequantizeLinear", ["small", "small_scale", "small_zero"], "weights"),
        ("DequantizeLinear", ["bias", "bias_scale", "bias_zero"], "restored"),
        ("Conv", ["x_restored", "weights", "restored"], "sum"),
        ("QuantizeLinear", ["sum", "scale", "zero"], "sum_whole"),
        ("DequantizeLinear", ["sum_whole", "scale", "zero"], "y"),
    ]
    graph = helper.make_graph(
        [
            helper.make_node(
                kind, given, [gives], gives, **({"axis": 0} if "small" in given or "bias" in given else {})
            )
            for kind, given, gives in nodes
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5, 4, 4])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in CONSTANTS.items()],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    return path


def kinds(model):
    return collections.Counter(node.op_type for node in model.graph.node)


def test_biases_zero_points_and_shapes_are_said_at_once(quantized):
    model = make_lean(onnx.load(str(quantized)))
    onnx.checker.check_model(model, full_check=True)
    assert kinds(model) == {"QuantizeLinear": 2, "DequantizeLinear": 3, "Conv": 1, "Add": 1}
    given = {node.output[0]: list(node.input) for node in model.graph.node}
    assert given["x_whole"] == ["x", "scale", "middle"], "this zero point is no zero"
    assert given["sum_whole"] == ["sum", "scale"]
    assert given["weights"] == ["small", "small_scale"]
    assert given["sum"] == ["sum/WithoutBiases", "sum/Bias"]
    left = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    assert set(left) == {"scale", "middle", "small", "small_scale", "sum/Bias"}
    expected = CONSTANTS["bias"].astype(np.float32) * CONSTANTS["bias_scale"]
    np.testing.assert_array_equal(left["sum/Bias"], expected.reshape(1, 5, 1, 1))


def test_answers_stay_and_the_ir_is_smaller(quantized, tmp_path):
    package = openvino()
    plain, _ = write_openvino(package.Core().read_model(str(quantized)), tmp_path / "plain" / "model.xml")
    lean, _ = save_openvino(quantized, tmp_path / "lean" / "model.xml")
    inputs = RNG.normal(size=(4, 3, 6, 6)).astype(np.float32)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    first, second = (package.Core().compile_model(str(path), "CPU", settings)(inputs)[0] for path in (plain, lean))
    np.testing.assert_array_equal(first, second)
    onnx.save(make_lean(onnx.load(str(quantized))), str(tmp_path / "lean.onnx"))
    before, after = (open_unoptimised(path).run(inputs) for path in (quantized, tmp_path / "lean.onnx"))
    np.testing.assert_array_equal(before, after)
    assert np.abs(first - before).max() <= 0.1 + 1e-6, "one step of the answer's scale"
    assert lean.stat().st_size < 0.7 * plain.stat().st_size


def test_a_signed_quantizers_zero_point_says_its_type(quantized):
    model = onnx.load(str(quantized))
    zero = next(item for item in model.graph.initializer if item.name == "zero")
    zero.CopyFrom(numpy_helper.from_array(np.int8(0), "zero"))
    given = {node.output[0]: list(node.input) for node in make_lean(model).graph.node}
    assert given["sum_whole"] == ["sum", "scale", "zero"]
    assert given["y"] == ["sum_whole", "scale"]


def test_a_float_graph_without_biases_stays(tmp_path):
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv")
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2, 4])],
        [numpy_helper.from_array(np.ones((2, 3, 3), np.float32), "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    before = model.SerializeToString(deterministic=True)
    assert make_lean(model).SerializeToString(deterministic=True) == before
