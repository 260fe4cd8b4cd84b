"""Trains what is left of a network after cuts. Which channels go is decided elsewhere (`models/pruned.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import Field

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.brief.sections import Training
from dl_pipelines.models.recipe import Recipe
from dl_pipelines.tasks.base import Task
from dl_pipelines.training.changes import RecipeChange


class Cut(RecipeChange):
    """The served network loses its channels before weights are loaded, and is trained alone."""

    name = "cut"

    class Params(BaseParams):
        """The cuts as `NetworkPlan.plain` writes them: name of the layer, whether its outputs, positions."""

        cuts: tuple[tuple[str, bool, tuple[int, ...]], ...] = Field(min_length=1)

    params: Params

    def apply(self, recipe: Recipe, task: Task, statistics: Mapping[str, Any], training: Training) -> Recipe:
        """See RecipeChange.apply. Raises ValueError when the cuts don't fit, or see `alone`."""
        from dl_pipelines.models.pruned import cut

        found = alone(recipe)
        cut(found.network, task, self.params.cuts)
        return found


def alone(recipe: Recipe) -> Recipe:
    """The recipe without what it trains beside the served network: a decoder's phase is over when weights are there.

    Raises ValueError where the last phase needs other networks too: their sizes would no longer fit.
    """
    last = recipe.phases[-1]
    others = sorted({name for objective in last.objectives for name in objective.modules} - {recipe.served})
    if others:
        raise ValueError(
            f"found the phase {last.name!r}, which trains {', '.join(others)} too; expected one of the served network "
            "alone; choose a family of a single network to cut channels away"
        )
    return replace(recipe, modules={recipe.served: recipe.network}, phases=(replace(last, share=1.0),))
