"""The layer table against counts made by hand from PyTorch's documentation of each layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dl_pipelines.models.layers import (
    BETWEEN,
    CONSTANTS,
    IN_FORWARD,
    PURPOSES,
    WHOLE,
    count_parameters,
    layer_rows,
    layer_table,
)


class Block(nn.Module):
    """A block with a forward of its own, and a parameter that no layer holds."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(12, 8))
        self.scale = nn.Parameter(torch.zeros(()))
        self.items = nn.Embedding(50, 8)
        self.lstm = nn.LSTM(8, 16, 2, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(16, 8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 32, 0.1, "gelu", norm_first=True)
        self.first = nn.Conv1d(8, 4, 3, dilation=2)
        self.head = nn.Sequential(nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 1))


@pytest.fixture(scope="module")
def rows():
    return {row["type"]: row for row in layer_table(Block())}


def test_every_parameter_is_in_one_row(rows):
    assert sum(row["parameters"] for row in rows.values()) == count_parameters(Block())
    assert set(rows) <= set(PURPOSES)
    assert {row["purpose"] for row in rows.values()} == {PURPOSES[kind] for kind in rows}


@pytest.mark.parametrize(
    ("kind", "count", "parameters", "configuration"),
    [
        # Four (three) gates of input and hidden weights with two biases; the second layer sees both directions.
        ("Recurrent", 2, 2 * 4 * 16 * (8 + 16 + 2) + 2 * 4 * 16 * (32 + 16 + 2) + 3 * 8 * (16 + 8 + 2),
         "LSTM 8->16, 2 layers, both directions; GRU 16->8"),
        ("Attention", 1, 4 * (8 * 8 + 8), "8 wide, 2 heads"),
        ("Embedding", 1, 50 * 8, "50 names, 8 wide"),
        ("Layer Norm", 2, 2 * 2 * 8, "LayerNorm over 8"),
        ("Dense/FC", 4, 8 * 32 + 32 + 32 * 8 + 8 + 4 * 4 + 4 + 4 + 1, "8->32; 32->8; 4->4; 4->1"),
        ("Convolutional", 1, 8 * 4 * 3 + 4, "8->4, 3, dilation 2"),
        (CONSTANTS, 2, 12 * 8 + 1, "12x8; 1"),
    ],
)  # fmt: skip
def test_each_kind_is_counted_as_by_hand(rows, kind, count, parameters, configuration):
    row = rows[kind]
    assert (row["count"], row["parameters"], row["configuration"]) == (count, parameters, configuration)


def test_an_activation_is_named_only_where_a_module_names_it(rows):
    assert rows["Recurrent"]["activation"] == "Sigmoid and Tanh of its gates"
    assert rows["Dense/FC"]["activation"] == "GELU, SiLU"
    assert rows["Convolutional"]["activation"] == IN_FORWARD
    bare = nn.Module()
    bare.first = nn.Linear(2, 2)
    assert layer_table(bare)[0]["activation"] == IN_FORWARD
    assert layer_table(nn.Sequential(nn.Linear(2, 2)))[0]["activation"] == "none"


def test_a_shared_parameter_counts_once():
    network = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    network[1].weight = network[0].weight
    assert sum(row["parameters"] for row in layer_table(network)) == count_parameters(network) == 15


class Attend(nn.Module):
    """An attention of a family's own."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(3, 8), nn.Linear(5, 8), nn.Linear(5, 8)


def test_an_attention_of_a_familys_own_is_one_too():
    row, rest = layer_table(nn.Sequential(Attend()))
    assert (rest["type"], rest["count"], rest["configuration"], rest["parameters"]) == (BETWEEN, 1, "Sequential", 0)
    assert (row["type"], row["count"], row["configuration"]) == ("Attention", 1, "8 wide, 1 head")
    assert row["parameters"] == 3 * 8 + 2 * 5 * 8 + 3 * 8


def test_what_no_module_names_is_said_last():
    bare = nn.Module()
    bare.first, bare.second = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.GELU())
    assert layer_table(bare)[0]["activation"] == f"GELU, {IN_FORWARD}"


def test_each_layer_has_a_row_in_order_and_each_block_behind():
    rows = [(row["name"], row["type"], row["configuration"], row["parameters"]) for row in layer_rows(Block())]
    assert rows[:4] == [
        ("items", "Embedding", "50 names, 8 wide", 400),
        ("lstm", "Recurrent", "LSTM 8->16, 2 layers, both directions", 2 * 4 * 16 * (26 + 50)),
        ("gru", "Recurrent", "GRU 16->8", 3 * 8 * 26),
        ("encoder.self_attn", "Attention", "8 wide, 2 heads", 288),
    ]
    assert rows[-6:] == [
        ("head.1", "Activation", "SiLU", 0),
        ("head.2", "Dense/FC", "4->1", 5),
        ("place", CONSTANTS, "12x8", 96),
        ("scale", CONSTANTS, "1", 1),
        (WHOLE, BETWEEN, "Block", 0),
        ("encoder", BETWEEN, "TransformerEncoderLayer", 0),
    ]


def test_a_module_in_two_places_is_one_layer():
    rows = layer_rows(nn.Sequential(relu := nn.ReLU(), nn.Linear(2, 2), nn.Sequential(relu)))
    assert [row["name"] for row in rows] == ["0", "1", WHOLE]


def test_of_many_configurations_the_first_are_listed():
    rows = {row["type"]: row for row in layer_table(nn.Sequential(*(nn.Linear(1, size) for size in range(1, 12))))}
    assert rows["Dense/FC"]["configuration"].startswith("1->1; 1->2; ")
    assert rows["Dense/FC"]["configuration"].endswith("1->8; 3 more")
