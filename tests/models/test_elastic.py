"""Spaces point by point, and slices of a larger network's weights against torch's own layers on sliced tensors."""

from __future__ import annotations

import itertools

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional

from dl_pipelines.brief.references import FamilyRef
from dl_pipelines.models import elastic
from dl_pipelines.models.cnn import Cnn
from dl_pipelines.models.elastic import Parts, Point, Space, family_at, recalibrated, scaled, searchable
from dl_pipelines.tasks.image_classification import ImageClassification

GREY = {"mean": [0.3], "std": [0.4]}
SPACE = Space(((2, 4), (3, 5, 8)), ((1, 2), (1, 2, 3)), 1)
BASE = FamilyRef(name="cnn", params={"dropout": 0.0})


def task(side: int = 8) -> ImageClassification:
    names = tuple(str(number) for number in range(10))
    return ImageClassification(ImageClassification.Params(classes=names, height=side, width=side, channels=1))


def images(count: int = 6, side: int = 8) -> torch.Tensor:
    draw = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, side, side, 1), dtype=torch.uint8, generator=draw)


def whole_network() -> nn.Module:
    """The largest, with weights and statistics that are not those of a fresh one."""
    torch.manual_seed(1)
    network = Cnn(Cnn.Params(**family_at(BASE, SPACE.largest).params)).network(task(), GREY)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias)
    return network


def test_a_space_has_every_point_once():
    points = [SPACE[place] for place in range(len(SPACE))]
    short = [Point((width,), (depth,)) for width, depth in itertools.product((2, 4), (1, 2))]
    long = [
        Point((one, two), (three, four))
        for one, two, three, four in itertools.product((2, 4), (3, 5, 8), (1, 2), (1, 2, 3))
    ]
    assert len(points) == len(SPACE) == 4 + 36
    assert set(points) == {*short, *long} and set(points[:4]) == set(short)
    assert SPACE.largest == points[-1] == Point((4, 8), (2, 3))
    assert SPACE.smallest == points[0] == Point((2,), (1,))
    assert SPACE.largest.name == "4x2_8x3"
    with pytest.raises(IndexError):
        SPACE[40]
    assert {SPACE.of_length(1)[place] for place in range(4)} == set(short) and len(SPACE.of_length(2)) == len(long)


def test_a_space_is_shares_of_a_network():
    found = scaled(Point((32, 6), (2, 2)), (1.0, 0.25, 0.5), (2, 1), 3)
    assert found == Space(((8, 16, 32), (2, 3, 6)), ((1, 2), (1, 2)), 2)
    assert scaled(Point((3,), (2,)), (0.1,), (2,), 1).widths == ((1,),)
    assert scaled(Point((3, 6), (2, 2)), (1.0,), (2,)).shortest == 2


@pytest.mark.parametrize(
    ("widths", "depths", "shortest", "message"),
    [
        (((2,), ()), ((1,), (1,)), 1, "expected some of each block"),
        (((2,),), ((1,), (1,)), 1, "expected some of each block"),
        (((2,),), ((1,),), 2, "found 2 blocks at least; expected 1 to 1"),
    ],
)
def test_no_space(widths, depths, shortest, message):
    with pytest.raises(ValueError, match=message):
        Space(widths, depths, shortest)


@pytest.mark.parametrize("side", [4, 8])
def test_a_part_is_its_familys_network_with_the_first_channels(side: int):
    torch.manual_seed(0)
    whole = Cnn(Cnn.Params(**family_at(BASE, SPACE.largest).params)).network(task(side), GREY)
    parts, point, pixels = Parts(BASE, SPACE.largest, task(side), GREY), Point((2, 5), (1, 2)), images(6, side)
    found = parts.answer(point, whole, pixels)

    def layer(inputs, convolution, norm, outputs):
        weight = convolution.weight[:outputs, : inputs.shape[1]]
        inputs = functional.conv2d(inputs, weight, padding=1)
        scale, shift = norm.weight[:outputs], norm.bias[:outputs]
        return functional.batch_norm(inputs, None, None, scale, shift, training=True).relu()

    first, second = whole[1], whole[4]
    assert (first.out_channels, second.out_channels) == (4, 4)
    wide, deep = whole[8], whole[11]
    assert (wide.in_channels, wide.out_channels, deep.out_channels) == (4, 8, 8)
    x = layer((pixels.permute(0, 3, 1, 2) / 255 - 0.3) / 0.4, first, whole[2], 2)
    x = functional.max_pool2d(x, 2)
    x = layer(layer(x, wide, whole[9], 5), deep, whole[12], 5)
    expected = (functional.max_pool2d(x, 2) if side == 8 else x).mean((2, 3))
    expected = functional.linear(expected, whole[-1].weight[:, :5], whole[-1].bias)
    assert torch.allclose(found, expected, atol=1e-5)
    own = family_at(BASE, point)
    assert own.params == {"dropout": 0.0, "widths": [2, 5], "depths": [1, 2]}
    alone = Cnn(Cnn.Params(**own.params)).network(task(side), GREY).train()
    alone.load_state_dict(parts.weights(point, alone, whole.state_dict()))
    assert torch.equal(alone(pixels), found)
    assert torch.equal(parts.loaded(point, whole.state_dict())(pixels), found)


