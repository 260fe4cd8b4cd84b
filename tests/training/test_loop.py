import math

import numpy as np
import pytest
import torch

from dl_pipelines.data.augmentation import Online
from dl_pipelines.data.feed import Feed
from dl_pipelines.models.recipe import Objective, Phase, Recipe
from dl_pipelines.models.registry import FAMILIES
from dl_pipelines.tasks.registry import TASKS
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
    return {name: value.clone() for name, value in made.recipe.network.state_dict().items()}


def run(job, made=None):
    made = made or trainer(job)
    curves = made.run(rows(job, "train"), rows(job, "validation"), job.folder / "checkpoints")
    return state(made), curves


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_that_goes_on_is_bitwise_the_undisturbed_one(make_job, optimizer, precision):
    training = {"epochs": 3, "optimizer": optimizer, "precision": precision}
    job, undisturbed = make_job(name="one", training=training), make_job(name="other", training=training)
    wanted, curves = run(undisturbed)

    class Stop(Exception):
        pass

    def stop(line):
        if line.get("train_loss") and line["epoch"] == 2:
            raise Stop

    with pytest.raises(Stop):
        run(job, trainer(job, say=stop))
    torch.rand(5)  # whatever is drawn in between must not matter
    got, again = run(job)
    assert same(wanted, got)
    assert [(line.epoch, line.train_loss, line.validation) for line in again] == [
        (line.epoch, line.train_loss, line.validation) for line in curves
    ]
    assert curves[-1].train_loss < curves[0].train_loss
    files = {path.suffix for path in (job.folder / "checkpoints").iterdir()}
    assert files == {".json", ".safetensors"}


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


def torch_rates(training, steps):
    """What torch's own schedulers give, step by step: LinearLR, then CosineAnnealingLR or ConstantLR."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=training.learning_rate)
    warm, total = int(training.warmup_epochs * steps), training.epochs * steps
    schedulers = torch.optim.lr_scheduler
    after = (
        schedulers.CosineAnnealingLR(optimizer, total - warm)
        if training.schedule == "cosine"
        else schedulers.ConstantLR(optimizer, factor=1.0)
    )
    chain = after
    if warm:
        first = schedulers.LinearLR(optimizer, 1 / (warm + 1), 1.0, total_iters=warm)
        chain = schedulers.SequentialLR(optimizer, [first, after], [warm])
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        chain.step()
    return rates


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.5, 2.0])
@pytest.mark.filterwarnings(
    "ignore:The epoch parameter in `scheduler.step", "ignore:Please also save or load the state"
)
def test_rates_are_those_of_torchs_schedulers(make_job, schedule, warmup):
    job = make_job(training={"epochs": 4, "schedule": schedule, "warmup_epochs": warmup, "learning_rate": 0.01})
    made, steps = trainer(job), 8
    ours = [made._rate(step, steps) for step in range(4 * steps)]
    np.testing.assert_allclose(ours, torch_rates(job.training, steps), rtol=1e-9, atol=1e-12)


def test_every_step_runs_at_its_rate(make_job):
    job = make_job(training={"epochs": 2, "warmup_epochs": 0.5, "optimizer": "sgd"})
    made, seen = trainer(job), []
    (optimizer,) = made.optimizers.values()
    step = optimizer.step
    optimizer.step = lambda: (seen.append(optimizer.param_groups[0]["lr"]), step())[1]  # type: ignore[method-assign]
    _, curves = run(job, made)
    steps = feed(made, rows(job, "train")).steps
    assert steps == 7
    np.testing.assert_allclose(seen, torch_rates(job.training.model_copy(update={"warmup_epochs": 3 / 7}), 7), rtol=0.2)
    assert seen == [made._rate(number, steps) for number in range(2 * steps)]
    assert curves[-1].learning_rate == seen[-1]


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
    (optimizer,) = made.optimizers.values()
    step = optimizer.step

    def look():
        grads = [value.grad for group in optimizer.param_groups for value in group["params"]]
        seen.append(float(torch.linalg.vector_norm(torch.cat([grad.flatten() for grad in grads]))))
        step()

    optimizer.step = look  # type: ignore[method-assign]
    run(job, made)
    assert len(seen) == 7
    np.testing.assert_allclose(seen, 1e-3, rtol=1e-3)
    assert trainer(make_job(name="any"))._clip(optimizer) is None


def test_a_loss_that_is_not_finite_stops_at_its_step(make_job):
    job = make_job(statistics={"mean": [0.3], "std": [1e-40]})
    with pytest.raises(
        NotFinite,
        match=r"found a training loss of nan in step 1 of epoch 1; expected a finite one; lower training.learning_rate "
        r"\(now 0.003\), or look at the records of the window",
    ):
        run(job)
    assert not (job.folder / "checkpoints").exists()


def test_weights_that_blow_up_in_the_last_step_are_found_in_validation(make_job):
    job = make_job(training={"epochs": 1})
    made = trainer(job)
    (optimizer,) = made.optimizers.values()
    step, calls = optimizer.step, []

    def last_blows_up():
        step()
        calls.append(1)
        if len(calls) == feed(made, rows(job, "train")).steps:
            with torch.no_grad():
                next(made.recipe.network.parameters()).fill_(math.inf)

    optimizer.step = last_blows_up  # type: ignore[method-assign]
    with pytest.raises(NotFinite, match="found a validation output of nan in epoch 1; expected a finite one"):
        run(job, made)
    assert not (job.folder / "checkpoints").exists()


def test_ranks_that_go_on_from_other_epochs_stop(make_job):
    class Apart(OneOfThree):
        def all_gather(self, tensor):
            return torch.cat([tensor, tensor + 1, tensor])

    with pytest.raises(
        CommunicatorError, match=r"go on from the epochs \[0, 1, 0\]; expected one; let all see the same"
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


def test_phases_take_their_share_of_the_epochs(make_job):
    job = make_job(training={"epochs": 4, "weight_decay": 0.0})
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    head = torch.nn.Linear(10, 10)

    def loss(modules, inputs, targets):
        return torch.nn.functional.cross_entropy(modules["head"](modules["network"](inputs.float())), targets)

    phases = (
        Phase("first", (Objective("a", ("network",), loss),), 0.5),
        Phase("second", (Objective("b", ("head",), loss),), 0.5),
    )
    made = Trainer(
        Recipe({"network": network, "head": head}, "network", phases), TASKS.make(job.task), job.training,
        Online(job.augmentation), SingleCommunicator(),
    )  # fmt: skip
    assert [made._phase(epoch).name for epoch in range(1, 5)] == ["first", "first", "second", "second"]
    train = feed(made, rows(job, "train"))
    before = head.weight.clone(), network[1].weight.clone()
    made._epoch(1, train)
    assert torch.equal(head.weight, before[0])
    assert not torch.equal(network[1].weight, before[1])
    moved = network[1].weight.clone()
    made._epoch(3, train)
    assert torch.equal(network[1].weight, moved)
    assert not torch.equal(head.weight, before[0])
