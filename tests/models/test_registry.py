"""What every family promises the training loop, whichever its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from dl_pipelines.brief import Named, UnknownName
from dl_pipelines.brief.sections import Training
from dl_pipelines.models.recipe import Objective, Phase, Recipe
from dl_pipelines.models.registry import FAMILIES
from dl_pipelines.tasks.base import Task
from tests.series import make_table, make_task

Given = tuple[Task, Mapping[str, Any]]


@pytest.fixture(scope="module")
def given(task: Task) -> dict[str, Given]:
    """By kind: a task, and statistics that it fitted."""
    series = make_task()
    table = make_table(series)
    return {
        "image": (task, {"mean": [0.3], "std": [0.4]}),
        "series": (series, series.fit(table, np.ones(table.num_rows, bool))),
    }


@pytest.mark.parametrize("name", FAMILIES.names)
def test_a_family_keeps_the_contract(name: str, given: dict[str, Given]):
    family = FAMILIES.make(Named(name=name))
    assert family.name == name
    assert family.template_row
    assert family.losses
    assert set(family.loss_settings) <= set(Training.model_fields)
    task, statistics = given[family.kind]
    assert task.kind == family.kind
    recipe = family.recipe(task, statistics, Training())
    assert isinstance(recipe, Recipe)
    assert recipe.served in recipe.modules
    assert sum(phase.share for phase in recipe.phases) == pytest.approx(1)
    for phase in recipe.phases:
        assert phase.objectives
        for objective in phase.objectives:
            assert set(objective.modules) <= set(recipe.modules)
    (taken,), (wanted,) = task.signature().inputs, task.signature().outputs
    network = recipe.network.eval()
    with torch.no_grad():
        outputs = network(torch.zeros(3, *taken.shape, dtype=getattr(torch, taken.dtype)))
    assert outputs.shape == (3, *wanted.shape)
    assert str(outputs.dtype) == f"torch.{wanted.dtype}"
    # Restoring needs the same names from `network` as training has from `recipe`.
    assert family.network(task, statistics).state_dict().keys() == network.state_dict().keys()
    # Horovod refuses tensors that are not contiguous, safetensors refuses those that share memory.
    values = list(network.state_dict().values())
    assert all(value.is_contiguous() for value in values)
    assert len({value.data_ptr() for value in values if value.numel()}) == len([v for v in values if v.numel()])


def test_an_unknown_family_is_told():
    with pytest.raises(UnknownName, match=r"no family is called 'cnnn'; expected one of .* \(did you mean 'cnn'\?\)"):
        FAMILIES.make(Named(name="cnnn"))


def test_a_recipe_may_have_several_modules_and_phases():
    modules = {"encoder": torch.nn.Linear(2, 2), "decoder": torch.nn.Linear(2, 2)}

    def loss(modules, inputs, targets):
        return modules["decoder"](modules["encoder"](inputs)).sum()

    both = Objective("both", ("encoder", "decoder"), loss)
    recipe = Recipe(modules, "encoder", (Phase("first", (both,), 0.5), Phase("second", (both,), 0.5)))
    assert recipe.network is modules["encoder"]
    with pytest.raises(AttributeError):
        recipe.served = "decoder"
