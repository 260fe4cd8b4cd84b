"""The recurrent network over rows; imported only where torch may be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dl_pipelines.models.image_modules import Normalise, sizes
from dl_pipelines.tasks.base import Signature


class RowsNetwork(nn.Module):
    """uint8 [N, H, W, C] -> logits [N, K]: H steps of W x C numbers."""

    def __init__(
        self, signature: Signature, statistics: Mapping[str, Any], cell: str, hidden: int, layers: int,
        bidirectional: bool, dropout: float,
    ):  # fmt: skip
        super().__init__()
        _, width, channels, classes = sizes(signature)
        kind = {"gru": nn.GRU, "lstm": nn.LSTM}[cell]
        self.normalise, self.hidden, self.both = Normalise(statistics), hidden, bidirectional
        self.rows = kind(width * channels, hidden, layers, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(hidden * (2 if bidirectional else 1), classes))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """See the class."""
        rows = self.normalise(pixels).permute(0, 2, 3, 1).flatten(2)
        states, _ = self.rows(rows)
        last = states[:, -1, : self.hidden]
        if self.both:
            last = torch.cat([last, states[:, 0, self.hidden :]], dim=1)  # which came to the first row last
        return self.head(last)
