"""A recurrent network that reads an image row by row, from above and from below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.models.image_family import ImageFamily
from dl_pipelines.tasks.base import Task

if TYPE_CHECKING:
    import torch


class RnnRows(ImageFamily):
    """A GRU (Cho et al., 2014) or LSTM (Hochreiter and Schmidhuber, 1997); its last states are what is decided by."""

    name = "rnn_rows"
    template_row = "RNN/LSTM/GRU"

    class Params(BaseParams):
        """Which cell, length of its state, layers, whether rows are read from below too, dropout before the output."""

        cell: Literal["gru", "lstm"] = "gru"
        hidden: int = Field(default=64, ge=4, le=1024)
        layers: int = Field(default=1, ge=1, le=4)
        bidirectional: bool = True
        dropout: float = Field(default=0.1, ge=0, lt=1)

    params: Params

    def network(self, task: Task, statistics: Mapping[str, Any]) -> torch.nn.Module:
        """See ImageFamily.network."""
        from dl_pipelines.models.rnn_rows_modules import RowsNetwork

        return RowsNetwork(task.signature(), statistics, **self.params.model_dump())
