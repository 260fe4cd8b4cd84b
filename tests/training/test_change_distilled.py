"""The teacher's losses against scipy and numpy; a distilled training against the plain one and against itself."""

import dataclasses
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.special import log_softmax, rel_entr, softmax

from dl_pipelines.brief.references import FamilyRef
from dl_pipelines.brief.sections import Training
from dl_pipelines.models.forecasters import Gru
from dl_pipelines.models.plan import NetworkPlan
from dl_pipelines.models.registry import FAMILIES
from dl_pipelines.store import durable
from dl_pipelines.store.digest import digest_file
from dl_pipelines.tasks.registry import TASKS
from dl_pipelines.training.change_distilled import feature_pairs, regression, soft_targets, watching
from dl_pipelines.training.changes import ChangeRef, changed
from dl_pipelines.training.checkpoint import load_checkpoint
from dl_pipelines.training.job import FINAL, RESULT
from tests.series import make_table, make_task
from tests.training.test_changes import changed_trainer
from tests.training.test_loop import Stop, kept, rows, run, same, trainer


def teacher_of(job, width=12, **params):
    """A change whose teacher has other weights than the student and running statistics of its own."""
    plan = NetworkPlan(FamilyRef(name="cnn", params={"width": width, **params}), job.statistics)
    torch.manual_seed(99)
    network = plan.build(TASKS.make(job.task)).train()
    with torch.no_grad():
        network(torch.from_numpy(rows(job, "train")[0][:200]))
    path = job.folder / "teacher.safetensors"
    save_file(network.state_dict(), path)
    return network.eval(), {"plan": plan.plain(), "weights": str(path)}


def taught(job, **params):
    network, given = teacher_of(job)
    ref = ChangeRef(name="distilled", params={"temperature": 4.0, "share": 0.5, **given, **params})
    return dataclasses.replace(job, changes=(ref,)), network


def batch(job, count=64):
    inputs, targets, _ = rows(job, "train")
    return torch.from_numpy(inputs[:count]), torch.from_numpy(targets[:count])


def recipe_of(job):
    torch.manual_seed(0)
    task = TASKS.make(job.task)
    recipe = FAMILIES.make(job.family).recipe(task, job.statistics, job.training)
    return changed(recipe, job.changes, task, job.statistics, job.training)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_soft_targets_are_the_divergence_of_softened_softmaxes(temperature):
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(0, 5, (2, 32, 10))
    first, second = torch.tensor(student, dtype=torch.float32, requires_grad=True), torch.tensor(teacher)
    found = soft_targets(first, second, temperature)
    p, q = softmax(teacher / temperature, axis=1), softmax(student / temperature, axis=1)
    assert found.item() == pytest.approx(temperature**2 * rel_entr(p, q).sum(1).mean(), rel=1e-5)
    found.backward()  # equation 2 of the paper times T^2, a row
    np.testing.assert_allclose(first.grad, temperature * (q - p) / 32, atol=1e-6)


