"""Encoders of series: from the history to a context for each step of the horizon. One class for each family.

Each takes history [N, H, A], future [N, F, B] and static [N, S] and gives [N, F, size].
"""

from __future__ import annotations

import math

import torch
from torch import nn

CHANNELS, PARTS = 8, 4
"""Of N-HiTS: columns that the history is squeezed to, numbers that a stack gives for each step."""


class Encoder(nn.Module):
    """Base: `size` is the length of the context that it gives."""

    size: int


class Attend(nn.Module):
    """Each step of the horizon asks the encoded history, by scaled dot products (Vaswani et al., 2017)."""

    def __init__(self, memory: int, query: int, size: int):
        super().__init__()
        self.query, self.key, self.value = nn.Linear(query, size), nn.Linear(memory, size), nn.Linear(memory, size)
        self.scale = 1 / math.sqrt(size)

    def forward(self, memory: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        """Memory [N, H, M], query [N, F, Q] -> [N, F, size]."""
        weights = torch.softmax(self.query(query) @ self.key(memory).transpose(1, 2) * self.scale, dim=2)
        return weights @ self.value(memory)


def spread(context: torch.Tensor, future: torch.Tensor) -> torch.Tensor:
    """One context [N, E] for every step of the horizon: [N, F, E]."""
    return context[:, None, :].expand(-1, future.shape[1], -1)


class LstmAttention(Encoder):
    """An LSTM (Hochreiter and Schmidhuber, 1997) over the history, its last state and attention over all of them."""

    def __init__(self, history: int, future: int, static: int, hidden: int, layers: int):
        super().__init__()
        self.size = 2 * hidden
        self.lstm = nn.LSTM(history, hidden, layers, batch_first=True)
        self.attend = Attend(hidden, future + static, hidden)

    def forward(self, history: torch.Tensor, future: torch.Tensor, static: torch.Tensor) -> torch.Tensor:
        """See the module."""
        memory, _ = self.lstm(history)
        query = torch.cat([future, spread(static, future)], dim=2)
        return torch.cat([spread(memory[:, -1], future), self.attend(memory, query)], dim=2)


class Gru(Encoder):
    """A GRU (Cho et al., 2014); its last state is the context."""

    def __init__(self, history: int, future: int, static: int, hidden: int, layers: int):
        super().__init__()
        self.size = hidden
        self.gru = nn.GRU(history, hidden, layers, batch_first=True)

    def forward(self, history: torch.Tensor, future: torch.Tensor, static: torch.Tensor) -> torch.Tensor:
        """See the module."""
        memory, _ = self.gru(history)
        return spread(memory[:, -1], future)


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
        self.size = hidden
        self.blocks = nn.Sequential(
            *(_Causal(history if place == 0 else hidden, hidden, kernel, 2**place, dropout) for place in range(blocks))
        )

    def forward(self, history: torch.Tensor, future: torch.Tensor, static: torch.Tensor) -> torch.Tensor:
        """See the module."""
        return spread(self.blocks(history.transpose(1, 2))[:, :, -1], future)


class PatchTransformer(Encoder):
    """Patches of one season as tokens of a Transformer (Nie et al., 2023), asked by each step of the horizon."""

    def __init__(
        self, history: int, future: int, static: int, steps: int, patch: int, hidden: int, layers: int, heads: int,
        dropout: float,
    ):  # fmt: skip
        super().__init__()
        self.size, self.patch = hidden, patch
        self.embed = nn.Linear(history * patch, hidden)
        self.place = nn.Parameter(torch.randn(steps // patch, hidden) * 0.02)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(hidden, heads, 2 * hidden, dropout, "gelu", batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.attend = Attend(hidden, future + static, hidden)

    def forward(self, history: torch.Tensor, future: torch.Tensor, static: torch.Tensor) -> torch.Tensor:
        """See the module."""
        tokens = history.reshape(history.shape[0], history.shape[1] // self.patch, self.patch * history.shape[2])
        found = self.embed(tokens) + self.place
        for layer in self.layers:
            found = layer(found)
        return self.attend(found, torch.cat([future, spread(static, future)], dim=2))


class Nhits(Encoder):
    """Stacks of MLPs on the history pooled at several rates, each at its own rate (after Challu et al., 2023)."""

    def __init__(self, history: int, static: int, steps: int, horizon: int, hidden: int, pools: tuple[int, ...]):
        super().__init__()
        pools = tuple(min(pool, steps) for pool in pools)
        self.size, self.horizon, self.pools = PARTS * len(pools), horizon, pools
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

    def forward(self, history: torch.Tensor, future: torch.Tensor, static: torch.Tensor) -> torch.Tensor:
        """See the module."""
        series, parts = self.squeeze(history).transpose(1, 2), []
        for pool, knots, stack in zip(self.pools, self.knots, self.stacks, strict=True):
            pooled = nn.functional.max_pool1d(series, pool, ceil_mode=True) if pool > 1 else series
            found = stack(torch.cat([pooled.flatten(1), static], dim=1)).reshape(history.shape[0], PARTS, knots)
            parts.append(nn.functional.interpolate(found, size=self.horizon, mode="linear", align_corners=False))
        return torch.cat(parts, dim=1).transpose(1, 2)


class CnnLstm(Encoder):
    """Convolutions that shorten the history, then an LSTM over what they find (Shi et al., 2015, in one dimension)."""

    def __init__(self, history: int, hidden: int, kernel: int, stride: int):
        super().__init__()
        self.size, self.pad = hidden, kernel // 2
        self.convolve = nn.Sequential(
            nn.Conv1d(history, hidden, kernel, padding=kernel // 2), nn.ReLU(),
            nn.Conv1d(hidden, hidden, kernel, stride=stride, padding=kernel // 2), nn.ReLU(),
        )  # fmt: skip
        self.lstm = nn.LSTM(hidden, hidden, batch_first=True)

    def forward(self, history: torch.Tensor, future: torch.Tensor, static: torch.Tensor) -> torch.Tensor:
        """See the module."""
        memory, _ = self.lstm(self.convolve(history.transpose(1, 2)).transpose(1, 2))
        return spread(memory[:, -1], future)
