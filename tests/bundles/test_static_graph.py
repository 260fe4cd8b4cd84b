"""Graphs with fixed shapes, against the graph that they come from."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dl_pipelines.bundles.base import BundleError
from dl_pipelines.bundles.static_graph import every_tensor, fix, run_rows


def saved(path, nodes, gives, weights=()):
    ends = [
        helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["batch", 4]),
        helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", gives]),
    ]
    graph = helper.make_graph(nodes, "by_hand", ends[:1], ends[1:], list(weights))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.fixture
def reshaping(tmp_path):
    """rows [batch, 4] -> [batch, 2, 2] by a shape that is computed -> mean of the last axis [batch, 2]."""
    nodes = [
        helper.make_node("Shape", ["rows"], ["batch"], start=0, end=1),
        helper.make_node("Concat", ["batch", "two", "two"], ["shape"], axis=0),
        helper.make_node("Reshape", ["rows", "shape"], ["square"]),
        helper.make_node("ReduceMean", ["square", "axis"], ["out"], keepdims=0),
    ]
    weights = [numpy_helper.from_array(np.array([value]), name) for name, value in (("two", 2), ("axis", 2))]
    return saved(tmp_path / "reshaping.onnx", nodes, 2, weights)


def test_shapes_are_folded_and_written(reshaping, tmp_path):
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    path = fix(reshaping, tmp_path / "fixed.onnx", rows)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Reshape", "ReduceMean"]
    assert {
        item.name: [dim.dim_value for dim in item.type.tensor_type.shape.dim] for item in model.graph.value_info
    } == {"square": [1, 2, 2]}
    assert [item.domain for item in model.opset_import] == [""]
    np.testing.assert_allclose(run_rows(path, rows), rows.reshape(3, 2, 2).mean(2))
    assert path.read_bytes() == fix(reshaping, tmp_path / "again.onnx", rows).read_bytes()


def test_tensors_are_those_of_a_run(reshaping, tmp_path):
    rows = np.array([[1, 3, 5, 9]], np.float32)
    (found,) = every_tensor(fix(reshaping, tmp_path / "fixed.onnx", rows), rows)
    assert {name: value.tolist() for name, value in found.items()} == {
        "rows": [[1, 3, 5, 9]], "square": [[[1, 3], [5, 9]]], "out": [[2, 7]],
    }  # fmt: skip


def test_a_shape_that_depends_on_the_row_is_named(tmp_path):
    nodes = [
        helper.make_node("NonZero", ["rows"], ["places"]),
        helper.make_node("Cast", ["places"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["numbers", "axis"], ["sums"], keepdims=0),
        helper.make_node("Unsqueeze", ["sums", "first"], ["out"]),
    ]
    weights = [numpy_helper.from_array(np.array([value]), name) for name, value in (("axis", 1), ("first", 0))]
    path = saved(tmp_path / "moving.onnx", nodes, 2, weights)
    rows = np.array([[1, 0, 0, 0], [1, 1, 0, 0]], np.float32)
    with pytest.raises(BundleError, match=r"found tensors whose shape depends on the row \(places, numbers\); exp"):
        fix(path, tmp_path / "fixed.onnx", rows)


def test_a_graph_that_needs_more_rows_is_told(tmp_path):
    nodes = [helper.make_node("Reshape", ["rows", "four"], ["out"])]
    path = saved(tmp_path / "four.onnx", nodes, 4, [numpy_helper.from_array(np.array([4, 4]), "four")])
    with pytest.raises(BundleError, match="found a graph that can't be fixed to one row"):
        fix(path, tmp_path / "fixed.onnx", np.zeros((1, 4), np.float32))
