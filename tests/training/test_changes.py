"""Changes come as plain data and are made in their order; what each of them does is tested beside its own file."""

import dataclasses

import pytest
import torch

from dl_pipelines.brief.registry import Kind, Params, UnknownName
from dl_pipelines.data.augmentation import Online
from dl_pipelines.models.registry import FAMILIES
from dl_pipelines.tasks.registry import TASKS
from dl_pipelines.training import changes
from dl_pipelines.training.changes import ChangeRef, RecipeChange, changed
from dl_pipelines.training.communicators.single import SingleCommunicator
from dl_pipelines.training.job import Job
from dl_pipelines.training.loop import Trainer
from dl_pipelines.training.warm import START
from dl_pipelines.training.worker import _begin_from


def changed_trainer(job, communicator=None, **options):
    """As the worker makes it: the family's recipe, its changes, then the weights that it begins from."""
    torch.set_num_threads(1)
    torch.manual_seed(job.training.seed)
    task = TASKS.make(job.task)
    recipe = FAMILIES.make(job.family).recipe(task, job.statistics, job.training)
    recipe = changed(recipe, job.changes, task, job.statistics, job.training)
    _begin_from(job, recipe.network)
    online = Online(job.augmentation, task.signature())
    return Trainer(recipe, task, job.training, online, communicator or SingleCommunicator(), **options)


def begin_from(job, network):
    """Let a job begin from a network's weights."""
    from dl_pipelines.training.worker import _weights

    (job.folder / START).write_bytes(_weights(network))
    return job


class Written(RecipeChange):
    """Writes down that it was asked."""

    class Params(Params):
        word: str

    def apply(self, recipe, task, statistics, training):
        (phase,) = recipe.phases
        return dataclasses.replace(recipe, phases=(dataclasses.replace(phase, name=phase.name + self.params.word),))


class Other(Written):
    """Another name."""


@pytest.fixture
def two(monkeypatch):
    kinds = {"written": f"{__name__}:Written", "other": f"{__name__}:Other"}
    kind = Kind("change", kinds)
    monkeypatch.setattr(kind, "load", {"written": Written, "other": Other}.__getitem__)
    monkeypatch.setattr(changes, "CHANGES", kind)


def of(job, *refs):
    task = TASKS.make(job.task)
    recipe = FAMILIES.make(job.family).recipe(task, job.statistics, job.training)
    return recipe, changed(recipe, refs, task, job.statistics, job.training)


def test_changes_are_made_in_their_order(make_job, two):
    refs = [ChangeRef(name=name, params={"word": word}) for name, word in (("other", "!"), ("written", "?"))]
    before, after = of(make_job(), *refs)
    assert after.phases[0].name == "supervised!?"
    assert after.network is before.network


def test_without_changes_the_recipe_is_the_familys(make_job):
    before, after = of(make_job())
    assert after is before


def test_a_change_that_is_not_there(make_job):
    with pytest.raises(
        UnknownName,
        match=r"^no change is called 'distiled'; expected one of cut, distilled, fake_quantized, weight_shared "
        r"\(did you mean 'distilled'\?\)$",
    ):
        of(make_job(), ChangeRef(name="distiled"))


def test_a_jobs_changes_are_read_as_they_were_written(make_job):
    params = {"ranges": {"1": (0.0, 1.5)}, "reduced": True}
    job = dataclasses.replace(make_job(), changes=(ChangeRef(name="fake_quantized", params=params),))
    read = Job.read(job.write()).changes
    assert [ref.name for ref in read] == ["fake_quantized"]
    first, second = (changes.CHANGES.make(ref).params for ref in (*read, *job.changes))
    assert first == second and first.ranges == {"1": (0.0, 1.5)}
