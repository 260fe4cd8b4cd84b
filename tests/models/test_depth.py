"""Layers in the order of their depth: of networks as torchvision, timm and our families build them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dl_pipelines.brief.references import FamilyRef
from dl_pipelines.models.depth import depths
from dl_pipelines.models.registry import FAMILIES
from tests.models.test_cnn import GREY, task


def test_a_plain_sequence_counts_its_layers_with_their_norms():
    network = nn.Sequential(
        nn.BatchNorm2d(1), nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 4, 3, bias=False),
        nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip
    assert depths(network) == [
        ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"], ["4.weight"], ["6.weight", "6.bias"],
    ]  # fmt: skip


def test_a_resnet_has_a_stem_eight_blocks_and_a_head():
    import torchvision

    with torch.device("meta"):
        network = nn.Sequential(nn.Identity(), torchvision.models.resnet18(num_classes=3))
    found = depths(network)
    blocks = [f"1.layer{stage}.{block}." for stage in (1, 2, 3, 4) for block in (0, 1)]
    assert found[0] == ["1.conv1.weight", "1.bn1.weight", "1.bn1.bias"]
    assert found[-1] == ["1.fc.weight", "1.fc.bias"]
    assert [{name[: len(blocks[0])] for name in names} for names in found[1:-1]] == [{block} for block in blocks]
    assert {name for names in found for name in names} == {name for name, _ in network.named_parameters()}


class Vit(nn.Module):
    """As torchvision's: a token and places that no layer holds, an encoder with a list of blocks and a last norm."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.encoder = nn.Module()
        self.encoder.places = nn.Parameter(torch.zeros(1, 5, 8))
        self.encoder.layers = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16) for _ in range(3))
        self.encoder.norm = nn.LayerNorm(8)
        self.heads = nn.Sequential(nn.Dropout(0.1), nn.Linear(8, 2))


def test_a_vit_has_its_places_in_the_stem_and_its_last_norm_in_the_last_block():
    found = depths(Vit())
    assert found[0] == ["token", "patches.weight", "patches.bias", "encoder.places"]
    assert [len(names) for names in found] == [4, 12, 12, 12 + 2, 2]
    assert found[3][-2:] == ["encoder.norm.weight", "encoder.norm.bias"]
    assert found[-1] == ["heads.1.weight", "heads.1.bias"]


def test_a_shared_parameter_is_in_one_layer():
    network = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 3), nn.Linear(3, 5, bias=False))
    network[2].weight = network[0].weight
    assert depths(network) == [["0.weight"], ["1.weight", "1.bias"]]


@pytest.mark.parametrize("name", [name for name in FAMILIES.names if FAMILIES.load(name).kind == "image"])
def test_every_parameter_of_a_family_is_in_one_layer_and_the_head_gives_the_classes(name):
    network = FAMILIES.make(FamilyRef(name=name)).network(task(), GREY)
    found = depths(network)
    names = [name for layer in found for name in layer]
    assert sorted(names) == sorted(name for name, _ in network.named_parameters())
    assert len(found) >= 2
    assert [len(network.get_parameter(name)) for name in found[-1]] in ([10, 10], [11, 11])
