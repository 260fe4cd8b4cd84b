"""Times of layers on a clock of our own: exclusive, adding up, without what disturbs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dl_pipelines.models import profile as profiling
from dl_pipelines.models.counting import counted
from dl_pipelines.models.layers import BETWEEN, WHOLE
from dl_pipelines.models.profile import profile


class Clock:
    """Seconds that pass only where a layer says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Takes(nn.Module):
    """A layer that takes its time for each record; its block does, too."""

    def __init__(self, clock: Clock, seconds: float, inside: nn.Module | None = None):
        super().__init__()
        self.clock, self.seconds, self.inside = clock, seconds, inside

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.clock.now += self.seconds * len(inputs)
        return inputs if self.inside is None else self.inside(inputs)


def test_times_are_exclusive_and_add_up(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(profiling, "_clock", lambda batch: clock)
    block = Takes(clock, 0.0005, nn.Sequential(nn.ReLU(), Takes(clock, 0.002)))
    network = nn.Sequential(Takes(clock, 0.001), block, nn.Linear(3, 2)).train()
    threads = torch.get_num_threads()
    found = profile(network, np.zeros((3, 3), np.float32), seconds=0.01)
    rows, times = found.rows, found.times
    size = times["batch"]
    spent = {row["name"]: ms / size for row, ms in zip(rows, times["by_layer"], strict=True)}
    assert spent == pytest.approx({"0": 1, "1": 0.5, "1.inside.0": 0, "1.inside.1": 2, "2": 0, WHOLE: 0})
    assert times["by_kind"][BETWEEN] == pytest.approx(3.5 * size)
    assert times["sum_ms"] == pytest.approx(times["end_to_end_ms"]) == pytest.approx(3.5 * size)
    assert network.training and not any(module._forward_hooks for module in network.modules())
    assert torch.backends.mha.get_fastpath_enabled() and torch.get_num_threads() == threads


def test_the_batch_grows_until_looking_costs_little(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(profiling, "_clock", lambda batch: clock)
    network = nn.Sequential(Takes(clock, 1e-4))
    rows = len(counted(network, np.zeros((1, 3), np.float32)))
    needed = rows * profiling.HOOK_SECONDS / profiling.HOOK_SHARE
    size = profile(network, np.zeros((1, 3), np.float32), seconds=0.01).times["batch"]
    assert size / 2 * 1e-4 < needed <= size * 1e-4
    network[0].seconds = 0.0
    assert profile(network, np.zeros((1, 3), np.float32), seconds=0.01).times["batch"] == profiling.MOST


def test_a_slow_round_is_left_out(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(profiling, "_clock", lambda batch: clock)

    class Hiccup(Takes):
        calls = 0

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            self.clock.now += 5.0 if self.calls % 5 == 0 else 0.0
            return super().forward(inputs)

    times = profile(nn.Sequential(Hiccup(clock, 0.1)), np.zeros((1, 3), np.float32), seconds=0.01).times
    assert times["sum_ms"] == pytest.approx(100) == times["end_to_end_ms"]
