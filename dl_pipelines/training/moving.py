"""Which parameters have gradients, and when: those an objective moves, less those that are to stay as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from dl_pipelines.models.recipe import Objective, Phase, Recipe


class Moving:
    """The gradients of a recipe's parameters.

    `factors` lead from a parameter's name in the served network to the factor of its learning rate; with 0 it is
    frozen, and so is each layer of which no parameter is left: it stays in eval mode.
    """

    def __init__(self, recipe: Recipe, factors: Mapping[str, float]):
        self._recipe = recipe
        self.factors = {id(value): factors.get(name, 1.0) for name, value in recipe.network.named_parameters()}
        frozen = {key for key, factor in self.factors.items() if factor == 0}
        for parameter in recipe.network.parameters():
            if id(parameter) in frozen:
                parameter.requires_grad_(False)
        layers = ((layer, [id(value) for value in layer.parameters()]) for layer in recipe.network.modules())
        self._frozen = [layer for layer, own in layers if own and frozen.issuperset(own)]
        everything = {id(value): value for module in recipe.modules.values() for value in module.parameters()}
        self.movable = [value for value in everything.values() if value.requires_grad]

    def named(self, objective: Objective) -> list[tuple[str, torch.nn.Parameter]]:
        """The parameters that an objective moves; what several of its modules share is there once."""
        found: dict[int, tuple[str, torch.nn.Parameter]] = {}
        for key in objective.modules:
            for name, parameter in self._recipe.modules[key].named_parameters():
                if parameter.requires_grad:
                    found.setdefault(id(parameter), (f"{objective.name}/{key}/{name}", parameter))
        return list(found.values())

    def begin(self, phase: Phase, moved: Mapping[str, list[torch.nn.Parameter]]) -> None:
        """Modules in train mode, and gradients for what the phase's objectives move and for nothing else."""
        for module in self._recipe.modules.values():
            module.train()
        for layer in self._frozen:
            layer.eval()
        wanted = {id(value) for objective in phase.objectives for value in moved[objective.name]}
        for value in self.movable:
            value.requires_grad_(id(value) in wanted)

    @contextmanager
    def only(self, parameters: list[torch.nn.Parameter]) -> Iterator[None]:
        """Gradients for nothing but these."""
        mine = {id(parameter) for parameter in parameters}
        others = [value for value in self.movable if value.requires_grad and id(value) not in mine]
        for value in others:
            value.requires_grad_(False)
        try:
            yield
        finally:
            for value in others:
                value.requires_grad_(True)