def test_the_largest_part_is_the_whole_and_gradients_reach_only_what_a_part_has():
    whole, parts = whole_network(), Parts(BASE, SPACE.largest, task(), GREY)
    before = {name: value.clone() for name, value in whole.named_buffers()}
    assert torch.equal(parts.answer(SPACE.largest, whole, images()), whole.train()(images()))
    whole = whole_network()
    parts.answer(Point((2,), (1,)), whole, images()).square().sum().backward()
    moved = {name: int((value.grad != 0).sum()) for name, value in whole.named_parameters() if value.grad is not None}
    assert set(moved) == {"1.weight", "2.weight", "2.bias", f"{len(whole) - 1}.weight", f"{len(whole) - 1}.bias"}
    assert moved["1.weight"] == 2 * 9 and moved[f"{len(whole) - 1}.weight"] == 2 * 10
    assert all(torch.equal(value, before[name]) for name, value in whole.named_buffers()), "no statistics of its own"


def test_building_a_part_draws_nothing():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Parts(BASE, SPACE.largest, task(), GREY).network(SPACE.smallest)
    assert torch.equal(torch.rand(3), expected)


def test_no_more_networks_are_kept_than_some(monkeypatch):
    monkeypatch.setattr(elastic, "KEPT", 3)
    whole, parts, made = whole_network(), Parts(BASE, SPACE.largest, task(), GREY), list[Point]()
    build = parts.network
    monkeypatch.setattr(parts, "network", lambda point: made.append(point) or build(point))
    points = [SPACE[place] for place in range(8)]
    answers = [parts.answer(point, whole, images()) for point in points]
    assert set(parts._hollow) == set(points[-3:])
    assert all(
        torch.equal(parts.answer(point, whole, images()), answers[5 + at]) for at, point in enumerate(points[5:])
    )
    assert made == points, "the newest are there still"
    assert torch.equal(parts.answer(points[0], whole, images()), answers[0])
    assert set(parts._hollow) == {*points[-2:], points[0]}


def test_a_last_row_is_no_batch_of_its_own():
    # Nine rows in batches of four: the last alone would be a third of the statistics.
    network, pixels = whole_network(), images(9)
    pixels[-1] = 255
    found = recalibrated(network, pixels, batch=4)
    x = found[1](found[0](pixels)).detach()
    means = torch.stack([part.mean((0, 2, 3)) for part in (x[:3], x[3:6], x[6:])]).mean(0)
    assert torch.allclose(found[2].running_mean, means, atol=1e-5)
    assert torch.allclose(found[2].running_mean, x.mean((0, 2, 3)), atol=1e-5)


def test_statistics_are_found_anew():
    network, pixels = whole_network(), images(10)
    found = recalibrated(network, pixels, batch=5)
    x = found[1](found[0](pixels)).detach()
    means = torch.stack([half.mean((0, 2, 3)) for half in x.split(5)]).mean(0)
    spreads = torch.stack([half.var((0, 2, 3)) for half in x.split(5)]).mean(0)
    assert torch.allclose(found[2].running_mean, means, atol=1e-5)
    assert torch.allclose(found[2].running_var, spreads, atol=1e-5)
    assert not any(layer.training for layer in found.modules()) and found[2].momentum == 0.1


def test_names_and_sizes_that_a_brief_gives():
    plain = Cnn(Cnn.Params(width=8, blocks=3)).network(task(), GREY).state_dict()
    by_block = Cnn(Cnn.Params(widths=(8, 16, 32), depths=(2, 2, 2))).network(task(), GREY).state_dict()
    assert {name: value.shape for name, value in plain.items()} == {
        name: value.shape for name, value in by_block.items()
    }
    uneven = Cnn(Cnn.Params(widths=(8, 3), depths=(1, 3))).network(task(), GREY)
    assert [layer.out_channels for layer in uneven if isinstance(layer, nn.Conv2d)] == [8, 3, 3, 3]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"widths": (8,), "blocks": 3}, "either widths, or width and blocks"),
        ({"widths": (8, 16), "depths": (2,)}, "as many depths as blocks: 2, not 1"),
        ({"depths": (1, 2, 3)}, "as many depths as blocks: 2, not 3"),
        ({"widths": ()}, "at least 1 item"),
        ({"widths": (0,)}, "greater than or equal to 1"),
        ({"network": "resnet18", "depths": (1, 1)}, "with network: plain only; those of resnet18 are fixed"),
    ],
)
def test_wrong_sizes(params, message):
    with pytest.raises(ValidationError, match=message):
        Cnn.Params(**params)


def test_what_can_not_be_searched_is_named():
    with pytest.raises(ValueError, match="the family vit has no widths or depths to search; expected one with `space`"):
        searchable(FamilyRef(name="vit"))
    assert Cnn(Cnn.Params(network="resnet18")).space((0.5, 1.0), (1, 2), 1) is None
