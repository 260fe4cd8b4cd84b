"""A classifier that also learns to tell real images from those of a generator, which learns against it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.brief.sections import Training
from dl_pipelines.models.image_family import ImageFamily
from dl_pipelines.tasks.base import Task

if TYPE_CHECKING:
    import torch

    from dl_pipelines.models.recipe import Recipe


class Gan(ImageFamily):
    """The semi-supervised GAN of Salimans et al. (2016): K classes and "generated"; the K are served."""

    name = "gan"
    template_row = "GAN"

    class Params(BaseParams):
        """Channels of the first convolution, numbers that the generator draws, dropout.

        `unsupervised` is what telling real from generated counts beside the classes.
        """

        width: int = Field(default=32, ge=8, le=512, multiple_of=8)
        latent: int = Field(default=32, ge=2, le=1024)
        unsupervised: float = Field(default=0.5, gt=0, le=10)
        dropout: float = Field(default=0.1, ge=0, lt=1)

    params: Params

    def network(self, task: Task, statistics: Mapping[str, Any]) -> torch.nn.Module:
        """See ImageFamily.network."""
        from dl_pipelines.models.gan_modules import build_network

        return build_network(task.signature(), statistics, self.params.width, self.params.dropout)

    def recipe(self, task: Task, statistics: Mapping[str, Any], training: Training) -> Recipe:
        """One phase of two objectives at each step: `discriminator` moves the network, then `generator` itself."""
        from dl_pipelines.models.classification_loss import classification_loss
        from dl_pipelines.models.gan_modules import adversarial, build_generator
        from dl_pipelines.models.recipe import Recipe

        given = self.params
        criterion = classification_loss(training.loss or self.losses[0], training, statistics)
        modules = {
            "network": self.network(task, statistics),
            "generator": build_generator(task.signature(), given.width, given.latent),
        }
        return Recipe(modules, "network", (adversarial(criterion, given.latent, given.unsupervised),))
