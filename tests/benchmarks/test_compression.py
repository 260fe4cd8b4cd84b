import numpy as np
import pytest

from benchmarks.compression import LIMITS, agreement, ratio_of_sizes, timed
from benchmarks.compression_networks import CLASSES, SIDE, gratings
from benchmarks.contract import sentence

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
    with pytest.raises(SystemExit, match=r"found 97\.00% of 100 decisions alike; expected 98%"):
        agreement(run, three, REFERENCE)


def test_all_sides_are_timed_on_the_same_input():
    seen = {"ours": set(), "peer": set()}

    def side(name):
        return lambda inputs: seen[name].add(id(inputs)) or inputs

    samples = timed({name: side(name) for name in seen}, REFERENCE)
    assert len(samples["ours"]) == len(samples["peer"]) >= 5
    assert seen["ours"] == seen["peer"] == {id(REFERENCE)}


def test_a_size_is_compared_as_it_is():
    found = ratio_of_sizes("compression.size", 11.5, 44.85, LIMITS["size"], network="resnet18")
    assert (found.ours, found.peer, found.ratio, found.unit) == (11.5, 44.85, 3.9, "MB")
    assert found.conditions == {"limit": 3.9, "peer_is": "the float32 ONNX file", "network": "resnet18"}
    assert sentence(found) == "compression.size: 11.5 MB (peer 44.85, at least 3.9), ratio 3.9: met"