def test_numbers_are_compared_in_the_teachers_unit():
    rng = np.random.default_rng(0)
    teacher = rng.normal(0, 1, (16, 3, 2)) * np.geomspace(1, 1000, 16)[:, None, None]
    teacher[3] = 0
    student = teacher + rng.normal(0, 1, teacher.shape)
    size = np.sqrt((teacher**2).mean(axis=(1, 2)))
    whole = np.sqrt((teacher**2).mean())
    unit = np.sqrt(np.maximum(size, 0.1 * whole) * whole)
    wanted = (((student - teacher) / unit[:, None, None]) ** 2).mean()
    tensors = torch.tensor(student), torch.tensor(teacher)
    assert float(regression(*tensors)) == pytest.approx(wanted, rel=1e-5)
    assert float(regression(1000 * tensors[0], 1000 * tensors[1])) == pytest.approx(wanted, rel=1e-5)
    assert float(regression(torch.zeros(2, 3), torch.zeros(2, 3))) == 0


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_loss_is_shared_with_the_teachers_and_the_student_runs_once(make_job, share):
    job = dataclasses.replace(make_job(), family=FamilyRef(name="cnn", params={"width": 8, "dropout": 0.0}))
    job, teacher = taught(job, share=share, temperature=2.0)
    recipe, (inputs, targets) = recipe_of(job), batch(job)
    network, calls = recipe.network.train(), []
    network.register_forward_hook(lambda *_: calls.append(1))
    (objective,) = recipe.phases[0].objectives
    loss = objective.loss(recipe.modules, inputs, targets)
    assert len(calls) == 1
    with torch.no_grad():
        mine, theirs = network(inputs).numpy().astype(float), teacher(inputs).numpy().astype(float)
    hard = -log_softmax(mine, axis=1)[np.arange(64), targets].mean()
    soft = 4 * rel_entr(softmax(theirs / 2, axis=1), softmax(mine / 2, axis=1)).sum(1).mean()
    assert soft > 0.01 and loss.item() == pytest.approx((1 - share) * hard + share * soft, rel=1e-4)
    assert objective.modules == ("network",) and set(recipe.modules) == {"network"}


def test_with_no_share_of_the_teacher_it_is_the_plain_training(make_job):
    job, _ = taught(make_job(name="taught"), share=0.0)
    plain = make_job(name="plain")
    wanted, curves = run(plain, trainer(plain))
    got, again = run(job, changed_trainer(job))
    assert same(wanted, got)
    assert [line.train_loss for line in again] == [line.train_loss for line in curves]


def test_a_student_comes_to_answer_as_its_teacher(make_job):
    """On the teacher's logits alone, whatever the targets are."""
    job, teacher = taught(make_job(training={"epochs": 8, "learning_rate": 0.01}), share=1.0)
    inputs, _, _ = rows(job, "validation")
    with torch.no_grad():
        wanted = teacher(torch.from_numpy(inputs)).argmax(1)
        made = changed_trainer(job)
        given = made.numerics.put(inputs)
        before = (made.recipe.network.eval()(given).argmax(1).cpu() == wanted).float().mean()
    run(job, made)
    with torch.no_grad():
        after = (made.recipe.network.eval()(given).argmax(1).cpu() == wanted).float().mean()
    assert before < 0.5 < 0.75 < after


@pytest.mark.parametrize("given", [{}, {"precision": "bf16", "ema": 0.9, "optimizer": "muon"}])
def test_a_distilled_training_that_goes_on_is_bitwise_the_undisturbed_one(make_job, given):
    training = {"epochs": 2, "checkpoint_steps": 2, **given}
    one, other = (taught(make_job(name=name, training=training))[0] for name in ("one", "other"))
    teacher = digest_file(one.folder / "teacher.safetensors")
    wanted, curves = run(other, changed_trainer(other))
    made, calls, count = changed_trainer(one), [], random.Random(str(given)).randrange(3, 12)
    step = made._step

    def counted(*args):
        if len(calls) == count:
            raise Stop
        calls.append(1)
        step(*args)

    made._step = counted
    with pytest.raises(Stop):
        run(one, made)
    torch.rand(5)
    got, again = run(one, changed_trainer(one))
    assert same(wanted, got)
    assert [line.train_loss for line in again] == [line.train_loss for line in curves]
    tensors, _ = load_checkpoint(one.folder / "checkpoints")
    plain = {f"model/network/{name}" for name in got}
    assert {name for name in tensors if name.startswith("model/")} == plain
    assert teacher == digest_file(one.folder / "teacher.safetensors")


def test_the_teacher_neither_learns_nor_follows_what_it_sees(make_job, monkeypatch):
    job, teacher = taught(make_job(training={"epochs": 1}))
    loaded = []
    load = NetworkPlan.load
    monkeypatch.setattr(NetworkPlan, "load", lambda *args: loaded.append(load(*args)) or loaded[-1])
    made = changed_trainer(job)
    run(job, made)
    (used,) = loaded
    assert same(teacher.state_dict(), kept(used))
    assert not used.training and not any(value.requires_grad or value.grad is not None for value in used.parameters())
    every = [module for network in (used, made.recipe.network) for module in network.modules()]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in every)


