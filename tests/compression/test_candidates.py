import sys

import numpy as np
import pytest

from dl_pipelines.compression.base import Variant
from dl_pipelines.compression.candidates import on_runtimes, served_files, spread
from dl_pipelines.inference.runtimes import open_runtime
from dl_pipelines.tasks.base import Rows


def test_every_variant_is_in_the_format_of_every_runtime(wide_onnx, wide_rows, wide_reference, tmp_path):
    made = on_runtimes([Variant("fp32", "none", "fp32", wide_onnx)], ("onnxruntime", "openvino"), tmp_path)
    assert [item.key for item in made] == ["fp32 on onnxruntime", "fp32 on openvino"]
    assert [path.name for path in served_files(made[0].variant.path)] == ["model.onnx"]
    assert [path.name for path in served_files(made[1].variant.path)] == ["model.xml", "model.bin"]
    for item in made:
        outputs = open_runtime(item.runtime, item.variant.path).run(wide_rows.inputs)
        np.testing.assert_allclose(outputs, wide_reference, atol=1e-3)


def test_a_variant_for_one_runtime_is_tried_there_alone(wide_onnx, tmp_path):
    (_, openvino) = on_runtimes([Variant("fp32", "none", "fp32", wide_onnx)], ("onnxruntime", "openvino"), tmp_path)
    own = Variant("nncf_int8", "nncf_int8", "int8", openvino.variant.path, runtimes=("openvino",))
    (made,) = on_runtimes([own], ("onnxruntime", "openvino"), tmp_path / "own")
    assert (made.variant, made.runtime) == (own, "openvino")


def test_what_could_not_be_made_fails_on_every_runtime(tmp_path):
    made = on_runtimes([Variant("int8", "static_int8", "int8", None, "why")], ("openvino", "onnxruntime"), tmp_path)
    assert [(item.runtime, item.variant.failure) for item in made] == [("openvino", "why"), ("onnxruntime", "why")]


@pytest.mark.parametrize("damage", ["cut", "no package"])
def test_what_openvino_cant_take_has_the_reason(wide_onnx, tmp_path, monkeypatch, damage):
    path = tmp_path / "model.onnx"
    path.write_bytes(wide_onnx.read_bytes()[: 3000 if damage == "cut" else None])
    if damage == "no package":
        monkeypatch.setitem(sys.modules, "openvino", None)
    onnxruntime, openvino = on_runtimes(
        [Variant("v", "none", "fp32", path)], ("onnxruntime", "openvino"), tmp_path / "made"
    )
    assert onnxruntime.variant.path == path
    assert openvino.variant.path is None
    expected = {"cut": "found model.onnx, which openvino can't read (", "no package": "found no runtime openvino here"}
    assert openvino.variant.failure.startswith(expected[damage])


@pytest.mark.parametrize(
    ("count", "chosen"), [(4, [0, 3, 6, 9]), (1, [0]), (10, range(10)), (99, range(10)), (3, [0, 4, 9])]
)
def test_calibration_rows_are_spread_over_their_ids(count, chosen):
    order = np.array([7, 2, 9, 0, 5, 1, 8, 3, 6, 4])
    rows = Rows(order.copy(), order * 0, np.array([f"row-{place}" for place in order], dtype=object))
    assert list(spread(rows, count)) == list(chosen)


def test_no_rows_give_no_calibration():
    empty = Rows(np.zeros((0, 3)), np.zeros(0), np.array([], dtype=object))
    assert spread(empty, 5).shape == (0, 3)
