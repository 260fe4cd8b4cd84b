import copy
import math
import random

import numpy as np
import pytest
import torch

from dl_pipelines.brief.sections import AugmentationPlan
from dl_pipelines.data.augmentation import Online
from dl_pipelines.data.feed import Feed
from dl_pipelines.models.recipe import Objective, Phase, Recipe
from dl_pipelines.models.registry import FAMILIES
from dl_pipelines.tasks.registry import TASKS
from dl_pipelines.training import schedules
from dl_pipelines.training.checkpoint import load_checkpoint
from dl_pipelines.training.communicators.base import CommunicatorError
from dl_pipelines.training.communicators.single import SingleCommunicator
from dl_pipelines.training.loop import NotFinite, Trainer


class OneOfThree(SingleCommunicator):
    """Says that it is one of three."""

    rank, size = 1, 3


def rows(job, split):
    return tuple(np.load(job.folder / f"{split}_{name}.npy") for name in ("inputs", "targets", "ids"))


def trainer(job, communicator=None, **options):
    torch.set_num_threads(1)
    torch.manual_seed(job.training.seed)
    task = TASKS.make(job.task)
    recipe = FAMILIES.make(job.family).recipe(task, job.statistics, job.training)
    return Trainer(
        recipe, task, job.training, Online(job.augmentation), communicator or SingleCommunicator(), **options
    )


def feed(made, arrays):
    given, communicator = made.training, made.communicator
    return Feed(arrays, made.online, given.batch_size, given.seed, communicator.rank, communicator.size)


def state(made):
    return kept(made.recipe.network)


def kept(network):
    """A copy of what a network holds, on the CPU wherever it was trained."""
    return {name: value.to("cpu", copy=True) for name, value in network.state_dict().items()}


def run(job, made=None):
    made = made or trainer(job)
    curves = made.run(rows(job, "train"), rows(job, "validation"), job.folder / "checkpoints")
    return state(made), curves


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


class Stop(Exception):
    pass


def stopped_after(job, count):
    """Trained up to the given number of steps, then interrupted as if killed."""
    made, calls = trainer(job), []
    step = made._step

    def counted(*args):
        if len(calls) == count:
            raise Stop
        calls.append(1)
        step(*args)

    made._step = counted
    with pytest.raises(Stop):
        run(job, made)


RESUMED = {
    "adamw": {},
    "adam, bf16, clipped": {"optimizer": "adam", "precision": "bf16", "clip": 0.5},
    "sgd, averaged": {"optimizer": "sgd", "ema": 0.9},
    "rmsprop, plateau": {"optimizer": "rmsprop", "schedule": "plateau", "learning_rate": 0.02},
    "muon, accumulated": {"optimizer": "muon", "accumulate": 3, "batch_size": 16, "schedule": "one_cycle"},
    "early stopping, averaged, bf16": {"patience": 3, "ema": 0.95, "precision": "bf16", "schedule": "constant"},
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_training_that_goes_on_is_bitwise_the_undisturbed_one(make_job, name):
    training = {"epochs": 3, "checkpoint_steps": 2, **RESUMED[name]}
    job, undisturbed = make_job(name="one", training=training), make_job(name="other", training=training)
    wanted, curves = run(undisturbed)
    stopped_after(job, random.Random(name).randrange(3, 20))
    torch.rand(5)  # whatever is drawn in between must not matter
    got, again = run(job)
    assert same(wanted, got)
    assert [(line.epoch, line.train_loss, line.validation) for line in again] == [
        (line.epoch, line.train_loss, line.validation) for line in curves
    ]
    assert curves[-1].train_loss < curves[0].train_loss
    files = {path.suffix for path in (job.folder / "checkpoints").iterdir()}
    assert files == {".json", ".safetensors"}


def test_a_training_goes_on_within_an_epoch_with_what_was_kept(make_job):
    job = make_job(training={"epochs": 2, "checkpoint_steps": 3})
    stopped_after(job, 5)
    names = {path.stem for path in (job.folder / "checkpoints").glob("epoch-*")}
    assert names == {"epoch-00000-00000003"}
    made, steps = trainer(job), []
    step = made._step
    made._step = lambda *args: (steps.append(1), step(*args))[1]
    _, curves = run(job, made)
    assert len(steps) == 14 - 3 and [line.epoch for line in curves] == [1, 2]


def test_a_training_that_pauses_ends_as_one_that_does_not(make_job):
    training = {"epochs": 4, "ema": 0.9, "patience": 4}
    whole, paused = make_job(name="whole", training=training), make_job(name="paused", training=training)
    wanted, _ = run(whole)
    made = trainer(paused)
    for until in (1, 3):
        arrays = rows(paused, "train"), rows(paused, "validation")
        assert len(made.run(*arrays, paused.folder / "checkpoints", until)) == until
    got, curves = run(paused)
    assert same(wanted, got) and len(curves) == 4


def test_batches_that_are_accumulated_are_one_large_batch(make_job):
    given = {"epochs": 1, "optimizer": "sgd", "warmup_epochs": 0.0, "schedule": "constant", "learning_rate": 0.1}
    parts = make_job(name="parts", records=384, training={**given, "batch_size": 16, "accumulate": 4})
    whole = make_job(name="whole", records=384, training={**given, "batch_size": 64})

    def trained(job):
        made = bare(job)
        made.online = Online(AugmentationPlan())
        return run(job, made)[0]

    one, other = trained(parts), trained(whole)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-5, atol=1e-6)


