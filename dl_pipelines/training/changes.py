"""What may be changed about a family's recipe before the loop trains it: a teacher, fake quantization, cut channels.

A change is made by the worker from plain data in the job; the loop itself knows nothing of it. Names and shapes of the
served network's state stay those of its plan, so that its weights can be loaded without the change.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from dl_pipelines.brief.registry import Kind, Named
from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.brief.sections import Training
from dl_pipelines.models.recipe import Recipe
from dl_pipelines.tasks.base import Task


class ChangeRef(Named):
    """A change in a job, with its params."""

    kind: ClassVar[str] = "change"


class RecipeChange(ABC):
    """A registered change, made with its validated params (plain data: paths as text)."""

    name: ClassVar[str]
    Params: ClassVar[type[BaseParams]]

    def __init__(self, params: Any):
        self.params = params

    @abstractmethod
    def apply(self, recipe: Recipe, task: Task, statistics: Mapping[str, Any], training: Training) -> Recipe:
        """The changed recipe; called before weights are loaded into its network. Raises ValueError."""


CHANGES = Kind(
    "change",
    {
        "cut": "dl_pipelines.training.change_cut:Cut",
        "distilled": "dl_pipelines.training.change_distilled:Distilled",
        "fake_quantized": "dl_pipelines.training.change_fake_quantized:FakeQuantized",
        "weight_shared": "dl_pipelines.training.change_weight_shared:WeightShared",
    },
)
"""One line each. `cut`: channels away. `distilled`: the loss looks at a teacher too. `fake_quantized`: weights and
activations are rounded as int8 will. `weight_shared`: every step trains several widths and depths of one network."""


def changed(
    recipe: Recipe, changes: Sequence[ChangeRef], task: Task, statistics: Mapping[str, Any], training: Training
) -> Recipe:
    """The recipe with all changes, in their order."""
    for ref in changes:
        recipe = CHANGES.make(ref).apply(recipe, task, statistics, training)
    return recipe
