"""How much operators make by constants: counted as numpy makes it; what is small or the batch says is accepted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dl_pipelines.inference.made_sizes import LARGEST_ELEMENTS, MOST_SIZES, check_count, check_made, counted, padded
from dl_pipelines.inference.made_sizes import product as elements
from dl_pipelines.inference.model_files import ModelFileError
from dl_pipelines.inference.onnx_contents import check_onnx


def test_elements_are_those_that_numpy_makes():
    assert elements([3, 1, 4]) == np.zeros((3, 1, 4)).size
    assert elements([-2, 0.5, 7]) == 14, "a size below one counts as one"
    assert padded([1, 0, 2, 3]) == np.pad(np.zeros((1, 1)), [(1, 2), (0, 3)]).size
    assert counted([2, 20, 3]) == np.arange(2, 20, 3).size
    assert counted([20, 2, -3]) == np.arange(20, 2, -3).size
    assert counted([2, 1, 3]) == 0 and counted([0, 1, 0]) == np.inf


@pytest.mark.parametrize("numbers", [[LARGEST_ELEMENTS + 1], [10**400, 2], [np.inf], [np.nan], [1] * (MOST_SIZES + 1)])
def test_what_no_model_holds_is_refused(numbers):
    check_count("model.onnx", "Expand", [LARGEST_ELEMENTS], elements)
    with pytest.raises(ModelFileError, match=r"found Expand to the size \[.*\] in model\.onnx; expected at most"):
        check_count("model.onnx", "Expand", numbers, max)


def test_a_group_of_inputs_counts_only_when_all_of_it_is_constant():
    places = {"Range": ((0, 1, 2),)}
    check_made("model.onnx", "Range", places, {0: [0], 1: [10**12]}.get)
    with pytest.raises(ModelFileError, match="found Range to the size"):
        check_made("model.onnx", "Range", places, {0: [0], 1: [10**12], 2: [1]}.get)


def test_sizes_of_the_batch_and_small_ones_are_accepted(tmp_path: Path):
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Mul", ["shape", "sizes"], ["wide"]),
        helper.make_node("Expand", ["x", "wide"], ["expanded"]),
        helper.make_node("Identity", ["sizes"], ["same"]),
        helper.make_node("Tile", ["expanded", "same"], ["tiled"]),
        helper.make_node("Pad", ["tiled", "pads"], ["y"]),
    ]
    weights = {"sizes": [1, 3], "pads": [0, 1, 0, 1]}
    graph = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 11])],
        [numpy_helper.from_array(np.array(values, np.int64), name) for name, values in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, str(tmp_path / "model.onnx"))
    check_onnx(tmp_path / "model.onnx")
