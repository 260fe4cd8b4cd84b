"""Lifetimes and places of tensors, against counts by hand and a search over every order."""

import itertools

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dl_pipelines.bundles.memory_plan import Buffer, lifetimes, operators, place, plan


def overlap(a, b, offsets):
    return offsets[a.name] < offsets[b.name] + b.size and offsets[b.name] < offsets[a.name] + a.size


@pytest.mark.parametrize("seed", range(20))
def test_no_two_that_live_at_once_overlap(seed):
    rng = np.random.default_rng(seed)
    firsts = rng.integers(0, 20, 40)
    buffers = [
        Buffer(str(number), int(rng.integers(1, 5000)), int(first), int(first + rng.integers(0, 6)))
        for number, first in enumerate(firsts)
    ]
    offsets = place(buffers)
    assert all(offset % 16 == 0 for offset in offsets.values())
    for a, b in itertools.combinations(buffers, 2):
        assert not (a.meets(b) and overlap(a, b, offsets))


@pytest.mark.parametrize("seed", range(5))
def test_it_is_near_the_best_order(seed):
    rng = np.random.default_rng(seed)
    buffers = [Buffer(str(n), 16 * int(rng.integers(1, 9)), n, n + int(rng.integers(0, 3))) for n in range(6)]

    def height(offsets):
        return max(offsets[item.name] + item.size for item in buffers)

    def first_fit(order):
        offsets = {}
        for item in order:
            taken = [(offsets[o.name], o.size) for o in buffers if o.name in offsets and o.meets(item)]
            offsets[item.name] = next(
                at for at in range(0, 10_000, 16) if all(at + item.size <= x or x + size <= at for x, size in taken)
            )
        return height(offsets)

    best = min(first_fit(order) for order in itertools.permutations(buffers))
    assert best <= height(place(buffers)) <= 1.3 * best


@pytest.fixture
def chain():
    """input [1, 4] -> double -> add(double, input) -> relu: floats."""
    nodes = [
        helper.make_node("Mul", ["input", "two"], ["double"]),
        helper.make_node("Add", ["double", "input"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["output"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("input", "output")]
    two = numpy_helper.from_array(np.float32(2), "two")
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], [two])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def test_lifetimes_are_from_the_maker_to_the_last_reader(chain):
    found = lifetimes(chain, dict.fromkeys(("input", "double", "sum", "output"), 16))
    assert [(item.name, item.first, item.last) for item in found] == [
        ("input", 0, 1), ("double", 0, 1), ("sum", 1, 2), ("output", 2, 2),
    ]  # fmt: skip


def test_a_branch_reads_too(chain):
    inner = helper.make_graph([helper.make_node("Neg", ["double"], ["inside"])], "inner", [], [])
    chain.graph.node[2].attribute.append(helper.make_attribute("then_branch", inner))
    found = lifetimes(chain, dict.fromkeys(("input", "double", "sum", "output"), 16))
    assert next(item for item in found if item.name == "double").last == 2


def test_the_plan_counts_bytes(chain):
    tensors = {name: np.zeros((1, 4), np.float32) for name in ("input", "double", "sum", "output")}
    found = plan(chain, tensors)
    assert found["weights_bytes"] == 4
    assert [step["live_bytes"] for step in found["steps"]] == [32, 48, 32]
    assert (found["peak_bytes"], found["arena_bytes"]) == (48, 48)
    assert found["tensors"][1] == {
        "name": "double", "dtype": "float32", "shape": [1, 4], "bytes": 16, "offset": 0, "first": 0, "last": 1,
    }  # fmt: skip


def test_operators_are_counted(chain):
    chain.graph.node.append(helper.make_node("Gelu", ["output"], ["more"], domain="com.microsoft"))
    chain.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    assert operators(chain) == {
        "opsets": {"ai.onnx": 18, "com.microsoft": 1},
        "operators": [
            {"domain": "ai.onnx", "operator": "Add", "count": 1},
            {"domain": "ai.onnx", "operator": "Mul", "count": 1},
            {"domain": "ai.onnx", "operator": "Relu", "count": 1},
            {"domain": "com.microsoft", "operator": "Gelu", "count": 1},
        ],
    }