class Flat(torch.nn.Flatten):
    """uint8 images -> float32 rows."""

    def forward(self, images):
        return super().forward(images / 255)


def bare(job, modules=None, phases=None, **options):
    """A trainer of a linear network without anything random, or of other modules and phases."""
    torch.manual_seed(0)
    modules = modules or {"network": torch.nn.Sequential(Flat(), torch.nn.Linear(64, 10))}
    phases = phases or (Phase("only", (Objective("a", ("network",), cross_entropy("network")),)),)
    return Trainer(
        Recipe(modules, "network", phases), TASKS.make(job.task), job.training, Online(job.augmentation),
        SingleCommunicator(), **options,
    )  # fmt: skip


def cross_entropy(*names):
    def loss(modules, inputs, targets):
        outputs = inputs
        for name in names:
            outputs = modules[name](outputs)
        return torch.nn.functional.cross_entropy(outputs, targets)

    return loss


def test_another_seed_gives_another_model(make_job):
    one, _ = run(make_job(name="one", training={"epochs": 1}))
    other, _ = run(make_job(name="other", training={"epochs": 1, "seed": 1}))
    assert not same(one, other)


def test_bf16_multiplies_in_bfloat16_and_keeps_weights_in_float32(make_job):
    job = make_job(training={"epochs": 1, "precision": "bf16"})
    made, seen = trainer(job), set()
    for module in made.recipe.network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(lambda module, _, output: seen.add((module.training, output.dtype)))
    got, _ = run(job, made)
    assert seen == {(True, torch.bfloat16), (False, torch.float32)}
    assert {value.dtype for value in got.values()} == {torch.float32, torch.int64}
    assert not same(got, run(make_job(name="fp32", training={"epochs": 1}))[0])


def test_every_step_runs_at_its_rate(make_job):
    job = make_job(training={"epochs": 2, "warmup_epochs": 0.5, "optimizer": "sgd"})
    made, seen = trainer(job), []
    optimizer = only_optimizer(made)
    step = optimizer.step
    optimizer.step = lambda: (seen.append(optimizer.param_groups[0]["lr"]), step())[1]
    _, curves = run(job, made)
    assert seen == [schedules.rate(job.training, number, 7) for number in range(14)]
    assert curves[-1].learning_rate == seen[-1]


def only_optimizer(made):
    (mover,) = made.movers.values()
    (optimizer,) = mover.optimizers
    return optimizer


