from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dl_pipelines.brief.references import FamilyRef
from dl_pipelines.brief.sections import Training
from dl_pipelines.models.plan import NetworkPlan
from dl_pipelines.models.pruned import prune, widths
from dl_pipelines.models.registry import FAMILIES
from dl_pipelines.tasks.image_classification import ImageClassification
from dl_pipelines.training import worker
from dl_pipelines.training.changes import ChangeRef, changed
from dl_pipelines.training.job import FINAL, Job
from dl_pipelines.training.warm import START

TASK = ImageClassification(
    ImageClassification.Params(classes=tuple("0123456789"), height=8, width=8, channels=1)
)  # fmt: skip
STATISTICS = {"mean": [0.3], "std": [0.38]}
ROWS = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1)).astype(np.uint8)


def pruned(family, **params):
    """A plan with cuts, and the network they were made on."""
    ref = FamilyRef(name=family, params=params)
    torch.manual_seed(3)
    network = NetworkPlan(ref, STATISTICS).build(TASK)
    return NetworkPlan(ref, STATISTICS, prune(network, TASK, ROWS, 0.5)), network


def change_of(plan):
    return ChangeRef(name="cut", params={"cuts": plan.plain()["cuts"]})


def apply(plan):
    training = Training()
    recipe = FAMILIES.make(plan.family).recipe(TASK, STATISTICS, training)
    return changed(recipe, [change_of(plan)], TASK, STATISTICS, training)


def test_what_is_trained_is_what_the_plan_builds():
    plan, network = pruned("cnn", width=16)
    recipe = apply(plan)
    assert widths(recipe.network) == widths(network)
    assert [*widths(network).values()] == [8, 8, 16, 16, 10]
    assert recipe.modules == {"network": recipe.network}


def test_a_decoder_and_its_phase_are_left_out():
    plan, _ = pruned("autoencoder")
    recipe = apply(plan)
    assert [*recipe.modules] == ["network"]
    assert [(phase.name, phase.share) for phase in recipe.phases] == [("supervised", 1.0)]
    batch = torch.from_numpy(ROWS), torch.tensor([0, 1])
    loss = recipe.phases[0].objectives[0].loss(recipe.modules, *batch)
    expected = torch.nn.functional.cross_entropy(recipe.network.train()(batch[0]), batch[1])
    assert loss.shape == expected.shape == ()


def test_a_family_that_trains_a_second_network_is_refused():
    plan, _ = pruned("gan")
    with pytest.raises(ValueError, match="found the phase 'adversarial', which trains generator too; expected one of"):
        apply(plan)


def test_cuts_of_another_width_are_refused():
    plan, _ = pruned("cnn", width=32)
    other = NetworkPlan(FamilyRef(name="cnn", params={"width": 8}), STATISTICS, plan.cuts)
    with pytest.raises(ValueError, match="expected different ones below 16: the cuts of a network of the same family"):
        apply(other)


def test_a_worker_goes_on_from_the_cut_weights(make_job):
    plan, network = pruned("cnn", width=16)
    job = make_job(training={"epochs": 1, "learning_rate": 1e-9, "weight_decay": 0.0})
    save_file(network.state_dict(), job.folder / START)
    worker.run(Job.read(replace(job, family=plan.family, changes=(change_of(plan),)).write()))
    trained = plan.load(TASK, job.folder / FINAL)
    assert widths(trained) == widths(network)
    start, final = network.state_dict(), load_file(job.folder / FINAL)
    learned = [name for name, _ in network.named_parameters()]
    assert max(float((final[name] - start[name]).abs().max()) for name in learned) < 1e-6
    assert int(final["2.num_batches_tracked"]) > 0
