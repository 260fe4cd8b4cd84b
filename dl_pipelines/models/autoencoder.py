"""An encoder that first learns to mend noisy images, together with a decoder, and then to tell their classes."""

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


class Autoencoder(ImageFamily):
    """Denoising pre-training (Vincent et al., 2010), then the head; the decoder is not served."""

    name = "autoencoder"
    template_row = "Autoencoder"

    class Params(BaseParams):
        """Channels of the first convolution, length of the code, noise, share of the epochs before the head, dropout.

        Noise is Gaussian, its standard deviation in those of a pixel over the train rows.
        """

        width: int = Field(default=32, ge=4, le=512)
        code: int = Field(default=64, ge=2, le=4096)
        noise: float = Field(default=0.5, ge=0, le=10)
        pretraining: float = Field(default=0.2, ge=0, lt=1)
        dropout: float = Field(default=0.1, ge=0, lt=1)

    params: Params

    def network(self, task: Task, statistics: Mapping[str, Any]) -> torch.nn.Module:
        """See ImageFamily.network."""
        from dl_pipelines.models.autoencoder_modules import build_network

        given = self.params
        return build_network(task.signature(), statistics, given.width, given.code, given.dropout)

    def recipe(self, task: Task, statistics: Mapping[str, Any], training: Training) -> Recipe:
        """Two phases: `denoising` moves encoder and decoder, `supervised` the encoder and the head."""
        from dl_pipelines.models.autoencoder_modules import build_decoder, denoising
        from dl_pipelines.models.classification_loss import classification_loss, supervised
        from dl_pipelines.models.recipe import Recipe

        given, name = self.params, training.loss or self.losses[0]
        network: Any = self.network(task, statistics)
        modules = {
            "network": network,
            "encoder": network.encoder,
            "decoder": build_decoder(task.signature(), given.width, given.code),
        }
        last = supervised(name, classification_loss(name, training, statistics), 1 - given.pretraining)
        first = (denoising(given.noise, given.pretraining),) if given.pretraining else ()
        return Recipe(modules, "network", (*first, last))
