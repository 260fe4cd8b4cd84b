"""Order, sign and calibration of quantiles; the loss against scikit-learn's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_pinball_loss, mean_poisson_deviance, mean_squared_error

from dl_pipelines.brief.sections import Training
from dl_pipelines.models.forecasters import Gru
from dl_pipelines.models.series_network import ForecastLoss, SeriesNetwork, calibrate
from dl_pipelines.tasks.base import Rows
from dl_pipelines.tasks.forecasting import Forecasting
from tests.series import demand, make_table, make_task

LEVELS = (0.05, 0.2, 0.5, 0.9)
SIGNED = np.sin(np.arange(200))[None] * [[9.0], [3.0], [1.0]] + np.random.default_rng(0).normal(0, 1, (3, 200))


def made(**changed: Any) -> tuple[Forecasting, SeriesNetwork, Rows]:
    """A network with random weights large enough to disturb the order of its quantiles, and rows to ask it about."""
    torch.manual_seed(0)
    task = make_task(quantiles=LEVELS, stride=1, **changed)
    table = make_table(task, SIGNED if changed.get("negative") else demand(200))
    network: Any = Gru(Gru.Params(hidden=8)).network(task, task.fit(table, np.ones(table.num_rows, bool)))
    with torch.no_grad():
        for parameter in network.head.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    return task, network.eval(), task.rows(table)


def answers(network: SeriesNetwork, rows: Rows) -> np.ndarray:
    with torch.no_grad():
        return network(torch.from_numpy(rows.inputs)).numpy()


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("moved", [None, [1.0, 1.5, 0.2, 3.0, 0.1]])
def test_quantiles_rise_and_have_the_sign_that_is_allowed(negative: bool, moved: list[float] | None):
    _, network, rows = made(negative=negative)
    if moved:
        network.calibration.copy_(torch.tensor(moved))
    found = answers(network, rows)
    assert found.shape == (len(rows), 3, 1 + len(LEVELS))
    assert np.isfinite(found).all()
    assert (np.diff(found[:, :, 1:], axis=2) >= 0).all()
    assert (found.min() < 0) == negative


@pytest.mark.parametrize("negative", [False, True])
def test_calibrated_quantiles_cover_their_share(negative: bool):
    task, network, rows = made(negative=negative)
    rows.inputs[::3, :6, 2] = np.where(np.arange(6) % 4 == 1, np.nan, rows.inputs[::3, :6, 2])
    before = answers(network, rows)
    calibrate(network, task.params.quantiles, rows.inputs, rows.targets)
    found, truth = answers(network, rows), rows.targets[:, :3]
    known = np.isfinite(truth)
    assert not known.all() or negative  # missing truth says nothing
    for place, share in enumerate(LEVELS, 1):
        assert (truth <= found[:, :, place])[known].mean() == pytest.approx(share, abs=2 / known.sum())
    worst = [abs((truth <= before[:, :, place])[known].mean() - share) for place, share in enumerate(LEVELS, 1)]
    assert max(worst) > 0.05
    middle, level = 1 + LEVELS.index(0.5), network.front(torch.from_numpy(rows.inputs)).level[:, 0].detach().numpy()
    moved = found[:, :, 0] / before[:, :, 0] if not negative else (found[:, :, 0] - before[:, :, 0]) / level
    np.testing.assert_allclose(moved, network.calibration[middle].item(), rtol=1e-3, atol=1e-3)


def test_nothing_known_calibrates_nothing():
    task, network, rows = made()
    targets = rows.targets.copy()
    targets[:, :3] = np.nan
    calibrate(network, task.params.quantiles, rows.inputs, targets)
    assert network.calibration.tolist() == [1] * 5


@pytest.mark.parametrize("negative", [False, True])
def test_the_loss_is_scikit_learns(negative: bool):
    task, network, rows = made(negative=negative)
    fine = rows.take(np.asarray(np.isfinite(rows.targets).all(axis=1)))
    outputs = answers(network, fine).astype(np.float64)
    found = ForecastLoss(task)(torch.from_numpy(outputs), torch.from_numpy(fine.targets).double()).item()
    level = fine.targets[:, -1:].astype(np.float64)
    truth, weight = (fine.targets[:, :3] / level).ravel(), np.repeat(np.sqrt(level[:, 0]), 3)
    mine = (outputs / level[:, :, None]).reshape(len(truth), -1)
    of_mean = mean_squared_error if negative else mean_poisson_deviance
    first = of_mean(truth, mine[:, 0] if negative else mine[:, 0].clip(1e-4), sample_weight=weight)
    second = np.mean([mean_pinball_loss(truth, mine[:, place], sample_weight=weight, alpha=share)
                      for place, share in enumerate(LEVELS, 1)])  # fmt: skip
    assert found == pytest.approx(first + 4 * second, rel=1e-4)


def test_what_is_not_known_does_not_matter_and_zeros_do_no_harm():
    task, network, rows = made()
    targets = torch.from_numpy(rows.targets[:8].copy())
    targets[:, 1], targets[:4, 0], targets[4, 2] = torch.nan, 0, -1
    inputs, loss = torch.from_numpy(rows.inputs[:8]), ForecastLoss(task)
    outputs = network(inputs)
    other = outputs.detach().clone()
    other[:, 1] = 1e6
    assert loss(outputs, targets).item() == pytest.approx(loss(other, targets).item())
    loss(outputs, targets).backward()
    assert all(torch.isfinite(value.grad).all() for value in network.parameters() if value.grad is not None)
    targets[:, :3] = torch.nan
    assert loss(outputs.detach(), targets).item() == 0


def test_the_recipe_calibrates_when_it_ends():
    task, network, rows = made()
    table = make_table(task, demand(200))
    family = Gru(Gru.Params(hidden=8))
    recipe = family.recipe(task, task.fit(table, np.ones(table.num_rows, bool)), Training())
    assert [phase.name for phase in recipe.phases] == ["supervised"]
    assert recipe.calibrate is not None
    recipe.calibrate(rows.inputs, rows.targets)
    served: Any = recipe.network
    assert (served.calibration != 1).any()
    assert network.calibration.tolist() == [1] * 5
