import sys

import pytest
import torch

from dl_pipelines.store import durable
from dl_pipelines.training import worker


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


@pytest.fixture
def torch_settings():
    """torch's process-wide settings, as they were."""
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    yield
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode(mode)


@pytest.mark.usefixtures("torch_settings")
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
    assert torch.get_deterministic_debug_mode() == 2
