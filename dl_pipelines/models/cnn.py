"""A convolutional network for images of 8 to 224 pixels: blocks of two 3 x 3 convolutions, then global pooling.

Convolution, batch norm and ReLU as in Simonyan and Zisserman (2015) with Ioffe and Szegedy's normalisation (2015);
global average pooling after Lin et al. (2013). The raw pixels are scaled and normalised inside the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.brief.sections import Training
from dl_pipelines.tasks.base import Task

if TYPE_CHECKING:
    import torch

    from dl_pipelines.models.recipe import Recipe


class Cnn:
    """The default family. One line of the brief, `architecture.family.params`, sets its size."""

    name = "cnn"
    kind = "image"
    template_row = "CNN (ConvNet)"

    class Params(BaseParams):
        """Channels of the first block (doubled in each), number of blocks, dropout before the output."""

        width: int = Field(default=32, ge=4, le=512)
        blocks: int = Field(default=2, ge=1, le=5)
        dropout: float = Field(default=0.1, ge=0, lt=1)

    def __init__(self, params: Params):
        self.params = params

    def network(self, task: Task, statistics: Mapping[str, Any]) -> torch.nn.Module:
        """uint8 [N, H, W, C] -> float32 logits [N, K]. `statistics` holds mean and std of each channel in 0..1."""
        from dl_pipelines.models.cnn_modules import build_cnn

        return build_cnn(task.signature(), statistics, **self.params.model_dump())

    def recipe(self, task: Task, statistics: Mapping[str, Any], training: Training) -> Recipe:
        """One supervised phase: cross entropy with label smoothing."""
        import torch

        from dl_pipelines.models.recipe import Objective, Phase, Recipe

        criterion = torch.nn.CrossEntropyLoss(label_smoothing=training.label_smoothing)

        def loss(modules: Mapping[str, Any], inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return criterion(modules["network"](inputs), targets)

        phase = Phase("supervised", (Objective("cross_entropy", ("network",), loss),))
        return Recipe({"network": self.network(task, statistics)}, "network", (phase,))