@pytest.mark.parametrize(
    ("records", "batch", "expected"), [(400, 64, 7), (384, 64, 6), (385, 64, 6), (2, 64, 1), (5, 2, 2)]
)
def test_a_last_batch_of_one_record_is_left_out(make_job, records, batch, expected):
    arrays = np.zeros((records, 1)), np.zeros(records), np.array([f"r{place}" for place in range(records)])
    assert feed(trainer(make_job(training={"batch_size": batch})), arrays).steps == expected


def test_every_rank_takes_other_records_and_as_many_steps(make_job):
    job = make_job(records=300, training={"epochs": 1, "batch_size": 32})
    taken = {}
    for rank in range(3):
        communicator = OneOfThree()
        communicator.rank = rank
        made, ids = trainer(job, communicator), []

        class Watched(Online):
            def __call__(self, inputs, targets, names, epoch, keys=None, ids=ids):
                ids.append(names.tolist())
                return super().__call__(inputs, targets, names, epoch, keys)

        made.online = Watched(job.augmentation)
        made._epoch(1, feed(made, rows(job, "train")))
        taken[rank] = ids
    assert [[len(part) for part in parts] for parts in taken.values()] == [[32, 32, 32, 4]] * 3
    everything = [name for parts in taken.values() for part in parts for name in part]
    assert len(everything) == len(set(everything)) == 300


def test_gradients_are_clipped_by_their_global_norm(make_job):
    job = make_job(training={"epochs": 1, "clip": 1e-3, "optimizer": "sgd", "weight_decay": 0.0})
    made, seen = trainer(job), []
    optimizer = only_optimizer(made)
    step = optimizer.step

    def look():
        grads = [value.grad for group in optimizer.param_groups for value in group["params"]]
        seen.append(float(torch.linalg.vector_norm(torch.cat([grad.flatten() for grad in grads]))))
        step()

    optimizer.step = look
    run(job, made)
    assert len(seen) == 7
    np.testing.assert_allclose(seen, 1e-3, rtol=1e-3)


def test_a_loss_that_is_not_finite_stops_at_its_step(make_job):
    job = make_job(statistics={"mean": [0.3], "std": [1e-40]})
    with pytest.raises(
        NotFinite,
        match=r"found a training loss of nan in step 1 of epoch 1; expected a finite one; lower training.learning_rate "
        r"\(now 0.003\), or look at the records of the window",
    ):
        run(job)
    assert not list((job.folder / "checkpoints").glob("epoch-*"))


@pytest.mark.parametrize(
    ("bad", "steps", "message"),
    [
        (16, None, "training loss of nan in step 20 of epoch 1"),
        (16, 17, "sum of weights of nan in step 17 of epoch 1"),
        (25, None, "training loss of nan in epoch 1"),
    ],
)
def test_a_loss_that_is_not_finite_stops_within_steps_and_before_a_checkpoint(make_job, bad, steps, message):
    job = make_job(training={"epochs": 2, "batch_size": 16, "checkpoint_steps": steps})
    made, calls = trainer(job), []
    loss = made._loss

    def last_is_bad(objective, batch):
        calls.append(1)
        return loss(objective, batch) * (math.nan if len(calls) == bad else 1)

    made._loss = last_is_bad
    with pytest.raises(NotFinite, match=message):
        run(job, made)
    assert not list((job.folder / "checkpoints").glob("epoch-*"))


def test_weights_that_blow_up_in_the_last_step_are_found_in_validation(make_job):
    job = make_job(training={"epochs": 1})
    made = trainer(job)
    optimizer = only_optimizer(made)
    step, calls = optimizer.step, []

    def last_blows_up():
        step()
        calls.append(1)
        if len(calls) == feed(made, rows(job, "train")).steps:
            with torch.no_grad():
                next(made.recipe.network.parameters()).fill_(math.inf)

    optimizer.step = last_blows_up
    with pytest.raises(NotFinite, match="found a validation output of nan in epoch 1; expected a finite one"):
        run(job, made)
    assert not list((job.folder / "checkpoints").glob("epoch-*"))


