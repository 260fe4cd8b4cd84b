"""Faults on graphs by hand: what each changes, where it goes, and what is said when there is no place for it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dl_pipelines.inference.faults import FAULTS, MATTERS, FaultError, inject, perturbed, swapped
from dl_pipelines.inference.parity import session_outputs
from dl_pipelines.inference.rounding import noise
from dl_pipelines.inference.runtimes import open_runtime, save_openvino

MEAN, DEVIATION = np.array([4.0, 5.0, 6.0, 7.0] * 4, np.float32), np.full(16, 2, np.float32)
WEIGHTS = np.random.default_rng(1).normal(0, 0.3, (16, 3)).astype(np.float32)
ROWS = np.random.default_rng(0).normal(5, 2, (40, 16)).astype(np.float32)


def by_hand(rows, mean=MEAN, deviation=DEVIATION, weights=WEIGHTS, relu=True):
    scaled = (rows - mean) / deviation
    return (np.maximum(scaled, 0) if relu else scaled) @ weights


def written(path, nodes, constants):
    graph = helper.make_graph(
        nodes,
        "by_hand",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    return path


@pytest.fixture
def sound(tmp_path):
    """A function: the graph, its normalisation written as a difference and quotient or as a sum and product."""

    def make(how="onnx"):
        first, second = ("Add", "Mul") if how == "added" else ("Sub", "Div")
        constants = {"mean": MEAN, "deviation": DEVIATION, "weights": WEIGHTS}
        if how == "added":
            constants |= {"mean": -MEAN, "deviation": 1 / DEVIATION}
        nodes = [
            helper.make_node(first, ["x", "mean"], ["shifted"], "shift"),
            helper.make_node(second, ["shifted", "deviation"], ["scaled"], "scale"),
            helper.make_node("Relu", ["scaled"], ["kept"], "relu"),
            helper.make_node("MatMul", ["kept", "weights"], ["y"], "product"),
        ]
        path = written(tmp_path / "sound.onnx", nodes, constants)
        return save_openvino(path, tmp_path / "ir" / "model.xml")[0] if how == "ir" else path

    return make


def answers(path):
    return session_outputs(open_runtime("openvino" if path.suffix == ".xml" else "onnxruntime", path), ROWS)


def spoiled(fault, source):
    target = source.parent / f"faulty{source.suffix}"
    before = answers(source)
    done = inject(fault, source, target, lambda path: noise(before, answers(path)))
    assert done.moved == pytest.approx(noise(before, answers(target)))
    np.testing.assert_array_equal(answers(source), before, "the original is as it was")
    return done, answers(target)


@pytest.mark.parametrize("how", ["onnx", "added", "ir"])
def test_mean_and_deviation_are_swapped(sound, how):
    done, found = spoiled("norm-swap", sound(how))
    np.testing.assert_allclose(found, by_hand(ROWS, DEVIATION, MEAN), rtol=1e-4, atol=1e-5)
    assert "swapped" in done.told and done.moved > MATTERS


@pytest.mark.parametrize("how", ["onnx", "ir"])
def test_an_activation_is_dropped(sound, how):
    done, found = spoiled("dropped-operator", sound(how))
    np.testing.assert_allclose(found, by_hand(ROWS, relu=False), rtol=1e-4, atol=1e-5)
    assert done.told.startswith("Relu")


@pytest.mark.parametrize("how", ["onnx", "ir"])
def test_weights_have_noise_of_their_own_deviation(sound, how):
    done, found = spoiled("perturbed-weights", sound(how))
    added = np.random.default_rng(0).normal(0, WEIGHTS.astype(np.float64).std(), WEIGHTS.shape)
    np.testing.assert_allclose(found, by_hand(ROWS, weights=WEIGHTS + added), rtol=1e-3, atol=1e-3)
    assert "[16, 3] of float32 perturbed" in done.told


def test_the_same_fault_is_the_same_file(sound, tmp_path):
    for fault in FAULTS:
        inject(fault, sound(), tmp_path / "a.onnx", lambda path: noise(answers(sound()), answers(path)))
        inject(fault, sound(), tmp_path / "b.onnx", lambda path: noise(answers(sound()), answers(path)))
        assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_whole_numbers_stay_in_their_range():
    weights = np.array([[-128, 127] * 8] * 4, np.int8)
    found = perturbed(weights)
    assert found.dtype == np.int8 and (found != weights).any()
    assert (np.sign(found[:, 1::2]) >= 0).mean() > 0.9, "nothing wraps around"


def test_swapped_constants_keep_their_shapes_and_types():
    mean, deviation = np.array([1.0, 2.0], np.float32), np.float32(4).reshape(())
    first, second = swapped(mean, deviation, added=False, multiplied=False)
    np.testing.assert_array_equal(first, [4, 4])
    assert second == 1.5 and (first.dtype, second.dtype, second.shape) == (np.float32, np.float32, ())


def test_a_place_that_changes_nothing_is_passed_over(tmp_path):
    """The first ReLU sees positive values only; leaving it out would be no fault."""
    nodes = [
        helper.make_node("Abs", ["x"], ["size"], "abs"),
        helper.make_node("Relu", ["size"], ["same"], "useless"),
        helper.make_node("Sub", ["same", "mean"], ["shifted"], "shift"),
        helper.make_node("Relu", ["shifted"], ["kept"], "needed"),
        helper.make_node("MatMul", ["kept", "weights"], ["y"], "product"),
    ]
    path = written(tmp_path / "two.onnx", nodes, {"mean": MEAN, "weights": WEIGHTS})
    done, _ = spoiled("dropped-operator", path)
    assert done.told == "Relu needed dropped"


def test_without_a_place_it_says_what_there_is(tmp_path):
    path = written(tmp_path / "bare.onnx", [helper.make_node("MatMul", ["x", "weights"], ["y"])], {"weights": WEIGHTS})
    told = r"found no place for norm-swap in bare\.onnx; expected a normalisation by constants that moves its answers; "
    with pytest.raises(FaultError, match=told + "inject perturbed-weights there"):
        spoiled("norm-swap", path)
    with pytest.raises(FaultError, match="expected an operator whose output is like its input"):
        spoiled("dropped-operator", path)


def test_weights_that_nothing_reads_are_no_place(tmp_path):
    constants = {"unused": np.ones((8, 8), np.float32), "weights": np.zeros((16, 3), np.float32)}
    path = written(tmp_path / "zero.onnx", [helper.make_node("MatMul", ["x", "weights"], ["y"])], constants)
    with pytest.raises(FaultError, match=r"found no place for perturbed-weights .* inject nothing there"):
        spoiled("perturbed-weights", path)
