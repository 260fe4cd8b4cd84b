import shutil
import time

import pytest
import torch

from dl_pipelines.brief.sections import Training
from dl_pipelines.models.recipe import Objective
from dl_pipelines.store import durable
from dl_pipelines.training import compiling
from dl_pipelines.training.communicators.single import SingleCommunicator
from dl_pipelines.training.compiling import Choice, NoCompiler
from dl_pipelines.training.precision import choose
from tests.training.test_loop import rows, run, trainer

NUMERICS = choose(Training(device="cpu"))


def slow(modules, inputs, targets):
    time.sleep(0.01)
    return fast(modules, inputs, targets)


def fast(modules, inputs, targets):
    hidden = torch.nn.functional.dropout(modules["network"](inputs), 0.5)
    return torch.nn.functional.cross_entropy(hidden, targets)


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))


def decide(setting, steps, loss=slow, modules=None):
    objectives = [Objective("loss", ("network",), loss)]
    batch = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(8, dtype=torch.int64)
    return compiling.decide(setting, objectives, modules or {"network": network()}, NUMERICS, lambda: batch, steps)


@pytest.fixture
def instantly(monkeypatch):
    """Compiling takes no time and gives the function that is set."""
    monkeypatch.setattr(compiling, "COMPILE_SECONDS", 0.0)
    monkeypatch.setattr(compiling, "forget", lambda: None)

    def give(loss):
        monkeypatch.setattr(compiling, "compile_losses", lambda objectives: {item.name: loss for item in objectives})

    return give


def test_off_and_on_are_not_measured(monkeypatch):
    monkeypatch.setattr(compiling, "compiler", lambda: "/usr/bin/g++")
    assert decide("off", 10**9) == Choice(False, "training.compile is off")
    assert decide("on", 1) == Choice(True, "training.compile is on")


def test_without_a_compiler_it_is_not_compiled_or_said(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert decide("auto", 10**9) == Choice(False, "there is no C++ compiler")
    with pytest.raises(NoCompiler, match=r"found training.compile: on and no C\+\+ compiler; expected one of g"):
        decide("on", 1)


def test_a_short_training_is_not_worth_measuring():
    found = decide("auto", 100)
    assert not found.compiled and len(found.milliseconds) == 1
    assert found.why.startswith("100 batches of ") and found.why.endswith("too few for 40 s of compiling")


def test_what_is_faster_compiled_is_compiled_and_what_is_not_is_not(instantly):
    instantly(fast)
    found = decide("auto", 10**6)
    assert found.compiled and found.why.endswith(": it pays")
    assert found.milliseconds[0] > found.milliseconds[1]
    instantly(slow)
    found = decide("auto", 10, fast)
    assert not found.compiled and found.why.endswith(": it does not pay")


def test_what_can_not_be_compiled_is_not(instantly):
    def fails(*_):
        raise RuntimeError("unsupported")

    instantly(fails)
    found = decide("auto", 10**6)
    assert not found.compiled and found.why == "torch.compile failed: RuntimeError"


def test_measuring_changes_nothing(instantly):
    instantly(fast)
    modules = {"network": network()}
    before = {name: value.clone() for name, value in modules["network"].state_dict().items()}
    state = torch.get_rng_state()
    decide("auto", 10**6, modules=modules)
    assert all(torch.equal(value, before[name]) for name, value in modules["network"].state_dict().items())
    assert all(value.grad is None for value in modules["network"].parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_choice_is_written_down_and_replayed_by_every_rank(tmp_path):
    path, made = tmp_path / "compile.json", []

    def choose_it():
        made.append(1)
        return Choice(True, "it pays", (2.0, 1.0))

    first = compiling.agree(SingleCommunicator(), path, choose_it)
    again = compiling.agree(SingleCommunicator(), path, choose_it)
    assert (first.compiled, again.compiled, len(made)) == (True, True, 1)
    assert durable.read_json(path) == {"compiled": True, "why": "it pays", "milliseconds": [2.0, 1.0]}

    class Second(SingleCommunicator):
        rank, size = 1, 2

        def broadcast(self, tensor, root=0):
            return torch.ones_like(tensor)

    assert compiling.agree(Second(), path, choose_it).compiled and len(made) == 1


def test_what_a_checkpoint_was_trained_with_is_replayed(make_job, monkeypatch):
    job = make_job(training={"epochs": 2})
    made = trainer(job)
    made.run(rows(job, "train"), rows(job, "validation"), job.folder / "checkpoints", 1)
    (job.folder / "checkpoints" / "compile.json").unlink()
    monkeypatch.setattr(compiling, "decide", lambda *_: pytest.fail("was measured again"))
    again = trainer(job)
    run(job, again)
    assert again.compiling.plain() | {"milliseconds": 0} == made.compiling.plain() | {"milliseconds": 0}


def test_whole_batches_are_compiled_and_the_last_one_is_not(make_job, monkeypatch):
    sizes, forgotten = [], []

    def watched(objectives):
        (item,) = objectives

        def loss(modules, inputs, targets):
            sizes.append(len(inputs))
            return item.loss(modules, inputs, targets)

        return {item.name: loss}

    monkeypatch.setattr(compiling, "compiler", lambda: "/usr/bin/g++")
    monkeypatch.setattr(compiling, "compile_losses", watched)
    monkeypatch.setattr(compiling, "forget", lambda: forgotten.append(1))
    job = make_job(training={"epochs": 1, "compile": "on"})
    made = trainer(job)
    run(job, made)
    assert sizes == [64] * 6 and forgotten == [1]
    assert made.ran()["compile"]["why"] == "training.compile is on"
