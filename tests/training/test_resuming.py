"""Bit for bit: two workers that are interrupted at any step and go on, by both libraries that workers talk through."""

import json
import subprocess

import pytest

from dl_pipelines.training.launch import sandbox_prefix, worker_command, worker_environment
from tests.training import resuming_program as program


@pytest.fixture(scope="module", params=["torch", "horovod"])
def found(request, tmp_path_factory):
    """Of each rank: by setting the weights of the whole and of the interrupted training."""
    from tests.training.conftest import write_job

    folder = tmp_path_factory.mktemp(request.param) / "job"
    job = write_job(folder, request.param, 2, records=7 * 64)
    command = worker_command(folder / "job.json", job.distributed, folder)
    end = command.index("dl_pipelines.training.worker")
    command = [*sandbox_prefix(), *command[: end - 1], program.__file__, request.param, str(folder / "job.json")]
    done = subprocess.run(command, env=worker_environment(1, folder), capture_output=True, text=True, timeout=250)
    logs = "".join(path.read_text()[-3000:] for path in folder.rglob("stderr*"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    return [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", program.SETTINGS)
def test_two_workers_that_go_on_end_bitwise_as_undisturbed_ones(found, name):
    ours, theirs = (rank[name] for rank in found)
    assert ours["resumed"] == ours["whole"]
    assert ours == theirs


def test_they_went_on_within_an_epoch(found):
    assert any(found[0][name]["at"] for name in program.SETTINGS)


def test_what_compiles_nothing_imports_no_compiler(found):
    """Torch's own optimizers do, and each worker would take seconds longer to begin."""
    assert [rank["compiler"] for rank in found] == [[], []]
