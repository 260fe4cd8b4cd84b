import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from dl_pipelines.brief.references import FamilyRef
from dl_pipelines.models.channel_groups import NotPrunable
from dl_pipelines.models.plan import NetworkPlan
from dl_pipelines.models.pruned import cut, prune, widths
from dl_pipelines.tasks.image_classification import ImageClassification
from tests.series import make_table, make_task

TASK = ImageClassification(ImageClassification.Params(classes=("a", "b", "c"), height=8, width=8, channels=1))
STATISTICS = {"mean": [0.3], "std": [0.4]}
ROWS = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1)).astype(np.uint8)
IMAGES = torch.from_numpy(ROWS)


class Two(nn.Module):
    """Two convolutions and a dense layer on what is left of the grid: uint8 [N, 8, 8, 1] -> [N, 3]."""

    def __init__(self, between: nn.Module | None = None):
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3)
        self.between, self.head = between or nn.ReLU(), nn.Linear(16, 3)

    def forward(self, image):
        hidden = self.between(self.norm(self.first(image.permute(0, 3, 1, 2).float() / 255)))
        return self.head(functional.max_pool2d(torch.relu(self.second(hidden)), 2).flatten(1))


def two(between=None):
    torch.manual_seed(0)
    network = Two(between)
    settle(network)
    return network.eval()


