"""Convolutional networks for images of 8 to 224 pixels: a plain one, or a published one adapted to the size.

Plain: blocks of two 3 x 3 convolutions, batch norm and ReLU as in Simonyan and Zisserman (2015) with Ioffe and
Szegedy's normalisation (2015); global average pooling after Lin et al. (2013). Published, as in torchvision, without
its weights: ResNet (He et al., 2016), MobileNetV3 (Howard et al., 2019), EfficientNet (Tan and Le, 2019).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.models.image_family import ImageFamily
from dl_pipelines.tasks.base import Task

if TYPE_CHECKING:
    import torch

WIDTH, BLOCKS = 32, 2


class Cnn(ImageFamily):
    """The default family. One line of the brief, `architecture.family.params`, sets its size."""

    name = "cnn"
    template_row = "CNN (ConvNet)"

    class Params(BaseParams):
        """Which network; of the plain one channels of the first block (doubled in each) and number of blocks.

        Dropout is before the output. Published networks halve small images less often than large ones.
        """

        network: Literal[
            "plain", "resnet18", "resnet34", "resnet50", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0"
        ] = "plain"
        width: int = Field(default=WIDTH, ge=4, le=512)
        blocks: int = Field(default=BLOCKS, ge=1, le=5)
        dropout: float = Field(default=0.1, ge=0, lt=1)

        @model_validator(mode="after")
        def _sizes_are_the_plain_ones(self) -> Cnn.Params:
            if self.network != "plain" and (self.width, self.blocks) != (WIDTH, BLOCKS):
                raise ValueError(f"width and blocks with network: plain only; those of {self.network} are fixed")
            return self

    params: Params

    def network(self, task: Task, statistics: Mapping[str, Any]) -> torch.nn.Module:
        """See ImageFamily.network."""
        from dl_pipelines.models.cnn_modules import build_cnn

        return build_cnn(task.signature(), statistics, **self.params.model_dump())
