"""Convolutional networks for images of 8 to 224 pixels: a plain one, or a published one adapted to the size.

Plain: blocks of 3 x 3 convolutions, batch norm and ReLU as in Simonyan and Zisserman (2015) with Ioffe and
Szegedy's normalisation (2015); global average pooling after Lin et al. (2013). Published, as in torchvision, without
its weights: ResNet (He et al., 2016), MobileNetV3 (Howard et al., 2019), EfficientNet (Tan and Le, 2019).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.models.elastic import Point, Space, scaled
from dl_pipelines.models.image_family import ImageFamily
from dl_pipelines.tasks.base import Task

if TYPE_CHECKING:
    import torch

WIDTH, BLOCKS, DEPTH, MOST_BLOCKS = 32, 2, 2, 5
Channels = Annotated[int, Field(ge=1, le=512)]
Convolutions = Annotated[int, Field(ge=1, le=8)]


class Cnn(ImageFamily):
    """The default family. One line of the brief, `architecture.family.params`, sets its size."""

    name = "cnn"
    template_row = "CNN (ConvNet)"

    class Params(BaseParams):
        """Which network; of the plain one channels of the first block (doubled in each) and number of blocks.

        `widths` and `depths` say it block by block instead. Dropout is before the output. Published networks halve
        small images less often than large ones.
        """

        network: Literal[
            "plain", "resnet18", "resnet34", "resnet50", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0"
        ] = "plain"
        width: int = Field(default=WIDTH, ge=4, le=512)
        blocks: int = Field(default=BLOCKS, ge=1, le=MOST_BLOCKS)
        widths: tuple[Channels, ...] | None = Field(
            default=None, min_length=1, max_length=MOST_BLOCKS,
            description="channels of each block, in place of width and blocks",
        )  # fmt: skip
        depths: tuple[Convolutions, ...] | None = Field(
            default=None, description="convolutions of each block; None: two"
        )
        dropout: float = Field(default=0.1, ge=0, lt=1)

        @model_validator(mode="after")
        def _sizes_are_the_plain_ones(self) -> Cnn.Params:
            sized = (self.width, self.blocks) != (WIDTH, BLOCKS)
            if self.network != "plain" and (sized or self.widths or self.depths):
                raise ValueError(f"width and blocks with network: plain only; those of {self.network} are fixed")
            if self.widths and sized:
                raise ValueError("either widths, or width and blocks")
            if self.depths is not None and len(self.depths) != len(self.by_block):
                raise ValueError(f"as many depths as blocks: {len(self.by_block)}, not {len(self.depths)}")
            return self

        @property
        def by_block(self) -> tuple[int, ...]:
            """Channels of each block."""
            return self.widths or tuple(self.width * 2**block for block in range(self.blocks))

        @property
        def point(self) -> Point:
            """The plain network's channels and convolutions by block."""
            return Point(self.by_block, self.depths or (DEPTH,) * len(self.by_block))

    params: Params

    def network(self, task: Task, statistics: Mapping[str, Any]) -> torch.nn.Module:
        """See ImageFamily.network."""
        from dl_pipelines.models.cnn_modules import build_cnn

        given, point = self.params, self.params.point
        return build_cnn(
            task.signature(), statistics, given.network, point.widths, point.depths, given.dropout
        )  # fmt: skip

    def space(self, widths: Sequence[float], depths: Sequence[int], shortest: int | None) -> Space | None:
        """See elastic.Searchable; of the plain network alone."""
        return None if self.params.network != "plain" else scaled(self.params.point, widths, depths, shortest)

    def at(self, point: Point) -> dict[str, Any]:
        """See elastic.Searchable."""
        given = self.params.model_dump(exclude={"width", "blocks", "widths", "depths"}, exclude_defaults=True)
        return {**given, "widths": list(point.widths), "depths": list(point.depths)}

    def within(self, whole: Cnn, task: Task) -> dict[str, str]:
        """See elastic.Searchable."""
        from dl_pipelines.models.cnn_modules import plain_layers

        signature = task.signature()
        places = {layer: place for place, layer in enumerate(plain_layers(signature, whole.params.point.depths))}
        mine = plain_layers(signature, self.params.point.depths)
        return {str(place): str(places[layer]) for place, layer in enumerate(mine)}
