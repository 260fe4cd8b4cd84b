"""What every family of forecasters shares: the front, an encoder of its own, the head, the loss, the calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from dl_pipelines.models.recipe import Objective, Phase, Recipe
from dl_pipelines.models.series_encoders import Encoder
from dl_pipelines.models.series_front import Front
from dl_pipelines.tasks.series import EXTRA, SCALE

if TYPE_CHECKING:
    from dl_pipelines.tasks.forecasting import Forecasting

BATCH = 1024


class SeriesNetwork(nn.Module):
    """frame float32 [N, H + F, C] -> forecast float32 [N, F, 1 + Q]: the mean, then the quantiles, in units.

    An encoder takes (history [N, H, A], future [N, F, B], static [N, S]) and gives a `Context`.
    The forecast is the window's level x its seasonal profile x exp(what is learned), or level x (profile + learned)
    where the target may be negative. Quantiles never cross.
    """

    calibration: torch.Tensor

    def __init__(self, task: Forecasting, front: Front, encoder: Encoder, hidden: int, dropout: float):
        super().__init__()
        given = task.params
        self.front, self.encoder, self.negative = front, encoder, given.negative
        self.middle, self.quantiles = given.quantiles.index(0.5), len(given.quantiles)
        # What is the same on every step is multiplied once a row.
        self.of_row = nn.Linear(encoder.row_size + front.static_size, hidden, bias=False)
        self.of_step = nn.Linear(encoder.step_size + front.future_size, hidden)
        last = nn.Linear(hidden, 1 + self.quantiles)
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)
        self.head = nn.Sequential(
            nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, hidden), nn.GELU(), last,
        )  # fmt: skip
        self.register_buffer("calibration", torch.full((1 + self.quantiles,), 0.0 if self.negative else 1.0))

    def forward(self, frame: torch.Tensor) -> torch.Tensor:
        """See the class."""
        seen = self.front(frame)
        row, steps = self.encoder(seen.history, seen.future, seen.static)
        of_row = self.of_row(seen.static if row is None else torch.cat([row, seen.static], dim=1))
        of_step = self.of_step(seen.future if steps is None else torch.cat([steps, seen.future], dim=2))
        found = self.head(of_step + of_row[:, None, :])
        mean, spread = found[:, :, :1], nn.functional.softplus(found[:, :, 1:] - 2)
        # Distances from the median outwards: the quantiles rise by construction.
        middle = found[:, :, 1 + self.middle : 2 + self.middle] * 0.3
        below = -spread[:, :, : self.middle].flip(2).cumsum(2).flip(2)
        above = spread[:, :, self.middle + 1 :].cumsum(2)
        offsets = torch.cat([below, torch.zeros_like(middle), above], dim=2) + middle
        base = seen.base[:, :, None]
        if self.negative:
            found = torch.cat([base + mean, base + mean + offsets], dim=2) + self.calibration
        else:
            centre = base * torch.exp(mean.clamp(-6, 6))
            found = torch.cat([centre, centre * torch.exp(offsets.clamp(-6, 6))], dim=2) * self.calibration
        return torch.cat([found[:, :, :1], self._rising(found[:, :, 1:])], dim=2) * seen.level

    def _rising(self, quantiles: torch.Tensor) -> torch.Tensor:
        """None below the one before it: calibration, which comes after training, moves each by itself."""
        if self.training:
            return quantiles
        found = [quantiles[:, :, :1]]
        for place in range(1, quantiles.shape[2]):
            found.append(torch.maximum(found[-1], quantiles[:, :, place : place + 1]))
        return torch.cat(found, dim=2)


class ForecastLoss(nn.Module):
    """Of forecasts [N, F, 1 + Q] in units against targets [N, F + 4] with NaN where nothing is known.

    Everything in units of the history's level, rows weighted by the root of it: half way between items that count alike
    and units that do. The mean's part is the Poisson deviance (squared error where a target may be negative), which the
    mean minimises; the quantiles' is the pinball loss (Koenker and Bassett, 1978).
    """

    levels: torch.Tensor

    def __init__(self, task: Forecasting):
        super().__init__()
        self.negative = task.params.negative
        self.register_buffer("levels", torch.tensor(task.params.quantiles))

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """A number."""
        level = targets[:, SCALE][:, None]
        truth = targets[:, :-EXTRA] / level
        known = torch.isfinite(truth)
        truth = torch.where(known, truth, torch.zeros_like(truth))
        found = outputs / level[:, :, None]
        mean = found[:, :, 0]
        if self.negative:
            first = (mean - truth) ** 2
        else:
            rate = mean.clamp_min(1e-4)
            count = truth.clamp_min(0)
            first = 2 * (rate - count * torch.log(rate) + torch.xlogy(count, count) - count)
        if self.levels.device != outputs.device:
            self.to(outputs.device)  # copied once; later steps find them there
        apart = truth[:, :, None] - found[:, :, 1:]
        second = torch.maximum(self.levels * apart, (self.levels - 1) * apart).mean(dim=2)
        weight = torch.sqrt(level) * known
        return ((first + 4 * second) * weight).sum() / weight.sum().clamp_min(1e-6)


def calibrate(network: SeriesNetwork, quantiles: tuple[float, ...], inputs: np.ndarray, targets: np.ndarray) -> None:
    """Set the calibration so that each quantile covers its share of the validation values.

    Split conformal prediction on a quantile's own scale (Romano, Patterson and Candes, 2019): the factor (or, where the
    target may be negative, the distance in levels) that moves a quantile to its nominal coverage. What the quantile
    before it covers already, it covers too, whatever its factor: they never cross. The mean moves as the median does.
    """
    network.eval()
    network.calibration.fill_(0.0 if network.negative else 1.0)
    found, levels = [], []
    with torch.no_grad():
        for at in range(0, len(inputs), BATCH):
            frames = torch.from_numpy(np.array(inputs[at : at + BATCH]))
            found.append(network(frames).numpy().astype(np.float64))
            if network.negative:
                levels.append(network.front(frames).level[:, 0].numpy().astype(np.float64))
    forecast, truth = np.concatenate(found), targets[:, :-EXTRA].astype(np.float64)
    level = np.concatenate(levels) if levels else np.ones((len(truth), 1))
    known = np.isfinite(truth)
    if not known.any():
        return
    before = np.full(truth.shape, -np.inf)
    for place, share in enumerate(quantiles):
        mine = forecast[:, :, 1 + place]
        apart = (truth - mine) / level if network.negative else truth / np.maximum(mine, 1e-9)
        apart = np.where(truth <= before, apart[known].min(), apart)
        moved = float(np.quantile(apart[known], share))
        moved = moved if network.negative else min(max(moved, 0.1), 10.0)
        network.calibration[1 + place] = moved
        before = np.maximum(before, mine + moved * level if network.negative else mine * moved)
    network.calibration[0] = network.calibration[1 + network.middle]


def make_recipe(network: SeriesNetwork, task: Forecasting) -> Recipe:
    """One supervised phase, then the calibration."""
    criterion = ForecastLoss(task)

    def loss(modules: Mapping[str, Any], inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return criterion(modules["network"](inputs), targets)

    def finish(inputs: np.ndarray, targets: np.ndarray) -> None:
        calibrate(network, task.params.quantiles, inputs, targets)

    phase = Phase("supervised", (Objective("quantile_and_deviance", ("network",), loss),))
    return Recipe({"network": network}, "network", (phase,), finish)
