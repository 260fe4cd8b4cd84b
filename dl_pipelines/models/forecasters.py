"""The families of forecasters: each is an encoder between the same front and head (see series_network.py).

Torch is imported where a network is made, so that briefs are checked without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, model_validator

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.brief.sections import Training
from dl_pipelines.tasks.base import Task

if TYPE_CHECKING:
    import torch

    from dl_pipelines.models.recipe import Recipe
    from dl_pipelines.models.series_encoders import Encoder
    from dl_pipelines.models.series_front import Front


class Common(BaseParams):
    """Numbers that every forecaster has: width, length of an item's vector, dropout before the output."""

    hidden: int = Field(default=64, ge=4, le=1024)
    item_size: int = Field(default=12, ge=1, le=256)
    dropout: float = Field(default=0.1, ge=0, lt=1)


class Forecaster(ABC):
    """Base: `encoder` is what a family adds."""

    kind = "series"
    name: ClassVar[str]
    template_row: ClassVar[str]
    losses: ClassVar[tuple[str, ...]] = ("quantile_and_deviance",)
    """What `training.loss` may name: the one that mean and quantiles are trained by."""
    loss_settings: ClassVar[tuple[str, ...]] = ()
    """Further fields of `training` that it goes by: none."""
    Params: ClassVar[type[Common]] = Common

    def __init__(self, params: Any):
        self.params = params

    @abstractmethod
    def encoder(self, front: Front, task: Any) -> Encoder:
        """History, future and static sizes are the front's."""

    def network(self, task: Task, statistics: Mapping[str, Any]) -> torch.nn.Module:
        """Frame float32 [N, history + horizon, columns] -> forecast float32 [N, horizon, 1 + quantiles]."""
        from dl_pipelines.models.series_front import Front
        from dl_pipelines.models.series_network import SeriesNetwork

        front = Front(task, statistics, self.params.item_size)  # type: ignore[arg-type]
        return SeriesNetwork(task, front, self.encoder(front, task), self.params.hidden, self.params.dropout)  # type: ignore[arg-type]

    def recipe(self, task: Task, statistics: Mapping[str, Any], training: Training) -> Recipe:
        """One supervised phase, then the calibration of the quantiles."""
        from dl_pipelines.models.series_network import make_recipe

        return make_recipe(self.network(task, statistics), task)  # type: ignore[arg-type]


class LstmAttention(Forecaster):
    """The default: an LSTM whose states each step of the horizon attends to."""

    name = "lstm_attention"
    template_row = "RNN/LSTM/GRU"

    class Params(Common):
        """Layers of the LSTM."""

        layers: int = Field(default=1, ge=1, le=4)

    def encoder(self, front: Front, task: Any) -> Encoder:
        """See Forecaster."""
        from dl_pipelines.models import series_encoders

        sizes = front.history_size, front.future_size, front.static_size
        return series_encoders.LstmAttention(*sizes, self.params.hidden, self.params.layers)


class Gru(Forecaster):
    """A GRU whose last state is the context."""

    name = "gru"
    template_row = "RNN/LSTM/GRU"

    class Params(Common):
        """Layers of the GRU."""

        layers: int = Field(default=1, ge=1, le=4)

    def encoder(self, front: Front, task: Any) -> Encoder:
        """See Forecaster."""
        from dl_pipelines.models import series_encoders

        sizes = front.history_size, front.future_size, front.static_size
        return series_encoders.Gru(*sizes, self.params.hidden, self.params.layers)


class Tcn(Forecaster):
    """Dilated causal convolutions."""

    name = "tcn"
    template_row = "CNN (ConvNet)"

    class Params(Common):
        """Blocks (each doubles the dilation), width of a kernel in steps."""

        blocks: int = Field(default=4, ge=1, le=10)
        kernel: int = Field(default=3, ge=2, le=15)

    def encoder(self, front: Front, task: Any) -> Encoder:
        """See Forecaster."""
        from dl_pipelines.models import series_encoders

        given = self.params
        return series_encoders.Tcn(front.history_size, given.hidden, given.blocks, given.kernel, given.dropout)


class PatchTransformer(Forecaster):
    """A Transformer over patches of one season."""

    name = "patch_transformer"
    template_row = "Transformer"

    class Params(Common):
        """Layers and heads; `hidden` is a multiple of `heads`."""

        layers: int = Field(default=2, ge=1, le=12)
        heads: int = Field(default=4, ge=1, le=16)

        @model_validator(mode="after")
        def _whole_heads(self) -> PatchTransformer.Params:
            if self.hidden % self.heads:
                raise ValueError(f"hidden: a multiple of heads ({self.heads})")
            return self

    def encoder(self, front: Front, task: Any) -> Encoder:
        """See Forecaster."""
        from dl_pipelines.models import series_encoders

        given, about = self.params, task.params
        sizes = front.history_size, front.future_size, front.static_size
        return series_encoders.PatchTransformer(
            *sizes, about.history, about.season, given.hidden, given.layers, given.heads, given.dropout
        )


class Nhits(Forecaster):
    """MLPs at several rates, after N-HiTS."""

    name = "nhits"
    template_row = "Custom Hybrid"

    class Params(Common):
        """Rates of pooling in steps, one stack each."""

        hidden: int = Field(default=128, ge=4, le=1024)
        pools: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(14, 7, 1), min_length=1, max_length=8)

    def encoder(self, front: Front, task: Any) -> Encoder:
        """See Forecaster."""
        from dl_pipelines.models import series_encoders

        given, about = self.params, task.params
        return series_encoders.Nhits(
            front.history_size, front.static_size, about.history, about.horizon, given.hidden, given.pools
        )


class CnnLstm(Forecaster):
    """Convolutions, then an LSTM: a hybrid."""

    name = "cnn_lstm"
    template_row = "Custom Hybrid"

    class Params(Common):
        """Width of a kernel and stride of the second convolution, in steps."""

        kernel: int = Field(default=7, ge=3, le=31)
        stride: int = Field(default=2, ge=1, le=7)

    def encoder(self, front: Front, task: Any) -> Encoder:
        """See Forecaster."""
        from dl_pipelines.models import series_encoders

        given = self.params
        return series_encoders.CnnLstm(front.history_size, given.hidden, given.kernel, given.stride)
