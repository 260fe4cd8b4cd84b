"""The CNN: its sizes by hand, its preprocessing inside, its recipe."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from dl_pipelines.brief.sections import Training
from dl_pipelines.models.cnn import Cnn
from dl_pipelines.models.cnn_modules import halvings
from dl_pipelines.models.layers import PURPOSES, count_parameters, layer_table
from dl_pipelines.tasks.image_classification import ImageClassification

GREY = {"mean": [0.3], "std": [0.4]}
COLOUR = {"mean": [0.2, 0.4, 0.6], "std": [0.1, 0.2, 0.3]}


def task(height: int = 8, width: int = 8, channels: int = 1, classes: int = 10) -> ImageClassification:
    names = tuple(str(number) for number in range(classes))
    return ImageClassification(ImageClassification.Params(classes=names, height=height, width=width, channels=channels))


def cnn(**params: float | str) -> Cnn:
    return Cnn(Cnn.Params.model_validate(params))


def by_hand(channels: int, width: int, blocks: int, classes: int) -> int:
    total, before = 0, channels
    for block in range(blocks):
        after = width * 2**block
        for _ in range(2):
            total += 9 * before * after  # the convolution, without bias
            total += 2 * after  # the batch norm's scale and shift
            before = after
    return total + before * classes + classes


@pytest.mark.parametrize(
    ("channels", "width", "blocks", "classes"), [(1, 32, 2, 10), (3, 8, 1, 2), (1, 4, 3, 10), (3, 16, 5, 7)]
)
def test_parameters_are_counted_as_by_hand(channels: int, width: int, blocks: int, classes: int):
    normalisation = COLOUR if channels == 3 else GREY
    network = cnn(width=width, blocks=blocks).network(task(channels=channels, classes=classes), normalisation)
    assert count_parameters(network) == by_hand(channels, width, blocks, classes)
    assert sum(row["parameters"] for row in layer_table(network)) == count_parameters(network)


def test_frozen_parameters_are_not_counted():
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    assert count_parameters(network) == 16 + 10
    network[0].requires_grad_(False)
    assert count_parameters(network) == 10


def test_the_layer_table_says_what_is_there():
    rows = {row["type"]: row for row in layer_table(cnn(width=8, blocks=2, dropout=0.25).network(task(), GREY))}
    layers = {"Convolutional", "Pooling", "Dense/FC", "Dropout", "Batch Norm"}
    assert set(rows) == {*layers, "Activation", "Between layers"}
    assert rows["Convolutional"] == {
        "type": "Convolutional", "count": 4, "parameters": 9 * (8 + 64 + 128 + 256),
        "configuration": "1->8, 3x3; 8->8, 3x3; 8->16, 3x3; 16->16, 3x3", "activation": "ReLU",
        "purpose": PURPOSES["Convolutional"],
    }  # fmt: skip
    assert (rows["Batch Norm"]["count"], rows["Batch Norm"]["parameters"]) == (4, 2 * (8 + 8 + 16 + 16))
    assert (rows["Dense/FC"]["configuration"], rows["Dense/FC"]["activation"]) == ("16->10", "none")
    assert rows["Dropout"]["configuration"] == "p=0.25"
    assert rows["Pooling"]["count"] == 3
    assert rows["Pooling"]["configuration"] == "MaxPool 2; AdaptiveAvgPool 1"


def test_layers_of_other_kinds_are_seen_too():
    network = nn.Sequential(
        nn.Sequential(nn.Conv1d(2, 3, 5), nn.BatchNorm1d(3), nn.GELU()), nn.AvgPool1d(2), nn.Embedding(2, 2)
    )
    rows = {row["type"]: row for row in layer_table(network)}
    assert rows["Convolutional"]["configuration"] == "2->3, 5"
    assert rows["Convolutional"]["activation"] == "GELU"
    assert set(rows) == {"Convolutional", "Batch Norm", "Activation", "Pooling", "Embedding", "Between layers"}


@pytest.mark.parametrize(("height", "width"), [(4, 4), (8, 8), (5, 64), (28, 28), (224, 224)])
@pytest.mark.parametrize("blocks", [1, 5])
def test_any_size_gives_logits(height: int, width: int, blocks: int):
    network = cnn(width=4, blocks=blocks).network(task(height, width, 3, 6), COLOUR).eval()
    with torch.no_grad():
        logits = network(torch.zeros(2, height, width, 3, dtype=torch.uint8))
    assert (logits.shape, logits.dtype) == ((2, 6), torch.float32)
    assert torch.isfinite(logits).all()


def test_pixels_are_normalised_inside():
    network = cnn(width=4).network(task(channels=3), COLOUR).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    found = network[0](torch.from_numpy(pixels)).numpy()
    expected = (pixels / 255 - np.array(COLOUR["mean"])) / np.array(COLOUR["std"])
    assert found == pytest.approx(expected.transpose(0, 3, 1, 2), abs=1e-5)
    assert "0.mean" in network.state_dict()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"width": 3}, "greater than or equal to 4"),
        ({"blocks": 6}, "less than or equal to 5"),
        ({"dropout": 1.0}, "less than 1"),
        ({"depth": 2}, "Extra inputs are not permitted"),
        ({"network": "resnet19"}, "Input should be 'plain', 'resnet18'"),
        ({"network": "resnet18", "width": 16}, "width and blocks with network: plain only; those of resnet18"),
    ],
)
def test_wrong_params(params: dict[str, float], message: str):
    with pytest.raises(ValidationError, match=message):
        cnn(**params)


def test_the_recipe_is_one_supervised_phase():
    recipe = cnn(width=4, dropout=0).recipe(task(), GREY, Training(label_smoothing=0.1))
    assert recipe.network is recipe.modules[recipe.served]
    (phase,) = recipe.phases
    (objective,) = phase.objectives
    assert (phase.name, phase.share, objective.modules) == ("supervised", 1.0, ("network",))
    inputs, targets = torch.randint(0, 256, (6, 8, 8, 1), dtype=torch.uint8), torch.arange(6)
    recipe.network.eval()
    loss = objective.loss(recipe.modules, inputs, targets)
    logits = recipe.network(inputs)
    smooth = 0.9 * nn.functional.one_hot(targets, 10) + 0.01
    expected = -(smooth * torch.log_softmax(logits, dim=1)).sum(dim=1).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert all(parameter.grad is not None for parameter in recipe.network.parameters())


# torchvision's documentation, num_params: with 1,000 classes and colour.
PUBLISHED = {"resnet18": 11_689_512, "mobilenet_v3_small": 2_542_856}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_network_is_as_published_at_224_pixels(name: str):
    import torchvision

    torch.manual_seed(0)
    network = cnn(network=name, dropout=0).network(task(224, 224, 3, 1000), COLOUR).eval()
    assert count_parameters(network) == PUBLISHED[name]
    reference = getattr(torchvision.models, name)(weights=None).eval()
    state = {key.removeprefix("body."): value for key, value in network.state_dict().items() if key[:5] == "body."}
    reference.load_state_dict(state)
    pixels = torch.randint(0, 256, (1, 224, 224, 3), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(network(pixels), reference(network.normalise(pixels)))


@pytest.mark.parametrize(("side", "expected"), [(4, 1), (8, 2), (28, 3), (32, 3), (64, 4), (112, 5), (224, 5)])
def test_small_images_are_halved_less_often(side: int, expected: int):
    assert halvings(side) == expected


@pytest.mark.parametrize(("name", "last"), [("resnet18", "layer4"), ("mobilenet_v3_small", "features")])
@pytest.mark.parametrize(("side", "channels", "left"), [(8, 1, 2), (28, 3, 4)])
def test_a_published_network_fits_its_image(name: str, last: str, side: int, channels: int, left: int):
    network = cnn(network=name, dropout=0.5).network(task(side, side, channels), COLOUR if channels == 3 else GREY)
    seen = []
    network.body.get_submodule(last).register_forward_hook(lambda _module, _given, found: seen.append(found.shape))
    logits = network(torch.zeros(2, side, side, channels, dtype=torch.uint8))
    assert logits.shape == (2, 10)
    assert seen[0][2:] == (left, left)
    assert [layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)] == [0.5]
    assert all(value.is_contiguous() for value in network.parameters())
