"""The search itself, on graphs that are only names: what a layer in int8 costs is told by the test."""

from types import SimpleNamespace

import numpy as np
import pytest

from dl_pipelines.compression.base import TechniqueError
from dl_pipelines.compression.sensitive_layers import Search

LAYERS = tuple("abcdefgh")


class Sessions:
    """A file's name is the layers in float; each other adds its cost to the answers and to the loss."""

    def __init__(self, costs, budget, refuses=""):
        self.costs, self.budget, self.refuses, self.said, self.tried = costs, budget, refuses, [], []

    def make(self, in_float):
        if self.refuses and set(LAYERS) - set(in_float) == {self.refuses}:
            raise TechniqueError("found no operator that int8 covers; the graph would stay as it is")
        return "".join(sorted(in_float))

    def cost(self, path):
        return sum(cost for layer, cost in self.costs.items() if layer not in path)

    def answers(self, path, precision, inputs):
        assert precision == ("fp32" if path == "float" else "int8")
        if inputs is None:
            self.tried.append(path)
            return self.cost(path)
        return np.full((len(inputs), 2), 0 if path == "float" else self.cost(path), np.float32)

    def search(self, limit=12):
        shop = SimpleNamespace(
            loss=lambda outputs: {"value": outputs}, within_budget=lambda outputs: outputs <= self.budget,
            say=lambda *said: self.said.append(said),
        )  # fmt: skip
        return Search(shop, self.make, LAYERS, self.answers, np.zeros((3, 1), np.float32), limit)


def costs(**given):
    return {layer: given.get(layer, 0.001) for layer in LAYERS}


def test_layers_are_ranked_by_what_each_alone_changes():
    sessions = Sessions(costs(c=0.5, f=0.2, a=0.1), 0.05, refuses="h")
    assert sessions.search().ranked("float")[:3] == ["c", "f", "a"]
    assert sessions.search().ranked("float")[-1] == "h", "nothing of it is quantized"
    assert sessions.said[0] == ("sensitivity of a", 0, 8)


def test_the_fewest_layers_stay_in_float_with_what_each_would_cost():
    sessions = Sessions(costs(c=0.5, f=0.2), 0.05)
    search = sessions.search()
    found = search.find("float")
    assert found is not None and set(found) == {"c", "f"}
    assert found["f"] == pytest.approx(0.2 + 6 * 0.001)
    assert found["c"] == pytest.approx(0.5 + 6 * 0.001)
    assert search.scored == len(sessions.tried) <= 12


def test_a_layer_that_the_ranking_held_for_sensitive_goes_back_to_int8():
    class Misled(Sessions):
        def cost(self, path):  # alone "b" is bad, but not in the whole
            return super().cost(path) - (0.3 if len(path) < 7 and "b" not in path else 0)

    found = Misled(costs(b=0.3, c=0.2, d=0.1), 0.05).search(20).find("float")
    assert found is not None and set(found) == {"c", "d"}


@pytest.mark.parametrize("limit", [2, 3, 5])
def test_no_more_graphs_are_scored_than_allowed(limit):
    sessions = Sessions(costs(**dict.fromkeys("abcdef", 0.5)), 0.05)
    search = sessions.search(limit)
    found = search.find("float")
    assert len(sessions.tried) == search.scored <= limit
    if found is not None:
        assert sessions.cost("".join(found)) <= 0.05
        assert None in found.values(), "there was no graph left to tell what each costs"


def test_where_nothing_helps_there_is_none():
    sessions = Sessions(costs(**dict.fromkeys(LAYERS, 0.5)), 0.05)
    search = sessions.search()
    assert search.find("float") is None
    assert search.scored == 4, "1, 2, 4 and 7 of 8 layers"