def test_ranks_that_go_on_from_other_epochs_stop(make_job):
    class Apart(OneOfThree):
        def all_gather(self, tensor):
            return torch.cat([tensor, tensor + 1, tensor])

    with pytest.raises(
        CommunicatorError, match=r"go on from \[\[0, 0\], \[1, 1\], \[0, 0\]\] .* expected one position; let all see"
    ):
        run(job := make_job(), trainer(job, Apart()))


def test_progress_tells_the_first_step_and_every_epoch(make_job):
    told = []
    job = make_job(training={"epochs": 2})
    run(job, trainer(job, say=told.append))
    assert told[0] == {"epoch": 1, "epochs": 2, "step": 1, "steps": 7}
    epochs = [line for line in told if "train_loss" in line]
    assert [line["epoch"] for line in epochs] == [1, 2]
    assert {"accuracy", "loss"} <= set(epochs[0]["validation"])


def two_phases(job):
    network = torch.nn.Sequential(Flat(), torch.nn.Linear(64, 10))
    loss = cross_entropy("network", "head")
    phases = (
        Phase("first", (Objective("a", ("network",), loss),), 0.5),
        Phase("second", (Objective("b", ("head",), loss),), 0.5),
    )
    return bare(job, {"network": network, "head": torch.nn.Linear(10, 10)}, phases)


def test_phases_take_their_share_of_the_epochs(make_job):
    job = make_job(training={"epochs": 4, "weight_decay": 0.0})
    made = two_phases(job)
    network, head = made.recipe.modules.values()
    assert [made._phase(epoch).name for epoch in range(1, 5)] == ["first", "first", "second", "second"]
    train = feed(made, rows(job, "train"))
    before = head.weight.clone(), network[1].weight.clone()
    made._epoch(1, train)
    assert torch.equal(head.weight, before[0]) and head.weight.grad is None
    assert not torch.equal(network[1].weight, before[1])
    moved = network[1].weight.clone()
    made._epoch(3, train)
    assert torch.equal(network[1].weight, moved)
    assert not torch.equal(head.weight, before[0])


def test_each_objective_of_a_step_moves_its_own(make_job):
    """As a GAN's: both losses go through both modules."""
    job = make_job(training={"epochs": 1, "optimizer": "sgd", "weight_decay": 0.0})
    network, head = torch.nn.Sequential(Flat(), torch.nn.Linear(64, 10)), torch.nn.Linear(10, 10)
    loss, grads = cross_entropy("network", "head"), []

    def against(modules, inputs, targets):
        grads.append((network[1].weight.requires_grad, head.weight.requires_grad))
        return -loss(modules, inputs, targets)

    phases = (Phase("both", (Objective("a", ("head",), against), Objective("b", ("network",), loss))),)
    made = bare(job, {"network": network, "head": head}, phases)
    _, curves = run(job, made)
    assert grads[-7:] == [(False, True)] * 7  # those before measured what a step takes
    assert math.isfinite(curves[0].train_loss)
    assert network[1].weight.requires_grad and head.weight.requires_grad


def test_early_stopping_takes_the_best_epoch(make_job):
    job = make_job(training={"epochs": 20, "patience": 2, "ema": 0.5})
    made = trainer(job)
    accuracy, seen = iter([0.5, 0.7, 0.7, 0.6, 0.9]), []
    measure = made._measure

    def told(epoch, validation):
        seen.append(kept(made._model()))
        return {**measure(epoch, validation), "accuracy": next(accuracy)}

    made._measure = told
    got, curves = run(job, made)
    assert [line.epoch for line in curves] == [1, 2, 3, 4]
    assert same(seen[1], got) and not same(seen[3], got)
    assert made.ran()["stopped"] == "no better accuracy for 2 epoch(s) after epoch 2"
    again, same_curves = run(job)  # what was lost after its last checkpoint trains no further
    assert same(again, got) and same_curves == curves


