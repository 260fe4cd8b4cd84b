"""The sandwich's loss by hand, gradients of what was drawn, and a training that goes on bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dl_pipelines.brief.references import FamilyRef
from dl_pipelines.brief.sections import Training
from dl_pipelines.models.elastic import Parts, Space, family_at
from dl_pipelines.models.recipe import Objective
from dl_pipelines.models.registry import FAMILIES
from dl_pipelines.store.durable import read_json
from dl_pipelines.tasks.registry import TASKS
from dl_pipelines.training.changes import CHANGES, ChangeRef, changed
from dl_pipelines.training.job import FINAL, RESULT
from dl_pipelines.training.loop import Trainer
from dl_pipelines.training.worker import run

SPACE = Space(((2, 4), (4, 6)), ((1, 2), (1, 2)), 1)
FAMILY = FamilyRef(name="cnn", params={"dropout": 0.1})
LARGEST = family_at(FAMILY, SPACE.largest)
PARAMS = {"family": FAMILY.model_dump(), "widths": SPACE.widths, "depths": SPACE.depths, "shortest": 1}
CHANGE = ChangeRef(name="weight_shared", params={**PARAMS, "drawn": 2})


def recipe_of(job, family, change=CHANGE):
    task = TASKS.make(job.task)
    recipe = FAMILIES.make(family).recipe(task, job.statistics, job.training)
    return changed(recipe, (change,), task, job.statistics, job.training)


def shared_job(make_job, name="shared", **training):
    job = replace(make_job(name=name, training={"epochs": 2, "checkpoint_steps": 2, **training}), changes=(CHANGE,))
    job = replace(job, family=LARGEST)
    job.write()
    return job


@pytest.mark.parametrize("distilled", [False, True])
def test_the_loss_is_the_mean_over_the_sandwich(make_job, distilled):
    job, still = make_job(), family_at(FamilyRef(name="cnn", params={"dropout": 0.0}), SPACE.largest)
    plain = {"name": "cnn", "params": {"dropout": 0.0}}
    change = ChangeRef(name="weight_shared", params={**PARAMS, "family": plain, "distilled": distilled})
    torch.manual_seed(0)
    recipe = recipe_of(job, still, change)
    network = recipe.network.train()
    draw = torch.Generator().manual_seed(1)
    inputs = torch.randint(0, 256, (12, 8, 8, 1), dtype=torch.uint8, generator=draw)
    targets = torch.arange(12) % 10
    ((objective,),) = (phase.objectives for phase in recipe.phases)
    torch.manual_seed(7)
    found = objective.loss(recipe.modules, inputs, targets)
    torch.manual_seed(7)
    drawn = [SPACE[int(torch.randint(len(SPACE), ()))] for _ in range(2)]
    parts = Parts(still, SPACE.largest, TASKS.make(job.task), job.statistics)
    answers = [network(inputs), *(parts.answer(point, network, inputs) for point in (SPACE.smallest, *drawn))]
    hard = torch.nn.functional.one_hot(targets, 10).float()
    wanted = [hard, *[torch.softmax(answers[0], 1) if distilled else hard] * 3]
    losses = [-(q * torch.log_softmax(logits, 1)).sum(1).mean() for q, logits in zip(wanted, answers, strict=True)]
    assert found.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)
    found.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_a_training_that_goes_on_is_bitwise_the_undisturbed_one(make_job, monkeypatch):
    whole = shared_job(make_job, "whole")
    run(whole)
    broken = shared_job(make_job, "broken")

    class Stop(Exception):
        pass

    calls, step = [], Trainer._step

    def counted(self, *args):
        if len(calls) == 9:  # in the second epoch
            raise Stop
        calls.append(1)
        step(self, *args)

    monkeypatch.setattr(Trainer, "_step", counted)
    with pytest.raises(Stop):
        run(broken)
    monkeypatch.undo()
    run(broken)
    assert (whole.folder / FINAL).read_bytes() == (broken.folder / FINAL).read_bytes()


def test_what_is_saved_is_the_largest_network_as_it_was_validated(make_job):
    job = shared_job(make_job, epochs=3, learning_rate=0.01)
    run(job)
    task = TASKS.make(job.task)
    network = FAMILIES.make(LARGEST).network(task, job.statistics).eval()
    network.load_state_dict(load_file(job.folder / FINAL))
    inputs, targets = (np.load(job.rows / f"validation_{name}.npy") for name in ("inputs", "targets"))
    with torch.no_grad():
        found = task.measure(network(torch.from_numpy(inputs)).numpy(), targets)
    curves = read_json(job.folder / RESULT)["curves"]
    assert found["accuracy"] == pytest.approx(curves[-1]["validation"]["accuracy"], abs=1e-6)
    assert curves[-1]["train_loss"] < curves[0]["train_loss"]


def test_another_network_than_the_largest_is_refused(make_job):
    small = family_at(FAMILY, SPACE.smallest)
    with pytest.raises(ValueError, match="found a network that is not the largest of the space, 4x2_6x2"):
        recipe_of(make_job(), small)


def test_losses_of_other_modules_are_refused(make_job):
    job = make_job()
    task = TASKS.make(job.task)
    recipe = FAMILIES.make(LARGEST).recipe(task, job.statistics, Training())
    (phase,) = recipe.phases
    other = replace(phase, objectives=(Objective("critic", ("network", "critic"), phase.objectives[0].loss),))
    with pytest.raises(ValueError, match="found the objective 'critic' of network, critic; expected one of the served"):
        CHANGES.make(CHANGE).apply(replace(recipe, phases=(other,)), task, job.statistics, Training())
