"""Each family: its shapes, its gradients, its layers, its training, and the same answers after export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load, save

from dl_pipelines.brief.references import FamilyRef
from dl_pipelines.brief.sections import AugmentationPlan, Training
from dl_pipelines.data.augmentation import Online
from dl_pipelines.inference.export import export_onnx
from dl_pipelines.inference.runtimes import open_runtime
from dl_pipelines.models.layers import count_parameters, layer_table
from dl_pipelines.models.registry import FAMILIES
from dl_pipelines.models.series_encoders import Stretch
from dl_pipelines.models.series_front import Seen
from dl_pipelines.models.series_network import SeriesNetwork
from dl_pipelines.tasks.base import Rows
from dl_pipelines.tasks.forecasting import Forecasting
from dl_pipelines.training.communicators.single import SingleCommunicator
from dl_pipelines.training.loop import Trainer
from tests.series import demand, make_table, make_task

NAMES = ("lstm_attention", "gru", "tcn", "patch_transformer", "nhits", "cnn_lstm")
LAYERS = {
    "lstm_attention": {"Recurrent"}, "gru": {"Recurrent"}, "tcn": {"Convolutional"},
    "patch_transformer": {"Attention", "Layer Norm"}, "nhits": set(), "cnn_lstm": {"Convolutional", "Recurrent"},
}  # fmt: skip


@pytest.fixture(scope="module")
def task() -> Forecasting:
    """Every kind of column and strategy, holidays, weekly steps: all that a front can have in its graph."""
    return make_task(
        step_days=7, season=6, history=12, country="DE", censored_by="stock_out",
        missing={"price": "model", "stock_out": "seasonal"}, outliers={"price": "flag"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def table(task: Forecasting):
    return make_table(task, demand(120))


@pytest.fixture(scope="module")
def statistics(task: Forecasting, table) -> dict[str, Any]:
    return task.fit(table, np.ones(table.num_rows, bool))


@pytest.fixture(scope="module")
def rows(task: Forecasting, table) -> Rows:
    return task.rows(table, training=True)


@pytest.fixture(scope="module")
def frames(rows: Rows) -> np.ndarray:
    """With holes everywhere, an item that is new, and one of which nothing is known."""
    found, rng = rows.inputs[:60].copy(), np.random.default_rng(0)
    columns = found[:, :, 2:]
    columns[rng.random(columns.shape) < 0.2] = np.nan
    found[0, :, 1], found[1, :, 2:] = 5, np.nan
    found[2:9, :12, 3] = 1
    return found


def family(name: str) -> Any:
    return FAMILIES.make(FamilyRef(name=name, params={"hidden": 8}))


def network_of(name: str, task: Forecasting, statistics: dict[str, Any]) -> torch.nn.Module:
    torch.manual_seed(0)
    network = family(name).network(task, statistics)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return network.eval()


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_learns_and_every_answer_is_finite(name, task, statistics, rows, frames):
    network = network_of(name, task, statistics)
    found = network(torch.from_numpy(frames))
    assert found.shape == (60, 3, 4)
    assert torch.isfinite(found).all()
    recipe = family(name).recipe(task, statistics, Training())
    recipe.network.train()
    loss = (
        recipe.phases[0]
        .objectives[0]
        .loss(recipe.modules, torch.from_numpy(rows.inputs), torch.from_numpy(rows.targets))
    )
    loss.backward()
    still = [name for name, value in recipe.network.named_parameters() if value.grad is None or not value.grad.any()]
    assert still == []


@pytest.mark.parametrize("name", NAMES)
def test_the_layer_table_has_its_layers(name, task, statistics):
    network = family(name).network(task, statistics)
    table = layer_table(network)
    assert {row["type"] for row in table} >= {"Embedding", "Dense/FC", *LAYERS[name]}
    assert sum(row["parameters"] for row in table) == count_parameters(network)


@pytest.mark.parametrize("name", NAMES)
def test_weights_and_statistics_are_all_that_is_served(name, task, statistics, frames):
    network = network_of(name, task, statistics)
    torch.manual_seed(9)
    again = family(name).network(task, statistics).eval()
    again.load_state_dict(load(save(network.state_dict())))
    with torch.no_grad():
        assert torch.equal(network(torch.from_numpy(frames)), again(torch.from_numpy(frames)))


@pytest.mark.parametrize("name", NAMES)
def test_an_epoch_of_training_lowers_the_loss(name, task, statistics, rows, tmp_path):
    torch.manual_seed(0)
    training = Training(epochs=2, batch_size=32, learning_rate=0.01)
    recipe = family(name).recipe(task, statistics, training)
    trainer = Trainer(recipe, task, training, Online(AugmentationPlan()), SingleCommunicator())
    some = rows.take(np.arange(96))
    arrays = some.inputs, some.targets, some.ids
    first, second = trainer.run(arrays, arrays, tmp_path)
    assert second.train_loss < first.train_loss
    assert set(second.validation) >= {"wape", "pinball", "coverage"}


@pytest.mark.parametrize(("knots", "steps"), [(1, 14), (2, 14), (3, 7), (14, 14), (5, 3)])
def test_stretching_is_torchs_interpolation(knots, steps):
    found = torch.randn(4, 3, knots, requires_grad=True)
    wanted = torch.nn.functional.interpolate(found, size=steps, mode="linear", align_corners=False)
    torch.testing.assert_close(Stretch(knots, steps)(found), wanted)
    weight = torch.randn_like(wanted)
    ours, theirs = (
        torch.autograd.grad((made * weight).sum(), found)[0] for made in (Stretch(knots, steps)(found), wanted)
    )
    torch.testing.assert_close(ours, theirs)


def check_export(network: torch.nn.Module, task: Forecasting, frames: np.ndarray, folder: Path) -> None:
    """One row, several, all, in both runtimes."""
    with torch.no_grad():
        reference = network(torch.from_numpy(frames)).numpy()
    path = export_onnx(network, task, folder / "model.onnx")
    for runtime in ("onnxruntime", "openvino"):
        session = open_runtime(runtime, path)
        for count in (1, 7, len(frames)):
            found = task.parity(reference[:count], session.run(frames[:count]), 1e-4)
            assert found.passed, f"{runtime}, {count} rows: {found.summary}"


def test_all_that_a_front_can_hold_answers_alike_when_exported(task, statistics, frames, tmp_path):
    check_export(network_of(NAMES[0], task, statistics), task, frames, tmp_path)


class Bare(torch.nn.Module):
    """A front that hands on what it is given, so that the exported graph is the encoder's and the head's alone."""

    history_size = future_size = static_size = 3

    def forward(self, frame: torch.Tensor) -> Seen:
        """Of frames [N, 9, 3]."""
        level, base = frame[:, :1, :1].abs() + 1, frame[:, 6:, 0].abs()
        return Seen(frame[:, :6], frame[:, 6:], frame[:, 0], level, base)


@pytest.mark.parametrize("name", NAMES[1:])
def test_each_encoder_answers_alike_when_exported(name, tmp_path):
    """Behind a bare front: exporting takes as long as the graph is large, and the front is the same for all."""
    task, front = make_task(known=(), observed=(), categories=()), Bare()
    torch.manual_seed(0)
    network = SeriesNetwork(task, front, family(name).encoder(front, task), 8, 0.1).eval()  # type: ignore[arg-type]
    frames = np.random.default_rng(0).normal(size=(60, 9, 3)).astype(np.float32)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    check_export(network, task, frames, tmp_path)


def test_pools_longer_than_the_history_are_cut(task, statistics, frames):
    params = {"hidden": 8, "pools": [1000, 5, 1]}
    network = FAMILIES.make(FamilyRef(name="nhits", params=params)).network(task, statistics)
    assert network(torch.from_numpy(frames)).shape == (60, 3, 4)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("patch_transformer", {"hidden": 10, "heads": 4}, r"hidden: a multiple of heads \(4\)"),
        ("nhits", {"pools": [0]}, "greater than or equal to 1"),
        ("gru", {"hidden": 2}, "greater than or equal to 4"),
        ("tcn", {"layers": 2}, "Extra inputs are not permitted"),
    ],
)
def test_wrong_params(name: str, params: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        FAMILIES.make(FamilyRef(name=name, params=params))
