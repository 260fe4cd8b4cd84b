"""What the generator refuses, said otherwise: ONNX Runtime answers the same to both."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dl_pipelines.bundles.c_spelling import respelled
from dl_pipelines.bundles.static_graph import every_tensor, run_rows
from tests.bundles.test_c_code import saved


@pytest.mark.parametrize(("start", "end", "step"), [(-1, -(2**63), -1), (3, 0, -1), (-2, -5, -2), (10, -(2**63), -3)])
def test_a_backward_slice_is_the_same_gather(start, end, step, tmp_path):
    weights = {name: np.array([value]) for name, value in
               (("starts", start), ("ends", end), ("axes", 1), ("steps", step))}  # fmt: skip
    node = helper.make_node("Slice", ["rows", *weights], ["out"])
    model = saved(tmp_path / "slice.onnx", [node], weights, [1, 5], [1, "n"])
    rows = np.arange(10, dtype=np.float32).reshape(2, 5)
    wanted = run_rows(tmp_path / "slice.onnx", rows)
    made = respelled(model, next(every_tensor(tmp_path / "slice.onnx", rows)))
    assert [node.op_type for node in made.graph.node] == ["Gather"]
    onnx.save(made, tmp_path / "gather.onnx")
    np.testing.assert_array_equal(run_rows(tmp_path / "gather.onnx", rows), wanted)


@pytest.mark.parametrize("shape", [[1, 4], [1, 3, 4]])
def test_a_product_with_a_scale_a_column_is_the_same_gemm(shape, tmp_path):
    rng = np.random.default_rng(0)
    weights = {
        "a_scale": np.float32(0.02), "a_zero": np.uint8(3), "b": rng.integers(-127, 128, (4, 5)).astype(np.int8),
        "b_scale": rng.uniform(0.001, 0.02, 5).astype(np.float32), "b_zero": np.zeros(5, np.int8),
        "y_scale": np.float32(0.03), "y_zero": np.uint8(120),
    }  # fmt: skip
    node = helper.make_node("QLinearMatMul", ["rows", *weights], ["out"], name="product")
    weights = {name: np.asarray(value) for name, value in weights.items()}
    model = saved(tmp_path / "product.onnx", [node], weights, shape, [*shape[:-1], 5], TensorProto.UINT8)
    rows = rng.integers(0, 256, (6, *shape[1:])).astype(np.uint8)
    made = respelled(model, next(every_tensor(tmp_path / "product.onnx", rows)))
    assert [node.op_type for node in made.graph.node] == ["Reshape", "QGemm", "Reshape"]
    onnx.checker.check_model(made)
    onnx.save(made, tmp_path / "gemm.onnx")
    wanted = run_rows(tmp_path / "product.onnx", rows)
    assert len(np.unique(wanted)) > 10
    np.testing.assert_array_equal(run_rows(tmp_path / "gemm.onnx", rows), wanted)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("turned", [True, False])
def test_a_gemm_that_gives_floats_is_its_parts(biased, turned, tmp_path):
    rng = np.random.default_rng(1)
    right = rng.integers(-127, 128, (5, 4) if turned else (4, 5)).astype(np.int8)
    weights = {
        "a_scale": np.array(0.02, np.float32), "a_zero": np.array(3, np.uint8), "b": right,
        "b_scale": rng.uniform(0.001, 0.02, 5).astype(np.float32), "b_zero": np.zeros(5, np.int8),
        **({"c": rng.integers(-9000, 9000, 5).astype(np.int32)} if biased else {}),
    }  # fmt: skip
    node = helper.make_node(
        "QGemm", ["rows", *weights], ["out"], domain="com.microsoft", alpha=1.0, transA=0, transB=int(turned)
    )
    model = saved(tmp_path / "gemm.onnx", [node], weights, [1, 4], [1, 5], TensorProto.UINT8)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    onnx.save(model, tmp_path / "gemm.onnx")
    rows = rng.integers(0, 256, (6, 4)).astype(np.uint8)
    made = respelled(model, next(every_tensor(tmp_path / "gemm.onnx", rows)))
    assert [node.op_type for node in made.graph.node] == ["MatMulInteger", *["Add"] * biased, "Cast", "Mul"]
    onnx.save(made, tmp_path / "parts.onnx")
    wanted = run_rows(tmp_path / "gemm.onnx", rows)
    np.testing.assert_allclose(run_rows(tmp_path / "parts.onnx", rows), wanted, rtol=1e-6)
    assert np.abs(wanted).max() > 1


def test_what_it_takes_stays_as_it_is():
    weights = {name: np.array([value]) for name, value in
               (("starts", 0), ("ends", 3), ("axes", 1), ("steps", 1))}  # fmt: skip
    nodes = [
        helper.make_node("Slice", ["rows", *weights], ["some"]),
        helper.make_node("LSTM", ["a", "b", "c"], ["d"], hidden_size=3, direction="reverse"),
    ]
    graph = helper.make_graph(nodes, "g", [], [], [numpy_helper.from_array(v, k) for k, v in weights.items()])
    model = helper.make_model(graph)
    assert respelled(model, {"rows": np.zeros((1, 5), np.float32)}) == model