def test_features_that_fit_are_found(make_job):
    """What the output layer takes, where student and teacher have as much of it."""
    job = make_job()
    task = TASKS.make(job.task)

    def network(name="cnn", **params):
        return FAMILIES.make(FamilyRef(name=name, params=params)).network(task, job.statistics)

    wide, rnn = network(width=8), network("rnn_rows", hidden=16, bidirectional=False)
    assert feature_pairs(wide, network(width=16), task) == ()
    assert feature_pairs(wide, network(width=8), task) == (("17", "17"),)
    assert feature_pairs(network(width=16, blocks=1), wide, task) == (("10", "17"),)
    assert feature_pairs(wide, rnn, task) == (("17", "head.0"),)
    assert feature_pairs(rnn, wide, task) == (("head.0", "17"),)
    assert feature_pairs(wide, network(width=8), task, (("4", "6"),)) == (("4", "6"),)
    assert feature_pairs(wide, network(width=8), task, ()) == ()
    assert wide.training
    untaught = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(10))
    assert feature_pairs(torch.nn.Sequential(network(width=8)[0], untaught), wide, task) == ()


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ((("1", "1"),), r"found outputs of '1' and '1' of \[8, 8, 8\] \(student\) and \[12, 8, 8\]; expected the same "
         r"shape; name others in features"),
        ((("head", "1"),), r"found no module 'head' of the student that gives a tensor; expected one of 0, 1, 2, .*; "
         "mend features"),
        ((("1", "head"),), "found no module 'head' of the teacher that gives a tensor"),
    ],
)  # fmt: skip
def test_features_that_do_not_fit_are_refused(make_job, features, message):
    job, _ = taught(make_job(), features=features)
    with pytest.raises(ValueError, match=message):
        recipe_of(job)


def test_a_teacher_of_another_task_is_refused(make_job):
    job, _ = taught(make_job())
    classes = {"classes": ["0", "1"], "height": 8, "width": 8, "channels": 1}
    other = dataclasses.replace(job, task=job.task.model_copy(update={"params": classes}))
    with pytest.raises(RuntimeError, match=r"size mismatch for 18\.weight"):
        recipe_of(other)


def test_features_are_compared_by_their_mean_square(make_job):
    job = dataclasses.replace(make_job(), family=FamilyRef(name="cnn", params={"width": 12, "dropout": 0.0}))
    (inputs, targets) = batch(job)
    losses = []
    for features in ((), (("6", "6"), ("13", "13"))):
        given, teacher = taught(job, features=features, share=1.0)
        recipe = recipe_of(given)
        losses.append(recipe.phases[0].objectives[0].loss(recipe.modules, inputs, targets))
    with torch.no_grad():
        seen = [[net[: place + 1](inputs) for place in (6, 13)] for net in (recipe.network.train(), teacher)]
    wanted = sum(float(np.square(one.numpy() - other.numpy()).mean()) for one, other in zip(*seen, strict=True))
    assert (losses[1] - losses[0]).item() == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("name", ["autoencoder", "gan"])
def test_only_what_asks_the_network_about_the_batch_is_distilled(make_job, name):
    job = dataclasses.replace(make_job(), family=FamilyRef(name=name, params={"width": 8}))
    plain = recipe_of(job)
    job, _ = taught(job, share=1.0)
    recipe, (inputs, targets) = recipe_of(job), batch(job)
    differ = {}
    for before, after in zip(plain.phases, recipe.phases, strict=True):
        for one, other in zip(before.objectives, after.objectives, strict=True):
            losses = []
            for item, modules in ((one, plain.modules), (other, recipe.modules)):
                torch.manual_seed(1)
                losses.append(float(item.loss(modules, inputs, targets).detach()))
            differ[one.name] = losses[0] != pytest.approx(losses[1], rel=1e-3)
    named = {"autoencoder": {"reconstruction": False, "cross_entropy": True},
             "gan": {"discriminator": True, "generator": False}}  # fmt: skip
    assert differ == named[name]


