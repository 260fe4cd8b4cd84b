"""What a family hands to the training loop: the network that is served, and the phases that train it.

Supervised training with one network, one loss and one optimizer is one phase; a GAN's step has two losses and two
optimizers, an autoencoder two phases. The loop knows phases only, never a family's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch

Loss = Callable[["Mapping[str, torch.nn.Module]", "torch.Tensor", "torch.Tensor"], "torch.Tensor"]
Calibrate = Callable[["np.ndarray", "np.ndarray"], None]


@dataclass(frozen=True)
class Objective:
    """One loss, and the names of the modules whose parameters its optimizer moves."""

    name: str
    modules: tuple[str, ...]
    loss: Loss


@dataclass(frozen=True)
class Phase:
    """A share of the epochs (the shares of a recipe sum to 1) with its objectives, taken in order at each step."""

    name: str
    objectives: tuple[Objective, ...]
    share: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """`modules` by name; `served` is the one that is exported: raw inputs of the task's signature -> its outputs."""

    modules: Mapping[str, torch.nn.Module]
    served: str
    phases: tuple[Phase, ...]
    calibrate: Calibrate | None = None
    """Called once, after the last epoch, with validation inputs and targets: sets what is not learned by a loss."""

    @property
    def network(self) -> torch.nn.Module:
        """The module that is exported and served."""
        return self.modules[self.served]