def test_earlier_phases_do_not_stop_it(make_job):
    job = make_job(training={"epochs": 8, "patience": 1, "schedule": "plateau"})
    made = two_phases(job)
    measure = made._measure
    made._measure = lambda epoch, validation: {**measure(epoch, validation), "accuracy": 0.5}
    _, curves = run(job, made)
    assert len(curves) == 6 and made.stopping.epoch == 5


def test_averaged_weights_are_validated_saved_and_the_model(make_job):
    job = make_job(training={"epochs": 1, "ema": 0.9, "optimizer": "sgd", "learning_rate": 0.1})
    made = trainer(job)
    wanted, number = state(made), 0
    optimizer = only_optimizer(made)
    step = optimizer.step

    def follow():
        nonlocal number
        step()
        number += 1
        decay = min(0.9, (1 + number) / (10 + number))
        for name, value in state(made).items():
            if name.endswith("num_batches_tracked"):
                wanted[name] = value
            else:
                wanted[name] = decay * wanted[name] + (1 - decay) * value

    optimizer.step = follow
    got, curves = run(job, made)
    for name, value in wanted.items():
        torch.testing.assert_close(got[name], value, rtol=1e-5, atol=1e-6)
    tensors, _ = load_checkpoint(job.folder / "checkpoints")
    assert all(torch.equal(tensors[f"average/{name}"], value) for name, value in got.items())
    assert not torch.equal(tensors["model/network/1.weight"], got["1.weight"])
    inputs, targets, _ = rows(job, "validation")
    with torch.no_grad():
        outputs = made.recipe.network.eval()(made.numerics.put(inputs)).cpu().numpy()
    assert curves[0].validation["accuracy"] == pytest.approx((outputs.argmax(1) == targets).mean(), abs=1e-6)


def test_factors_slow_layers_down_or_freeze_them(make_job):
    job = make_job(training={"epochs": 1, "optimizer": "sgd", "warmup_epochs": 0.0})
    factors = {"1.weight": 0.0, "2.weight": 0.0, "2.bias": 0.0, "4.weight": 0.5}
    made = trainer(job, factors=factors)
    before = state(made)
    got, _ = run(job, made)
    still = {name for name, value in got.items() if torch.equal(value, before[name])}
    assert still == {"0.mean", "0.std", "1.weight", *(name for name in got if name.startswith("2."))}
    rates = {group["factor"]: group["lr"] for group in only_optimizer(made).param_groups}
    assert set(rates) == {0.5, 1.0} and rates[0.5] == pytest.approx(0.5 * rates[1.0])
    frozen = [layer for layer in made.recipe.network if not layer.training]
    made._moving.begin(made.recipe.phases[0], {"cross_entropy": []})
    assert len(frozen) == len(list(made.recipe.network))
    assert [place for place, layer in enumerate(made.recipe.network) if not layer.training] == [1, 2]


def test_a_layer_that_modules_share_is_trained_and_kept_once(make_job):
    job = make_job(training={"epochs": 2, "optimizer": "adamw"})
    encoder, flat = torch.nn.Linear(64, 16), Flat()

    def size(modules, inputs, _):
        return modules["encoder"](flat(inputs)).square().mean()

    network = torch.nn.Sequential(Flat(), encoder, torch.nn.Linear(16, 10))
    phases = (
        Phase("alone", (Objective("a", ("encoder",), size),), 0.5),
        Phase("whole", (Objective("b", ("network", "encoder"), cross_entropy("network")),), 0.5),
    )  # fmt: skip
    made = bare(job, {"encoder": encoder, "network": network}, phases)
    assert [len(mover.parameters) for mover in made.movers.values()] == [2, 4]
    got, _ = run(job, made)
    tensors, about = load_checkpoint(job.folder / "checkpoints")
    assert "model/network/1.weight" not in tensors
    assert about["aliases"]["model/network/1.weight"] == "model/encoder/weight"
    again = bare(job, copy.deepcopy(dict(made.recipe.modules)), phases)
    assert same(run(job, again)[0], got)
    assert again.recipe.modules["network"][1].weight is again.recipe.modules["encoder"].weight
