import numpy as np
import pytest

from benchmarks import compression, compression_networks
from benchmarks.compression import LIMITS, agreement, plain_session, ratio_of_sizes, require, timed
from benchmarks.compression_networks import CLASSES, SIDE, gratings
from benchmarks.contract import sentence
from dl_pipelines.compression.trials import Bench

REFERENCE = np.eye(4, dtype=np.float32)[np.arange(100) % 4]


def test_the_images_repeat_and_show_every_class():
    first, again, other = gratings(12, seed=3), gratings(12, seed=3), gratings(12, seed=4)
    assert first.inputs.shape == (12, SIDE, SIDE, 3) and first.inputs.dtype == np.uint8
    np.testing.assert_array_equal(first.inputs, again.inputs)
    assert (first.inputs != other.inputs).mean() > 0.5
    assert list(first.targets) == [*range(CLASSES), 0, 1]
    apart = [np.abs(first.inputs[0].mean((0, 1)) - image.mean((0, 1))).max() for image in first.inputs]
    assert max(apart) < 12, "a class is told by its stripes and colours, not by how bright it is"


def test_outputs_are_checked_before_anything_is_timed():
    asked = []

    def run(inputs):
        asked.append(len(inputs))
        return inputs

    assert agreement(run, REFERENCE, REFERENCE) == 1.0
    assert asked == [1] * 100
    two = REFERENCE.copy()
    two[:2] = np.roll(two[:2], 1, axis=1)
    assert agreement(run, two, REFERENCE) == 0.98
    three = REFERENCE.copy()
    three[:3] = np.roll(three[:3], 1, axis=1)
    assert agreement(run, three, REFERENCE) == 0.97, "of a peer it is told"
    require(0.98, 100)
    with pytest.raises(SystemExit, match=r"found 97\.00% of 100 decisions alike; expected 98%"):
        require(0.97, 100)


def test_what_is_told_is_of_rows_that_nothing_was_chosen_by(tmp_path, monkeypatch):
    for name, value in {"SIDE": 32, "ROWS": 20, "CALIBRATION": 32}.items():
        monkeypatch.setattr(compression_networks, name, value)
    judged, score = [], Bench.parity
    monkeypatch.setattr(Bench, "parity", lambda self, *given: judged.append(self.rows.inputs) or score(self, *given))
    found = compression_networks.resnet(tmp_path, 1, ["dynamic_int8"])
    assert len(judged) >= 3 and len(found.rows) == 20
    for inputs in (*judged, found.calibration):
        assert not any(np.array_equal(image, other) for image in inputs for other in found.rows.inputs)
    float32 = plain_session(found.onnx, 1)(found.rows.inputs)
    np.testing.assert_allclose(found.reference, float32, atol=1e-3)


def test_all_sides_are_timed_on_the_same_input(monkeypatch):
    monkeypatch.setattr(compression, "ROUNDS", 5)
    monkeypatch.setattr(compression, "SETTLE_SECONDS", 0.001)
    seen = {"ours": set(), "peer": set()}

    def side(name):
        return lambda inputs: seen[name].add(id(inputs)) or inputs

    samples = timed({name: side(name) for name in seen}, REFERENCE)
    assert len(samples["ours"]) == len(samples["peer"]) == 5
    assert seen["ours"] == seen["peer"] == {id(REFERENCE)}


def test_a_size_is_compared_as_it_is():
    found = ratio_of_sizes("compression.size", 11.5, 44.85, LIMITS["size"], network="resnet18")
    assert (found.ours, found.peer, found.ratio, found.unit) == (11.5, 44.85, 3.9, "MB")
    assert found.conditions == {"limit": 3.9, "peer_is": "the float32 ONNX file", "network": "resnet18"}
    assert sentence(found) == "compression.size: 11.5 MB (peer 44.85, at least 3.9), ratio 3.9: met"
