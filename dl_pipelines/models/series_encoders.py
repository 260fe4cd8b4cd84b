"""Encoders of series: from the history to a context of the whole horizon and of each step. One class for each family.

Each takes history [N, H, A], future [N, F, B] and static [N, S] and gives a `Context`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn

CHANNELS, PARTS = 8, 4
"""Of N-HiTS: columns that the history is squeezed to, numbers that a stack gives for each step."""


class Context(NamedTuple):
    """What was found of the history: `row` [N, R] for the whole horizon, `steps` [N, F, E] for each step; or None."""

    row: torch.Tensor | None = None
    steps: torch.Tensor | None = None


class Encoder(nn.Module):
    """Base: `row_size` and `step_size` are the lengths R and E of the context that it gives, 0 for None."""

    row_size: int = 0
    step_size: int = 0


class Attend(nn.Module):
    """Each step of the horizon asks the encoded history, by scaled dot products (Luong et al., 2015).

    Asked in `size` numbers; the answer is a mean of the states themselves.
    """

    def __init__(self, memory: int, future: int, static: int, size: int):
        super().__init__()
        self.query, self.asker = nn.Linear(future, size), nn.Linear(static, size, bias=False)
        self.key = nn.Linear(memory, size)
        self.scale = 1 / math.sqrt(size)

    def forward(self, memory: torch.Tensor, future: torch.Tensor, static: torch.Tensor) -> torch.Tensor:
        """Memory [N, H, M], future [N, F, B], static [N, S] -> [N, F, M]."""
        query = (self.query(future) + self.asker(static)[:, None, :]) * self.scale
        return torch.softmax(query @ self.key(memory).transpose(1, 2), dim=2) @ memory


class LstmAttention(Encoder):
    """An LSTM (Hochreiter and Schmidhuber, 1997) over the history, its last state and attention over all of them."""

    def __init__(self, history: int, future: int, static: int, hidden: int, layers: int):
        super().__init__()
        self.row_size = self.step_size = hidden
        self.lstm = nn.LSTM(history, hidden, layers, batch_first=True)
        self.attend = Attend(hidden, future, static, max(4, hidden // 2))

    def forward(self, history: torch.Tensor, future: torch.Tensor, static: torch.Tensor) -> Context:
        """See the module."""
        memory, _ = self.lstm(history)
        return Context(memory[:, -1], self.attend(memory, future, static))


class Gru(Encoder):
    """A GRU (Cho et al., 2014); its last state is the context."""

    def __init__(self, history: int, future: int, static: int, hidden: int, layers: int):
        super().__init__()
        self.row_size = hidden
        self.gru = nn.GRU(history, hidden, layers, batch_first=True)

    def forward(self, history: torch.Tensor, future: torch.Tensor, static: torch.Tensor) -> Context:
        """See the module."""
        memory, _ = self.gru(history)
        return Context(memory[:, -1])


class _Causal(nn.Module):
    """Two dilated causal convolutions with a residual connection (Bai, Kolter and Koltun, 2018)."""

    def __init__(self, before: int, after: int, kernel: int, dilation: int, dropout: float):
        super().__init__()
        self.pad = (kernel - 1) * dilation
        self.first = nn.Conv1d(before, after, kernel, dilation=dilation)
        self.second = nn.Conv1d(after, after, kernel, dilation=dilation)
        self.skip = nn.Conv1d(before, after, 1) if before != after else nn.Identity()
        self.drop = nn.Dropout(dropout)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        """[N, A, H] -> [N, E, H]."""
        found = torch.relu(self.first(nn.functional.pad(series, (self.pad, 0))))
        found = torch.relu(self.second(nn.functional.pad(self.drop(found), (self.pad, 0))))
        return found + self.skip(series)


class Tcn(Encoder):
    """Dilated causal convolutions (Bai, Kolter and Koltun, 2018), dilations 1, 2, 4 ...; the last step is context."""

    def __init__(self, history: int, hidden: int, blocks: int, kernel: int, dropout: float):
        super().__init__()
        self.row_size = hidden
        self.blocks = nn.Sequential(
            *(_Causal(history if place == 0 else hidden, hidden, kernel, 2**place, dropout) for place in range(blocks))
        )

    def forward(self, history: torch.Tensor, future: torch.Tensor, static: torch.Tensor) -> Context:
        """See the module."""
        return Context(self.blocks(history.transpose(1, 2))[:, :, -1])


class PatchTransformer(Encoder):
    """Patches of one season as tokens of a Transformer (Nie et al., 2023), asked by each step of the horizon."""

    def __init__(
        self, history: int, future: int, static: int, steps: int, patch: int, hidden: int, layers: int, heads: int,
        dropout: float,
    ):  # fmt: skip
        super().__init__()
        self.step_size, self.patch = hidden, patch
        self.embed = nn.Linear(history * patch, hidden)
        self.place = nn.Parameter(torch.randn(steps // patch, hidden) * 0.02)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(hidden, heads, 2 * hidden, dropout, "gelu", batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.attend = Attend(hidden, future, static, max(4, hidden // 2))

    def forward(self, history: torch.Tensor, future: torch.Tensor, static: torch.Tensor) -> Context:
        """See the module."""
        tokens = history.reshape(history.shape[0], history.shape[1] // self.patch, self.patch * history.shape[2])
        found = self.embed(tokens) + self.place
        for layer in self.layers:
            found = layer(found)
        return Context(steps=self.attend(found, future, static))


class Stretch(nn.Module):
    """[N, C, knots] -> [N, C, steps], linear between the knots, as torch's `interpolate` without `align_corners`.

    That has no gradient on a GPU that gives the same bits each time; this one has.
    """

    left: torch.Tensor
    right: torch.Tensor
    weight: torch.Tensor

    def __init__(self, knots: int, steps: int):
        super().__init__()
        place = ((torch.arange(steps) + 0.5) * knots / steps - 0.5).clamp(0, knots - 1)
        left = place.long()
        self.register_buffer("left", left, persistent=False)
        self.register_buffer("right", (left + 1).clamp_max(knots - 1), persistent=False)
        self.register_buffer("weight", place - left, persistent=False)

    def forward(self, found: torch.Tensor) -> torch.Tensor:
        """See the class."""
        before = found.index_select(2, self.left)
        return before + (found.index_select(2, self.right) - before) * self.weight


class Nhits(Encoder):
    """Stacks of MLPs on the history pooled at several rates, each at its own rate (after Challu et al., 2023)."""

    def __init__(self, history: int, static: int, steps: int, horizon: int, hidden: int, pools: tuple[int, ...]):
        super().__init__()
        pools = tuple(min(pool, steps) for pool in pools)
        self.step_size, self.horizon, self.pools = PARTS * len(pools), horizon, pools
        self.squeeze = nn.Linear(history, CHANNELS)
        self.knots = [max(1, horizon // pool) for pool in pools]
        self.stacks = nn.ModuleList(
            nn.Sequential(
                nn.Linear(CHANNELS * -(-steps // pool) + static, hidden),
                nn.ReLU(),
                nn.Linear(hidden, hidden),
                nn.ReLU(),
                nn.Linear(hidden, PARTS * knots),
            )
            for pool, knots in zip(pools, self.knots, strict=True)
        )
        self.stretches = nn.ModuleList(Stretch(knots, horizon) for knots in self.knots)

    def forward(self, history: torch.Tensor, future: torch.Tensor, static: torch.Tensor) -> Context:
        """See the module."""
        series, parts = self.squeeze(history).transpose(1, 2), []
        given = zip(self.pools, self.knots, self.stacks, self.stretches, strict=True)
        for pool, knots, stack, stretch in given:
            pooled = nn.functional.max_pool1d(series, pool, ceil_mode=True) if pool > 1 else series
            found = stack(torch.cat([pooled.flatten(1), static], dim=1)).reshape(history.shape[0], PARTS, knots)
            parts.append(stretch(found))
        return Context(steps=torch.cat(parts, dim=1).transpose(1, 2))


class CnnLstm(Encoder):
    """Convolutions that shorten the history, then an LSTM over what they find (Shi et al., 2015, in one dimension)."""

    def __init__(self, history: int, hidden: int, kernel: int, stride: int):
        super().__init__()
        self.row_size = hidden
        self.convolve = nn.Sequential(
            nn.Conv1d(history, hidden, kernel, padding=kernel // 2), nn.ReLU(),
            nn.Conv1d(hidden, hidden, kernel, stride=stride, padding=kernel // 2), nn.ReLU(),
        )  # fmt: skip
        self.lstm = nn.LSTM(hidden, hidden, batch_first=True)

    def forward(self, history: torch.Tensor, future: torch.Tensor, static: torch.Tensor) -> Context:
        """See the module."""
        memory, _ = self.lstm(self.convolve(history.transpose(1, 2)).transpose(1, 2))
        return Context(memory[:, -1])
