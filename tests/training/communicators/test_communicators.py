"""The same collectives by one process, by torch's workers and by Horovod's, against numpy."""

import builtins
import json
import math
import subprocess

import numpy as np
import pytest
import torch

from dl_pipelines.brief.sections import Distributed
from dl_pipelines.training.communicators import CommunicatorError, connect
from dl_pipelines.training.communicators.single import SingleCommunicator
from dl_pipelines.training.launch import sandbox_prefix, worker_command, worker_environment
from tests.training.communicators import program

KINDS = [("single", 1), ("torch", 3), ("horovod", 2)]


@pytest.fixture(scope="module", params=KINDS, ids=[name for name, _ in KINDS])
def found(request, tmp_path_factory):
    """What every rank of a communicator found, started as the supervisor starts workers."""
    name, count = request.param
    folder = tmp_path_factory.mktemp(name)
    command = worker_command(folder / "job.json", Distributed(communicator=name, workers=count), folder)
    end = command.index("dl_pipelines.training.worker")
    command = [*sandbox_prefix(), *command[: end - 1], program.__file__, name, str(folder / "out")]
    done = subprocess.run(command, env=worker_environment(1, folder), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads((folder / f"out-{rank}.json").read_text()) for rank in range(count)]
    assert [(item["name"], item["rank"], item["size"]) for item in results] == [
        (name, rank, count) for rank in range(count)
    ]
    return results


def parts(size):
    return [np.arange(6.0).reshape(2, 3) * (rank + 1) for rank in range(size)]


def test_collectives_are_numpys(found):
    size = len(found)
    mine = parts(size)
    rows = sum(np.arange(4.0 * size).reshape(2 * size, 2) + 10 * rank for rank in range(size))
    for rank, item in enumerate(found):
        np.testing.assert_array_equal(item["broadcast"], mine[-1])
        assert item["broadcast_whole"] == 7
        np.testing.assert_array_equal(item["sum"], np.sum(mine, axis=0))
        np.testing.assert_array_equal(item["mean"], np.mean(mine, axis=0))
        np.testing.assert_array_equal(item["gather"], np.concatenate(mine))
        np.testing.assert_array_equal(item["scatter"], rows[2 * rank : 2 * rank + 2])
        np.testing.assert_array_equal(item["unchanged"], mine[rank])


def test_a_barrier_waits_for_the_last(found):
    if len(found) > 1:
        assert found[0]["waited"] >= 0.45


def test_gradients_are_those_of_the_joined_batch_in_one_process(found):
    size = len(found)
    wanted = program.gradients(SingleCommunicator(), size)
    for item in found:
        for ours, single in zip(item["gradients"], wanted, strict=True):
            np.testing.assert_allclose(ours, single, rtol=1e-5, atol=1e-7)
        for ours, single in zip(item["gradients_by_sockets"], wanted, strict=True):
            np.testing.assert_allclose(ours, single, rtol=1e-5, atol=1e-7)
        for kind, tolerance in (("fp16", 2e-3), ("bf16", 1.6e-2)):
            for ours, single in zip(item[f"gradients_{kind}"], wanted, strict=True):
                np.testing.assert_allclose(ours, single, rtol=tolerance, atol=tolerance / 10)
    for name in ("gradients", "gradients_by_sockets", "gradients_fp16", "gradients_bf16"):
        assert all(item[name] == found[0][name] for item in found)


def test_gradients_are_bitwise_the_same_whichever_arrives_first(found):
    for name, digests in found[0]["arrivals"].items():
        assert len({digest for item in found for digest in item["arrivals"][name]}) == 1, (name, digests)


def test_shared_memory_has_no_name_that_a_killed_worker_would_leave(found):
    for item in found:
        maps, deleted = item["shared"]
        assert deleted
        assert (maps > 0) == (len(found) > 1)


def test_adasum_without_mpi_is_an_error(found):
    have = {"single": "one process", "torch": "torch.distributed", "horovod": "a Horovod built without MPI"}
    for item in found:
        assert item["adasum"] == (
            f"found distributed.reduction adasum with {have[item['name']]}; expected Horovod with MPI, or with NCCL on "
            "a GPU; set distributed.reduction to average"
        )


def test_a_step_is_clipped_by_the_norm_of_the_joined_batch(found):
    size = len(found)
    model = program.network()
    inputs, targets = program.batch(size)
    torch.nn.functional.cross_entropy(model(inputs), targets).backward()
    norm = math.sqrt(sum(float((value.grad**2).sum()) for value in model.parameters()))
    assert norm > 0.1
    wanted = [(value - 0.1 * value.grad * 0.05 / norm).detach().flatten().numpy() for value in model.parameters()]
    for item in found:
        for ours, by_hand in zip(item["clipped"], wanted, strict=True):
            np.testing.assert_allclose(ours, by_hand, rtol=1e-5, atol=1e-7)
    if size > 1:
        assert found[0]["clipped"] == found[1]["clipped"]


def test_horovod_that_is_missing_is_an_error_not_another_communicator(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("horovod"):
            raise ImportError("No module named 'horovod'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    message = (
        r"found no working Horovod \(No module named 'horovod'\); expected the wheel that set-up builds; run `make "
        r"setup`, then `dlp doctor`, or set distributed.communicator to torch"
    )
    with pytest.raises(CommunicatorError, match=message):
        connect("horovod")


def test_torch_outside_of_torchrun_is_an_error(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(CommunicatorError, match="found no RANK in the environment; expected to be started by torchrun"):
        connect("torch")


def test_an_unknown_communicator_is_an_error():
    with pytest.raises(CommunicatorError, match="found the communicator 'mpi'; expected horovod, torch or single"):
        connect("mpi")
