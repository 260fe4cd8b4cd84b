"""Transformers over the parts of an image: patches of its pixels (a ViT), or places after convolutions (a hybrid)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.models.image_family import ImageFamily
from dl_pipelines.tasks.base import Task

if TYPE_CHECKING:
    import torch


class Sizes(BaseParams):
    """Length of a place's vector (a multiple of `heads`), number of blocks, heads of each, dropout."""

    width: int = Field(default=64, ge=4, le=1024)
    depth: int = Field(default=4, ge=1, le=24)
    heads: int = Field(default=4, ge=1, le=16)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width: a multiple of heads ({self.heads})")
        return self


class Vit(ImageFamily):
    """A Vision Transformer (Dosovitskiy et al., 2021) with norms before, learned positions and a mean at the end."""

    name = "vit"
    template_row = "Transformer"

    class Params(Sizes):
        """Side of a patch in pixels; None: so that there are about 8 x 8."""

        patch: int | None = Field(default=None, ge=1, le=64)

    params: Params

    def network(self, task: Task, statistics: Mapping[str, Any]) -> torch.nn.Module:
        """See ImageFamily.network."""
        from dl_pipelines.models.attention_modules import build_vit

        return build_vit(task.signature(), statistics, **self.params.model_dump())


class ConvAttention(ImageFamily):
    """A convolutional stem, which sees edges, then attention, which relates what is far apart (Xiao et al., 2021)."""

    name = "conv_attention"
    template_row = "Custom Hybrid"

    class Params(Sizes):
        """Fewer blocks than a Transformer: the stem has done the rest."""

        depth: int = Field(default=2, ge=1, le=24)

    params: Params

    def network(self, task: Task, statistics: Mapping[str, Any]) -> torch.nn.Module:
        """See ImageFamily.network."""
        from dl_pipelines.models.attention_modules import build_conv_attention

        return build_conv_attention(task.signature(), statistics, **self.params.model_dump())
