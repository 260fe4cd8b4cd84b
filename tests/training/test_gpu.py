"""On a GPU: killed workers that go on bit for bit in each format, loss scaling, pinned batches, compiling."""

import signal
import subprocess

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dl_pipelines.brief.sections import Training
from dl_pipelines.data.feed import Feed
from dl_pipelines.store import durable
from dl_pipelines.training import compiling
from dl_pipelines.training.job import FINAL, PROGRESS, RESULT, Job
from dl_pipelines.training.launch import sandbox_prefix, worker_command, worker_environment
from dl_pipelines.training.precision import Numerics, choose
from dl_pipelines.training.supervise import end_tree
from tests.training.test_loop import feed, rows, run, trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

EPOCHS, RECORDS = 8, 1500
FORMATS = {
    "fp32": {"optimizer": "sgd", "learning_rate": 0.05},
    "bf16": {"optimizer": "muon", "clip": 1.0},
    "fp16": {"ema": 0.9, "accumulate": 2, "batch_size": 16, "checkpoint_steps": 3},
}


@pytest.fixture
def begin():
    """A function: starts the workers of a job; whatever of them is left at the end of the test is ended."""
    started = []

    def start(job, attempt):
        logs = job.folder / "logs" / attempt
        logs.mkdir(parents=True)
        command = [*sandbox_prefix(), *worker_command(job.folder / "job.json", job.distributed, logs)]
        with (logs / "stderr").open("wb") as file:
            started.append(subprocess.Popen(command, env=worker_environment(1, logs), stdout=file, stderr=file))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            end_tree(process, 0.0)


def finish(process: subprocess.Popen[bytes], job: Job) -> dict:
    """What the workers measured, once they have ended well."""
    assert process.wait(200) == 0, "\n".join(path.read_text()[-3000:] for path in job.folder.rglob("stderr*"))
    return durable.read_json(job.folder / RESULT)


def newest(job: Job) -> tuple[int, int]:
    """Epochs, and steps of the next one, of the newest checkpoint; (0, 0) while there is none."""
    names = [path.stem.split("-")[1:] for path in (job.folder / "checkpoints").glob("epoch-*.json")]
    return max(((int(name[0]), int(name[1]) if name[1:] else 0) for name in names), default=(0, 0))


@pytest.mark.slow
@pytest.mark.parametrize("precision", FORMATS)
@pytest.mark.parametrize(("communicator", "workers"), [("single", 1), ("torch", 2)])
def test_a_killed_training_ends_with_an_undisturbed_ones_bytes(make_job, begin, wait, communicator, workers, precision):
    training = {"epochs": EPOCHS, "precision": precision, **FORMATS[precision]}
    whole, killed = (make_job(communicator, workers, RECORDS, name=name, training=training) for name in ("w", "k"))
    undisturbed, first = begin(whole, "1"), begin(killed, "1")
    begun = (2, 1) if "checkpoint_steps" in training else (2, 0)
    wait(lambda: first.poll() is not None or newest(killed) >= begun)
    end_tree(first, 0.0)
    assert first.returncode == -signal.SIGKILL, (killed.folder / "logs" / "1" / "stderr").read_text()[-3000:]
    at = newest(killed)
    assert begun <= at < (EPOCHS, 0) and bool(at[1]) == bool(begun[1]), "within an epoch, where steps are kept"
    found, wanted = finish(begin(killed, "2"), killed), finish(undisturbed, whole)
    assert (killed.folder / FINAL).read_bytes() == (whole.folder / FINAL).read_bytes()
    told = (killed.folder / PROGRESS).read_text()
    assert told.count(f'"epoch": 1, "epochs": {EPOCHS}, "train_loss"') == 1, "it went on"
    for result in (found, wanted):
        assert (result["device"], result["precision"], result["workers"]) == ("cuda", precision, workers)
    assert [line["train_loss"] for line in found["curves"]] == [line["train_loss"] for line in wanted["curves"]]
    assert wanted["curves"][-1]["train_loss"] < wanted["curves"][0]["train_loss"]


def test_gradients_that_overflow_cost_one_step_and_half_the_scale(make_job):
    job, bad = make_job(training={"epochs": 2, "precision": "fp16"}), 4
    made = trainer(job)
    made.scaler = torch.amp.GradScaler(made.numerics.device.type, init_scale=1024.0)
    step, loss, still, scales = made._step, made._loss, [], []

    def steep(objective, batch):
        found = loss(objective, batch)
        return found + 1e9 * (found - found.detach()) if len(scales) == bad else found

    def watched(*args):
        before = [value.detach().clone() for value in made.recipe.network.parameters()]
        step(*args)
        pairs = zip(before, made.recipe.network.parameters(), strict=True)
        still.append(all(torch.equal(one, other) for one, other in pairs))
        scales.append(made.scaler.get_scale())

    made._loss, made._step = steep, watched
    _, curves = run(job, made)
    assert scales == [1024.0] * bad + [512.0] * (14 - bad)
    assert still == [number == bad for number in range(14)]
    assert curves[1].train_loss < curves[0].train_loss


def test_mixed_is_bf16_where_the_card_multiplies_in_it():
    wanted = "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp16"
    assert choose(Training(precision="mixed")).precision == wanted


def test_batches_arrive_as_they_were_made_however_late_they_are_copied(make_job):
    """The host is far ahead of the device: memory that is used again too early would hold a later batch."""
    job = make_job(records=RECORDS, training={"batch_size": 16})
    made = trainer(job)
    plain = list(feed(made, rows(job, "train")).epoch(1))
    pinned = Feed(rows(job, "train"), made.online, 16, job.training.seed, ahead=2, pinned=True)
    torch.cuda._sleep(10**9)  # about half a second
    arrived = [[made.numerics.put(array) for array in batch] for batch in pinned.epoch(1)]
    for batch, wanted in zip(arrived, plain, strict=True):
        for found, array in zip(batch, wanted, strict=True):
            assert found.device.type == "cuda" and np.array_equal(found.cpu().numpy(), array)


def test_a_training_is_fed_from_pinned_memory(make_job, monkeypatch):
    job, seen, put = make_job(training={"epochs": 1}), [], Numerics.put
    made = trainer(job)

    def watched(numerics, array):
        if made.recipe.network.training:  # else it is a row of the validation, which comes from the disk
            seen.append(torch.from_numpy(array).is_pinned())
        return put(numerics, array)

    monkeypatch.setattr(Numerics, "put", watched)
    run(job, made)
    assert len(seen) >= 14 and all(seen)


@pytest.mark.slow
@pytest.mark.skipif(compiling.compiler() is None, reason="needs a C++ compiler")
def test_a_compiled_training_learns(make_job, begin):
    job = make_job(training={"epochs": 4, "compile": "on"})
    result = finish(begin(job, "1"), job)
    assert (result["device"], result["compile"]["compiled"]) == ("cuda", True)
    assert result["curves"][-1]["train_loss"] < result["curves"][0]["train_loss"]
    assert all(bool(value.isfinite().all()) for value in load_file(job.folder / FINAL).values())