def test_a_family_that_never_asks_its_network_is_refused(make_job):
    job, _ = taught(make_job())
    recipe = recipe_of(job)
    (objective,) = recipe.phases[0].objectives
    own = objective.loss.args[0]
    inputs, targets = batch(job)
    lost = dataclasses.replace(objective, loss=type(objective.loss)(objective.loss.func, lambda *_: own, "parts"))
    with pytest.raises(ValueError, match="found that the loss parts never gives a whole batch to the network; exp"):
        lost.loss(recipe.modules, inputs, targets)


def test_forecasts_are_regressed_on_the_teachers(tmp_path):
    task = make_task(stride=1)
    table = make_table(task)
    statistics, found = task.fit(table, np.ones(table.num_rows, bool)), task.rows(table)
    family = Gru(Gru.Params(hidden=8, dropout=0.0))
    plan = NetworkPlan(FamilyRef(name="gru", params={"hidden": 16}), statistics)
    torch.manual_seed(5)
    teacher = plan.build(task).eval()
    with torch.no_grad():
        for value in teacher.head.parameters():
            value += 0.2
    save_file(teacher.state_dict(), tmp_path / "teacher.safetensors")
    params = {"plan": plan.plain(), "weights": str(tmp_path / "teacher.safetensors"), "temperature": 4.0, "share": 1.0}
    torch.manual_seed(0)
    recipe = family.recipe(task, statistics, Training())
    own = recipe.phases[0].objectives[0].loss
    recipe = changed(recipe, [ChangeRef(name="distilled", params=params)], task, statistics, Training())
    inputs, targets = torch.from_numpy(found.inputs[:32]), torch.from_numpy(found.targets[:32])
    loss = recipe.phases[0].objectives[0].loss
    with torch.no_grad():
        wanted = regression(recipe.network(inputs), teacher(inputs))
        assert float(loss(recipe.modules, inputs, targets)) == pytest.approx(float(wanted), rel=1e-5)
    assert own(recipe.modules, inputs, targets).item() != pytest.approx(float(wanted), rel=1e-2)
    optimizer = torch.optim.Adam(recipe.network.parameters(), 0.02)
    for _ in range(30):
        optimizer.zero_grad()
        loss(recipe.modules, inputs, targets).backward()
        optimizer.step()
    assert loss(recipe.modules, inputs, targets).item() < 0.3 * float(wanted)
    assert recipe.calibrate is not None


def test_watching_sees_the_calls_with_its_batch_alone():
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
    ones, others = torch.ones(4, 2), torch.zeros(4, 2)
    with watching(network, ["0"], ones) as seen:
        network(others)
        network[0](ones)
        assert seen.output is None and not seen.features
        answer = network(ones)
        network(others)
    assert seen.output is answer and torch.equal(seen.features["0"].relu(), answer)
    with pytest.raises(TypeError, match="must be Tensor"), watching(network, [], ones):
        network(SimpleNamespace())
    assert not network._forward_hooks and not network[0]._forward_hooks


@pytest.mark.slow
def test_two_workers_learn_from_the_teacher(make_job, start):
    """By its answers alone, whatever the targets are; each rank reads it from its file."""
    job, teacher = taught(make_job("horovod", 2, training={"epochs": 12, "learning_rate": 0.01}), share=1.0)
    job.write()
    assert start(job).end()["failure"] is None
    assert durable.read_json(job.folder / RESULT)["workers"] == 2
    network = NetworkPlan(job.family, job.statistics).load(TASKS.make(job.task), job.folder / FINAL)
    inputs = torch.from_numpy(rows(job, "validation")[0])
    with torch.no_grad():
        assert float((network(inputs).argmax(1) == teacher(inputs).argmax(1)).float().mean()) > 0.75
