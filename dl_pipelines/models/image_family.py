"""What every family of images is to the brief and to the loop: raw pixels in, logits out, one supervised phase.

Torch is imported where a network is made, so that briefs are checked without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.brief.sections import Training
from dl_pipelines.tasks.base import Task

if TYPE_CHECKING:
    import torch

    from dl_pipelines.models.recipe import Recipe


class ImageFamily(ABC):
    """Base: `network` is what a family adds; one whose training is no single phase has a `recipe` of its own too."""

    kind = "image"
    name: ClassVar[str]
    template_row: ClassVar[str]
    losses: ClassVar[tuple[str, ...]] = ("cross_entropy", "focal")
    """What `training.loss` may name; the first is the default."""
    loss_settings: ClassVar[tuple[str, ...]] = ("label_smoothing", "class_weights")
    """Further fields of `training` that these losses go by."""
    Params: ClassVar[type[BaseParams]]

    def __init__(self, params: Any):
        self.params = params

    @abstractmethod
    def network(self, task: Task, statistics: Mapping[str, Any]) -> torch.nn.Module:
        """uint8 [N, H, W, C] -> float32 logits [N, K]. `statistics` holds mean and std of each channel in 0..1."""

    def recipe(self, task: Task, statistics: Mapping[str, Any], training: Training) -> Recipe:
        """One supervised phase with the loss that the training names."""
        from dl_pipelines.models.classification_loss import classification_loss, supervised
        from dl_pipelines.models.recipe import Recipe

        network = self.network(task, statistics)
        name = training.loss or self.losses[0]
        phase = supervised(name, classification_loss(name, training, statistics))
        return Recipe({"network": network}, "network", (phase,))
