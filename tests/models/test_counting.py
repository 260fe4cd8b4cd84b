"""What layers cost: multiply-adds by hand and by torch's own counter, memory by hand, for each family."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dl_pipelines.brief.references import FamilyRef
from dl_pipelines.models.counting import counted
from dl_pipelines.models.layers import BETWEEN, CONSTANTS, NONE, WHOLE, by_kind, count_parameters
from dl_pipelines.models.registry import FAMILIES
from tests.models.test_cnn import GREY, task
from tests.series import demand, make_table, make_task


def rows_of(network: nn.Module, *shape: int) -> dict[str, dict]:
    inputs = np.random.default_rng(0).random((2, *shape), np.float32)
    return {row["name"]: row for row in counted(network, inputs)}


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
@pytest.mark.parametrize(
    ("layer", "shape", "macs", "gives"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), (3, 8, 8), 8 * 8 * 8 * 27, "8 x 8 x 8"),
        (nn.Conv2d(8, 16, 3, stride=2, groups=4), (8, 9, 9), 16 * 4 * 4 * 2 * 9, "16 x 4 x 4"),
        (nn.Conv1d(2, 3, 5), (2, 12), 3 * 8 * 2 * 5, "3 x 8"),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (4, 3, 3), 3 * 3 * 4 * 6 * 4, "6 x 6 x 6"),
        (nn.Linear(5, 7), (5,), 35, "7"),
        (nn.Linear(5, 7), (11, 5), 11 * 35, "11 x 7"),
        (nn.LSTM(3, 4, batch_first=True), (9, 3), 9 * 4 * 4 * (3 + 4), "9 x 4"),
        # Two directions in two layers: the second is given both of the first's.
        (nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True), (9, 3), 9 * 2 * 16 * (3 + 4 + 8 + 4), "9 x 8"),
        (nn.LSTM(3, 4, batch_first=True, proj_size=2), (9, 3), 9 * (16 * (3 + 2) + 4 * 2), "9 x 2"),
        (nn.GRU(3, 4, batch_first=True), (9, 3), 9 * 3 * 4 * (3 + 4), "9 x 4"),
        (nn.BatchNorm1d(5), (5,), 0, "5"),
    ],
)  # fmt: skip
def test_multiply_adds_are_as_by_hand(layer, shape, macs, gives):
    row = rows_of(nn.Sequential(layer), *shape)["0"]
    assert (row["macs"], row["output_shape"]) == (macs, gives)


class Itself(nn.Module):
    """An attention block with a product of its own, a sum, and a layer that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.map, self.aside, self.relu = nn.Linear(8, 8), nn.Linear(8, 8), nn.ReLU(inplace=True)
        self.places = nn.Parameter(torch.zeros(6, 8))

    def forward(self, steps: torch.Tensor) -> torch.Tensor:
        found = self.relu(self.map(self.attention(steps, steps, steps)[0]))
        return found @ found.transpose(1, 2) + 1


def test_what_a_block_computes_is_its_own():
    rows = rows_of(nn.Sequential(Itself(), nn.Flatten()), 6, 8)
    assert rows["0.attention"]["macs"] == 6 * 8 * 24 + 2 * 6 * 6 * 8 + 6 * 8 * 8
    assert rows["0"]["macs"] == 6 * 6 * 8
    assert rows["0.map"]["macs"] == 6 * 64
    assert (rows["0.aside"]["macs"], rows["0.aside"]["output_shape"]) == (0, NONE)
    assert (rows["0.places"]["type"], rows["0.places"]["macs"]) == (CONSTANTS, 0)
    assert (rows[WHOLE]["type"], rows[WHOLE]["macs"]) == (BETWEEN, 0)


def test_memory_is_of_answers_that_have_their_own():
    memory = {
        name: row["activation_bytes"] for name, row in rows_of(nn.Sequential(Itself(), nn.Flatten()), 6, 8).items()
    }
    assert memory["0.map"] == 6 * 8 * 4
    assert memory["0"] == 6 * 6 * 4
    assert (memory["0.relu"], memory["1"], memory[WHOLE]) == (0, 0, 0), "in place, a view, the answer of a layer"


def test_kinds_sum_up_their_layers():
    rows = counted(nn.Sequential(nn.Conv1d(2, 3, 1), nn.ReLU(), nn.Conv1d(3, 4, 1)), np.zeros((1, 2, 5), np.float32))
    kinds = {row["type"]: row for row in by_kind(rows)}
    found = kinds["Convolutional"]
    assert (found["macs"], found["output_shape"], found["activation_bytes"]) == (
        5 * (6 + 12),
        "3 x 5; 4 x 5",
        4 * 5 * 7,
    )


def of_torch(network: nn.Module, inputs: torch.Tensor) -> int:
    """Multiply-adds as torch counts them, with the layers of a Transformer as what they are made of.

    Its attention too: an older torch counts nothing of the one kernel that it is on a CPU otherwise.
    """
    torch.backends.mha.set_fastpath_enabled(False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network.eval()(inputs)
    torch.backends.mha.set_fastpath_enabled(True)
    return counter.get_total_flops() // 2


def test_a_resnet_costs_what_is_published():
    import torchvision

    network = torchvision.models.resnet18()
    rows = counted(network, np.zeros((1, 3, 224, 224), np.float32))
    total = sum(row["macs"] for row in rows)
    assert total / 1e9 == pytest.approx(torchvision.models.ResNet18_Weights.DEFAULT.meta["_ops"], abs=0.001)
    assert total == of_torch(network, torch.zeros(1, 3, 224, 224))


@pytest.fixture(scope="module")
def series():
    """A task of series, what it fits, one of its inputs."""
    given = make_task(season=7, history=14)
    table = make_table(given, demand(60))
    return given, given.fit(table, np.ones(table.num_rows, bool)), given.rows(table, training=True).inputs[:1]


@pytest.mark.parametrize("name", FAMILIES.names)
def test_every_family_has_a_table(name, series):
    family = FAMILIES.make(FamilyRef(name=name))
    image = np.zeros((1, 8, 8, 1), np.uint8)
    given, statistics, inputs = (task(), GREY, image) if family.kind == "image" else series
    network = family.network(given, statistics)
    rows = counted(network, inputs)
    assert sum(row["parameters"] for row in rows) == count_parameters(network)
    assert len({row["name"] for row in rows}) == len(rows)
    whole = next(row for row in rows if row["name"] == WHOLE)
    assert whole["output_shape"] == " x ".join(map(str, given.signature().outputs[0].shape))
    recurrent = sum(row["macs"] for row in rows if row["type"] == "Recurrent")
    total = sum(row["macs"] for row in rows)
    # Torch counts a recurrence only where it falls apart into products; LSTMs have a kernel of their own.
    assert of_torch(network, torch.from_numpy(inputs)) in (total, total - recurrent)
    assert counted(network, inputs) == rows
