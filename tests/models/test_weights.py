"""What is taken over of another network's weights, and what stays."""

import pytest
import torch

from dl_pipelines.models.weights import copy_weights


def same(one, other):
    """Whether two states are equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Network(torch.nn.Module):
    """As a family makes one: what is learned, an average, and what was fitted on the window."""

    def __init__(self, width=4, level=1.0):
        super().__init__()
        self.hidden = torch.nn.Linear(3, width)
        self.norm = torch.nn.BatchNorm1d(width)
        self.head = torch.nn.Linear(width, 2)
        self.register_buffer("level", torch.tensor([level]))
        self.statistics = torch.nn.ParameterDict({"scale": torch.nn.Parameter(torch.tensor([level]))})


def test_what_is_learned_is_taken_over_and_what_was_fitted_is_not():
    before, network = Network(level=7.0), Network(level=1.0)
    before.norm.running_mean.fill_(3.0)
    taken, fresh = copy_weights(network, before.state_dict())
    assert fresh == []
    assert set(taken) == {
        "hidden.weight", "hidden.bias", "norm.weight", "norm.bias", "head.weight", "head.bias", "norm.running_mean",
        "norm.running_var", "norm.num_batches_tracked",
    }  # fmt: skip
    assert torch.equal(network.hidden.weight, before.hidden.weight)
    assert network.norm.running_mean.tolist() == [3.0] * 4
    assert network.level.tolist() == [1.0] and network.statistics["scale"].tolist() == [1.0]


def test_what_does_not_fit_stays_fresh_and_is_named():
    before, network = Network(width=5), Network(width=4)
    tensors = {name: value for name, value in before.state_dict().items() if name != "head.bias"}
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    told = copy_weights(network, tensors, copy=False)
    assert same(kept, network.state_dict())
    taken, fresh = copy_weights(network, tensors)
    assert told == (taken, fresh)
    assert taken == ["norm.num_batches_tracked"]
    assert set(fresh) == {
        "hidden.weight", "hidden.bias", "norm.weight", "norm.bias", "head.weight", "head.bias", "norm.running_mean",
        "norm.running_var",
    }  # fmt: skip
    assert same({name: kept[name] for name in fresh}, {name: network.state_dict()[name] for name in fresh})


class Items(torch.nn.Module):
    """A vector for each item, after one for all that are unknown."""

    tables = {"vectors.weight": "codes"}

    def __init__(self, codes):
        super().__init__()
        self.vectors = torch.nn.Embedding(len(codes) + 1, 3)
        self.register_buffer("codes", torch.tensor(codes))


@pytest.mark.parametrize("codes", [[11, 22, 33], [22, 99, 33], [5, 11, 22, 33, 44], [33]])
def test_vectors_follow_their_items(codes):
    before, network = torch.nn.Sequential(Items([11, 22, 33])), torch.nn.Sequential(Items(codes))
    kept = network[0].vectors.weight.clone()
    taken, fresh = copy_weights(network, before.state_dict())
    assert (taken, fresh) == (["0.vectors.weight"], [])
    assert network[0].codes.tolist() == codes
    assert torch.equal(network[0].vectors.weight[0], before[0].vectors.weight[0])
    for place, code in enumerate(codes, start=1):
        wanted = before[0].vectors.weight[[11, 22, 33].index(code) + 1] if code in (11, 22, 33) else kept[place]
        assert torch.equal(network[0].vectors.weight[place], wanted)


def test_vectors_of_an_unknown_table_stay_fresh():
    before, network = Items([11, 22]), Items([11, 22])
    state = before.state_dict()
    assert copy_weights(network, {"vectors.weight": state["vectors.weight"]}) == ([], ["vectors.weight"])
    state["vectors.weight"] = torch.zeros(9, 3)
    assert copy_weights(network, state) == ([], ["vectors.weight"])
