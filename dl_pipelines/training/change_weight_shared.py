"""A recipe in which every step trains the largest, the smallest and drawn networks of a space, with the same weights.

The sandwich rule of Yu and Huang (2019), with single paths drawn evenly as by Guo et al. (2020); in a classification
all but the largest learn what that answers, their "inplace distillation". Batch norm goes by the batch; running
statistics are the largest's, those of any other are to be found before it is scored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field

from dl_pipelines.brief.registry import Named
from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.brief.sections import Training
from dl_pipelines.models.elastic import Parts, Space
from dl_pipelines.models.recipe import Loss, Objective, Recipe
from dl_pipelines.tasks.base import Task
from dl_pipelines.training.changes import RecipeChange

if TYPE_CHECKING:
    import torch


class WeightShared(RecipeChange):
    """The recipe's network is the largest of the space; what is saved are its weights."""

    name = "weight_shared"

    class Params(BaseParams):
        """`family` is the job's. Widths and depths by block, rising, as in elastic.Space."""

        family: Named
        widths: tuple[tuple[int, ...], ...]
        depths: tuple[tuple[int, ...], ...]
        shortest: int = Field(ge=1, description="blocks that a network has at least")
        drawn: int = Field(default=2, ge=0, le=16, description="networks a step beside the largest and the smallest")
        distilled: bool = Field(
            default=True, description="others learn from the largest's answers where they are logits"
        )

    params: Params

    def apply(self, recipe: Recipe, task: Task, statistics: Mapping[str, Any], training: Training) -> Recipe:
        """Raises ValueError for a recipe with other losses than of the served network alone, or another space."""
        given = self.params
        space = Space(given.widths, given.depths, given.shortest)
        parts = Parts(given.family, space.largest, task, statistics)
        _require_largest(recipe, parts, space)
        distilled = given.distilled and bool(task.signature().labels)

        def shared(objective: Objective) -> Objective:
            return self._shared(objective, recipe.served, space, parts, distilled)

        phases = tuple(replace(phase, objectives=tuple(map(shared, phase.objectives))) for phase in recipe.phases)
        return replace(recipe, phases=phases)

    def _shared(self, objective: Objective, served: str, space: Space, parts: Parts, distilled: bool) -> Objective:
        if objective.modules != (served,):
            raise ValueError(
                f"found the objective {objective.name!r} of {', '.join(objective.modules)}; expected one of the served "
                "network alone; widths and depths of this family can't be searched with shared weights"
            )
        return replace(objective, loss=_sandwich(objective.loss, served, space, parts, self.params.drawn, distilled))


def _sandwich(loss: Loss, served: str, space: Space, parts: Parts, drawn: int, distilled: bool) -> Loss:
    """The mean of the losses of the largest, the smallest and of `drawn` others, drawn anew at each call."""

    def shared(modules: Mapping[str, torch.nn.Module], inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        import torch

        whole, answers = modules[served], list[torch.Tensor]()

        def largest(given: torch.Tensor) -> torch.Tensor:
            answers.append(whole(given))
            return answers[-1]

        # The loop seeds torch's generator by epoch and keeps its state: what is drawn is the same after a restart.
        points = [space.smallest, *(space[int(torch.randint(len(space), ()))] for _ in range(drawn))]
        total = loss(_with(modules, served, largest), inputs, targets)
        for point in points:
            if distilled:
                wanted = answers[-1].detach().softmax(1)
                part = torch.nn.functional.cross_entropy(parts.answer(point, whole, inputs), wanted)
            else:
                part = loss(_with(modules, served, partial(parts.answer, point, whole)), inputs, targets)
            total = total + part
        return total / (1 + len(points))

    return shared


def _with(modules: Mapping[str, torch.nn.Module], served: str, stand_in: Any) -> Mapping[str, Any]:
    """The modules with something else that answers in place of the served network."""
    return {**modules, served: stand_in}


def _require_largest(recipe: Recipe, parts: Parts, space: Space) -> None:
    own = {name: tuple(value.shape) for name, value in recipe.network.state_dict().items()}
    wanted = {name: tuple(value.shape) for name, value in parts.network(space.largest).state_dict().items()}
    if own != wanted:
        raise ValueError(
            f"found a network that is not the largest of the space, {space.largest.name}; expected it; train the plan "
            "of the largest"
        )
