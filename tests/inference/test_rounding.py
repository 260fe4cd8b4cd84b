"""What rounding explains, against the same arithmetic in numpy, and on what the project's own quantizers make."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dl_pipelines.inference.parity import session_outputs
from dl_pipelines.inference.parity_chain import NOISE_FACTOR
from dl_pipelines.inference.rounding import SMALLEST, explained, noise, rounded
from dl_pipelines.inference.runtimes import open_runtime, save_openvino
from tests.cpu import needs_exact_int8


def product(path, weights):
    """x [N, K] -> -x @ weights."""
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["turned"]), helper.make_node("MatMul", ["turned", "weights"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", weights.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", weights.shape[1]])],
        [numpy_helper.from_array(weights, "weights")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    return path


def in_steps(values, step, zero=0.0, limits=(-np.inf, np.inf)):
    return (np.clip(np.round(values / step) + zero, *limits) - zero) * step


@pytest.fixture
def drawn(tmp_path):
    """A product, its weights, rows."""
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 1, (20, 6)).astype(np.float32)
    return product(tmp_path / "product.onnx", weights), weights, rng.normal(0.5, 1, (50, 20)).astype(np.float32)


def test_noise_is_the_mean_of_the_rows_in_units_of_their_size():
    before = np.array([[3.0, 4.0], [0.0, 0.0], [6.0, 8.0]])
    after = np.array([[3.0, 5.0], [0.0, 0.0], [8.0, 10.0]])
    sizes, median = np.array([5, 0, 10]) / np.sqrt(2), 5 / np.sqrt(2)
    apart = np.array([1 / np.sqrt(2), 0, 2])
    assert noise(before, after) == pytest.approx(np.mean(apart / ((sizes + median) / 2)))
    assert noise(before, before) == 0
    assert noise(before, np.where(after == 8, np.nan, after)) == float("inf")


def test_weights_have_seven_bits_a_channel_and_activations_eight(drawn):
    path, weights, rows = drawn
    steps = np.abs(weights).max(axis=0) / 63
    turned = -rows
    given = (turned.max() - turned.min()) / 255
    zero = np.round(-turned.min() / given)
    wanted = in_steps(turned, given, zero, (0, 255)) @ in_steps(weights, steps)
    model = rounded(path, rows)
    session = open_runtime("onnxruntime", saved(model, path.with_name("rounded.onnx")))
    np.testing.assert_allclose(session_outputs(session, rows), wanted, atol=1e-4)
    assert explained(path, rows) == pytest.approx(noise(turned @ weights, wanted), rel=1e-3)


def saved(model, path):
    onnx.save(model, str(path))
    return path


def test_a_product_that_eight_bits_hold_exactly_explains_the_least(tmp_path):
    weights = np.eye(4, dtype=np.float32)
    rows = np.random.default_rng(0).integers(0, 256, (30, 4)).astype(np.float32)
    rows[0, 0] = 255  # so that a step is one
    assert explained(product(tmp_path / "exact.onnx", weights), rows) == SMALLEST


def test_what_can_not_be_rounded_says_so(tmp_path):
    (tmp_path / "none.onnx").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"found none\.onnx, which can't be rounded .*; expected a float32 graph"):
        explained(tmp_path / "none.onnx", np.zeros((1, 4), np.float32))


def test_answers_that_are_not_finite_explain_nothing(tmp_path):
    path = product(tmp_path / "endless.onnx", np.full((4, 2), 3e38, np.float32))
    with pytest.raises(ValueError, match=r"found answers of endless\.onnx, rounded or not, that are not finite"):
        explained(path, np.ones((3, 4), np.float32))


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("reduced", [True, False])
def test_static_int8_of_convolutions_is_no_alarm(tmp_path, onnx_file, images, per_channel, reduced):
    from dl_pipelines.compression import static_int8

    path = tmp_path / "int8.onnx"
    static_int8.quantize(onnx_file, path, images, reduced, per_channel)
    before = session_outputs(open_runtime("onnxruntime", onnx_file), images)
    after = session_outputs(open_runtime("onnxruntime", path), images)
    assert 0 < noise(before, after) < 0.75 * NOISE_FACTOR * explained(onnx_file, images)
    xml, _ = save_openvino(path, tmp_path / "ir" / "model.xml")
    after = session_outputs(open_runtime("openvino", xml), images)
    assert 0 < noise(before, after) < 0.75 * NOISE_FACTOR * explained(onnx_file, images)


@pytest.mark.parametrize("reduced", [True, pytest.param(False, marks=needs_exact_int8)])
def test_dynamic_int8_of_recurrent_layers_and_attention_is_no_alarm(tmp_path, reduced):
    from dl_pipelines.compression import dynamic_int8
    from tests.sequences import frames, onnx_file

    base, path, rows = onnx_file(tmp_path / "model.onnx"), tmp_path / "int8.onnx", frames(60)
    dynamic_int8.quantize(base, path, reduced, True, False)
    before = session_outputs(open_runtime("onnxruntime", base), rows)
    after = session_outputs(open_runtime("onnxruntime", path), rows)
    assert 0 < noise(before, after) < 0.75 * NOISE_FACTOR * explained(base, rows)
