import dataclasses
import sys
import types

import pytest
import torch
from safetensors.torch import load, save

from dl_pipelines.brief.sections import Pretrained
from dl_pipelines.models.registry import FAMILIES
from dl_pipelines.store import durable
from dl_pipelines.tasks.registry import TASKS
from dl_pipelines.training import worker
from tests.training.conftest import device_here


def test_a_worker_wants_a_job(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["worker"])
    with pytest.raises(SystemExit) as caught:
        worker.main()
    assert caught.value.code == 2
    assert "the following arguments are required: --job" in capsys.readouterr().err


@pytest.mark.parametrize(("variable", "rank"), [("HOROVOD_RANK", "3"), ("RANK", "1"), (None, "0")])
def test_a_failure_of_our_own_is_written_for_the_supervisor(make_job, monkeypatch, variable, rank):
    job = make_job("torch", 2)
    for name in ("HOROVOD_RANK", "RANK"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, rank)

    def fail(_):
        raise ValueError("found no records")

    monkeypatch.setattr(worker, "run", fail)
    monkeypatch.setattr(sys, "argv", ["worker", "--job", str(job.folder / "job.json")])
    with pytest.raises(ValueError, match="found no records"):
        worker.main()
    assert durable.read_json(job.folder / f"failure-{rank}.json") == {"message": "found no records"}


def test_another_exception_is_not_taken_for_a_failure_of_our_own(make_job, monkeypatch):
    job = make_job()

    def lose(_):
        raise RuntimeError("connection reset")

    monkeypatch.setattr(worker, "run", lose)
    monkeypatch.setattr(sys, "argv", ["worker", "--job", str(job.folder / "job.json")])
    with pytest.raises(RuntimeError, match="connection reset"):
        worker.main()
    assert not list(job.folder.glob("failure-*"))


def test_a_worker_measures_what_it_cost(make_job):
    job = make_job(training={"epochs": 2})
    worker.run(job)
    result = durable.read_json(job.folder / "result.json")
    assert (result["communicator"], result["workers"], result["threads"]) == ("single", 1, 1)
    assert result["torch"] == torch.__version__
    assert len(result["curves"]) == 2
    seconds = sum(line["seconds"] for line in result["curves"])
    assert 0 < seconds <= result["seconds"] + 0.01
    assert result["samples_per_second"] == pytest.approx(2 * 400 / seconds, rel=0.01)
    assert len(result["peak_memory_mb"]) == 1 and result["peak_memory_mb"][0] > 50
    assert (result["device"], result["precision"], result["stopped"]) == (device_here(), "fp32", None)
    assert not result["compile"]["compiled"]
    assert result["compile"]["why"].endswith(": too few for 40 s of compiling")


def test_a_job_finds_and_leaves_the_process_as_it_was(make_job):
    """Also when it fails."""
    jobs = [make_job(name=name, training={"epochs": 1}) for name in ("one", "other")]
    bad = make_job(name="bad", statistics={"mean": [0.3], "std": [1e-40]})
    torch.manual_seed(1)
    torch.set_num_threads(2)
    before, mode = torch.get_rng_state(), torch.get_deterministic_debug_mode()
    worker.run(jobs[0])
    with pytest.raises(ValueError, match="found a training loss of nan"):
        worker.run(bad)
    worker.run(jobs[1])
    assert torch.equal(torch.get_rng_state(), before)
    assert (torch.get_num_threads(), torch.get_deterministic_debug_mode()) == (2, mode)
    assert torch.get_default_dtype() == torch.float32
    one, other = ((job.folder / "final.safetensors").read_bytes() for job in jobs)
    assert one == other


def test_a_job_begins_from_pretrained_weights_unless_there_is_a_last_model(make_job, monkeypatch):
    job, given = make_job(training={"epochs": 1}), []
    finetune = types.ModuleType("finetune")
    finetune.prepare = lambda network, pretrained: (given.append(pretrained), {"1.weight": 0.0})[1]
    monkeypatch.setitem(sys.modules, "dl_pipelines.models.finetune", finetune)
    pretrained = Pretrained(weights="weights.safetensors")
    network = FAMILIES.make(job.family).network(TASKS.make(job.task), job.statistics)
    assert worker._begin_from(job, network) == {}
    assert worker._begin_from(dataclasses.replace(job, pretrained=pretrained), network) == {"1.weight": 0.0}
    assert given == [pretrained]
    last = {name: torch.full_like(value, 0.5) for name, value in network.state_dict().items()}
    (job.folder / "start.safetensors").write_bytes(save(last))
    assert worker._begin_from(dataclasses.replace(job, pretrained=pretrained), network) == {}
    assert given == [pretrained] and bool((network[1].weight == 0.5).all())


def test_shared_weights_are_written_under_each_name():
    layer = torch.nn.Linear(3, 3)
    found = load(worker._weights(torch.nn.ModuleList([layer, layer])))
    assert set(found) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert torch.equal(found["0.weight"], found["1.weight"])