def settle(network):
    """Norms as after a training, and biases that show."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
            layer.running_mean.uniform_(-0.2, 0.2)
            layer.running_var.uniform_(0.5, 1.5)


def answers(network):
    with torch.no_grad():
        return network.eval()(IMAGES)


def kept(cuts, name, channels):
    gone = next(positions for where, outputs, positions in cuts if (where, outputs) == (name, True))
    return [place for place in range(channels) if place not in gone]


def test_a_cut_network_is_the_whole_one_with_sliced_weights():
    network = two()
    whole = copy.deepcopy(network)
    cuts = prune(network, TASK, ROWS, 0.5, multiple=1)
    first, second = kept(cuts, "first", 6), kept(cuts, "second", 4)
    assert (len(first), len(second)) == (3, 2)
    norm = whole.norm
    image = IMAGES.permute(0, 3, 1, 2).float() / 255
    hidden = functional.conv2d(image, whole.first.weight[first], whole.first.bias[first])
    hidden = (hidden - norm.running_mean[first, None, None]) / (norm.running_var[first, None, None] + norm.eps).sqrt()
    hidden = (hidden * norm.weight[first, None, None] + norm.bias[first, None, None]).relu()
    hidden = functional.conv2d(hidden, whole.second.weight[second][:, first], whole.second.bias[second]).relu()
    places = [channel * 4 + place for channel in second for place in range(4)]  # a channel is four pixels
    flat = functional.max_pool2d(hidden, 2).flatten(1)
    expected = flat @ whole.head.weight[:, places].T + whole.head.bias
    assert torch.allclose(answers(network), expected, atol=1e-5)
    assert (cuts[-1][0], cuts[-1][1], len(cuts[-1][2])) in {("head", False, 8), ("second", False, 3)}


def test_a_cut_network_answers_as_the_whole_one_whose_channels_are_silent():
    network = two()
    whole = copy.deepcopy(network)
    cuts = prune(network, TASK, ROWS, 0.5, multiple=1)
    gone = [place for place in range(6) if place not in kept(cuts, "first", 6)]
    silent = [place for place in range(4) if place not in kept(cuts, "second", 4)]
    whole.between.register_forward_hook(lambda *given: given[2].index_fill(1, torch.tensor(gone), 0))
    whole.second.register_forward_hook(lambda *given: given[2].index_fill(1, torch.tensor(silent), 0))
    assert torch.allclose(answers(network), answers(whole), atol=1e-5)


def test_the_channels_with_the_smallest_weights_go():
    network = two()
    sizes = [5.0, 0.1, 3.0, 0.2, 4.0, 0.3]
    with torch.no_grad():
        network.norm.weight.fill_(1.0)
        for place, size in enumerate(sizes):
            network.first.weight[place] = network.first.weight[place].sign() * size
    assert kept(prune(network, TASK, ROWS, 0.5, multiple=1), "first", 6) == [0, 2, 4]


def test_by_the_norm_the_channels_with_the_smallest_scales_go():
    network = two()
    with torch.no_grad():
        network.norm.weight.copy_(torch.tensor([0.1, -3.0, 0.2, 2.0, 0.3, 1.0]))
    cuts = prune(network, TASK, ROWS, 0.5, importance="batch_norm", multiple=1)
    assert kept(cuts, "first", 6) == [1, 3, 5]
    assert widths(network) == {"first": 3, "second": 4, "head": 3}  # no norm tells of the second's channels


def test_by_taylor_the_channels_go_without_which_the_loss_stays():
    network = two()
    with torch.no_grad():
        network.norm.bias.fill_(2.0)  # every channel says something
        network.second.weight[:, [1, 4]] = 0  # but nobody listens to these
    targets = torch.tensor([0, 1, 2, 0])
    loss = lambda module: functional.cross_entropy(module(IMAGES), targets)  # noqa: E731
    cuts = prune(network, TASK, ROWS, 1 / 3, importance="taylor", multiple=1, loss=loss)
    assert kept(cuts, "first", 6) == [0, 2, 3, 5]
    assert all(value.grad is None for value in network.parameters())


def plan_of(family, cuts=(), **params):
    return NetworkPlan(FamilyRef(name=family, params=params), STATISTICS, cuts)


@pytest.mark.parametrize(
    ("family", "params"),
    [
        ("cnn", {}), ("cnn", {"network": "mobilenet_v3_small"}), ("vit", {}), ("conv_attention", {}),
        ("autoencoder", {}),
    ],
    ids=["plain", "mobilenet", "vit", "conv_attention", "autoencoder"],
)  # fmt: skip
def test_the_same_plan_and_weights_give_the_same_outputs(family, params):
    torch.manual_seed(1)
    network = plan_of(family, **params).build(TASK)
    settle(network)
    before = widths(network)
    cuts = prune(network, TASK, ROWS, 0.5)
    plan = NetworkPlan.read(plan_of(family, cuts, **params).plain())
    assert plan.cuts == cuts
    again = plan.build(TASK)
    again.load_state_dict(network.state_dict())
    assert torch.equal(answers(again), answers(network))
    after = widths(again)
    smaller = [name for name, wide in before.items() if after[name] != wide]
    assert smaller
    assert all(after[name] % 8 == 0 and after[name] <= max(8, 0.75 * before[name]) for name in smaller)
    assert [*after.values()][-1] == len(TASK.params.classes)
    assert all("attention" not in name for name in smaller)


@pytest.mark.parametrize(("family", "part"), [("tcn", "encoder.blocks.0.first"), ("nhits", "encoder.stacks.1.2")])
def test_a_forecaster_loses_channels_too(family, part):
    task = make_task()
    table = make_table(task)
    rows = task.rows(table).inputs[:4]
    plan = NetworkPlan(FamilyRef(name=family), task.fit(table, np.ones(table.num_rows, bool)))
    torch.manual_seed(2)
    network = plan.build(task)
    with torch.no_grad():
        for value in network.parameters():
            value += 0.1 * torch.randn_like(value)
    before = widths(network)
    cuts = prune(network, task, rows, 0.5)
    again = NetworkPlan(plan.family, plan.statistics, cuts).build(task)
    again.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(torch.from_numpy(rows)), network.eval()(torch.from_numpy(rows)))
    assert widths(again)[part] <= 0.75 * before[part]


def test_a_second_pruning_goes_on_from_the_first():
    torch.manual_seed(1)
    network = plan_of("cnn", width=32).build(TASK)
    cuts = (*prune(network, TASK, ROWS, 0.5), *prune(network, TASK, ROWS, 0.5))
    assert [*widths(network).values()] == [8, 8, 16, 16, 3]
    again = plan_of("cnn", cuts, width=32).build(TASK)
    again.load_state_dict(network.state_dict())
    assert torch.equal(answers(again), answers(network))


def test_shares_of_the_whole_network_lead_to_the_same_widths_by_any_way():
    network = plan_of("cnn", width=32).build(TASK)
    whole = widths(network)
    found = []
    for share in (0.3, 0.5, 0.6, 0.7):
        prune(network, TASK, ROWS, share, of=whole)
        found.append([*widths(network).values()])
    assert found == [[24, 24, 48, 48, 3], [16, 16, 32, 32, 3], [16, 16, 24, 24, 3], [8, 8, 16, 16, 3]]


def test_pruning_and_building_leave_a_network_in_the_mode_it_was_in():
    network = plan_of("cnn").build(TASK)
    assert network.training
    cuts = prune(network, TASK, ROWS, 0.5)
    assert network.training
    built = plan_of("cnn", cuts).build(TASK)
    assert built.training
    assert all(int(layer.num_batches_tracked) == 0 for layer in built.modules() if isinstance(layer, nn.BatchNorm2d))


def test_a_recurrent_network_is_refused_by_its_layer():
    with pytest.raises(NotPrunable, match=r"whose channels can go \(rows is recurrent \(GRU\).*by distillation"):
        prune(plan_of("rnn_rows").build(TASK), TASK, ROWS, 0.5)


def test_a_network_with_nothing_between_input_and_output_is_refused():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(64, 3)

        def forward(self, image):
            return self.head(image.flatten(1).float())

    with pytest.raises(NotPrunable, match=r"\(head gives the output\); expected convolutions or dense layers between"):
        prune(Flat(), TASK, ROWS, 0.5)


def test_narrow_layers_are_refused_with_what_to_lower():
    with pytest.raises(NotPrunable, match=r"at a share of 0\.5 in multiples of 8; .*lower the technique's multiple"):
        prune(plan_of("cnn", width=4, blocks=1).build(TASK), TASK, ROWS, 0.5)


def test_an_operator_that_mixes_channels_is_found_and_the_network_stays_whole():
    class Mixing(nn.Module):
        def forward(self, hidden):
            return hidden.roll(1, 1).softmax(1)

    network = two(Mixing())
    before = answers(network)
    with pytest.raises(NotPrunable, match="without channels of first the network does not answer as it should"):
        prune(network, TASK, ROWS, 0.5, multiple=1)
    assert torch.equal(answers(network), before)


@pytest.mark.parametrize(
    ("cuts", "message"),
    [
        ([("elsewhere", True, (0,))], "found a cut of 'elsewhere', but the network has no such layer"),
        ([("between", True, (0,))], "found a cut of 'between', but the network has a ReLU there"),
        ([("first", True, (5, 6))], "the outputs 5, 6 of 'first', which has 6; expected different ones below 6"),
        ([("first", True, (1, 1))], "the outputs 1, 1 of 'first'"),
        ([("first", True, ())], "the outputs none of 'first'"),
        ([("second", False, tuple(range(6)))], "found a cut of all 6 inputs of 'second'"),
        ([("first", True, (0,))], r"layers don't fit one another \(.*; expected all cuts of a network of the same"),
        ([("head", True, (0,))], r"found outputs of \[2\] after the cuts; expected \[3\]"),
    ],
)
def test_cuts_that_do_not_fit_say_why(cuts, message):
    with pytest.raises(ValueError, match=message):
        cut(two(), TASK, cuts)
