"""Ctrl-C and kill -9 during training: nothing is left running, and the next run goes on where it was."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import dagster as dg
import psutil
import pytest

from dl_pipelines.store.home import Home
from resources.instance import open_instance
from tests.cli.conftest import digests
from tests.small import small, write

EPOCHS = 25
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, dlp) -> tuple[Path, Path]:
    """A home whose window is there, and a brief whose training by two workers lasts a few seconds."""
    folder = tmp_path_factory.mktemp("interrupted")
    brief = small(training={"epochs": EPOCHS}, distributed={"communicator": "horovod", "workers": 2})
    path, home = write(folder, brief), folder / "home"
    said = dlp("run", path, "--date", "2026-01-01", "--until", "training_window", "--home", home)
    assert said.code == 0
    return home, path


def checkpoints(home: Path) -> list[str]:
    """Epochs that are saved, oldest first."""
    found = (home / "work" / "small" / "trained_model").glob("*/checkpoints/epoch-*.json")
    return sorted(path.stem for path in found)


def begin(start, place: tuple[Path, Path], epochs: int) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """`dlp run`, some epochs into the training, and every process below it."""
    home, path = place
    before = int((checkpoints(home) or ["epoch-0"])[-1].partition("-")[2])
    process = start("run", path, "--date", "2026-01-01", "--until", "trained_model", "--home", home, "--json")
    end = time.monotonic() + 90
    while int((checkpoints(home) or ["epoch-0"])[-1].partition("-")[2]) < before + epochs:
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.02)
    below = psutil.Process(process.pid).children(recursive=True)
    commands = [" ".join(child.cmdline()) for child in below]
    assert sum("-m dl_pipelines.training.worker" in command for command in commands) >= 2
    return process, below


def living(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that are still there after this time at most."""
    _, left = psutil.wait_procs(processes, timeout=seconds)
    return [process for process in left if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def test_ctrl_c_ends_everything_and_the_next_run_goes_on(start, dlp, place):
    process, below = begin(start, place, 2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=40)
    assert living(below, 5) == []
    assert (process.returncode, out) == (1, "")
    assert err.splitlines()[-1] == "interrupted; what this command started has ended"
    assert "Traceback" not in err
    reached = int(checkpoints(place[0])[-1].partition("-")[2])
    assert 2 <= reached < EPOCHS
    with open_instance(Home(place[0])) as instance:
        assert instance.get_runs(limit=1)[0].status in (dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.FAILURE)

    process, below = begin(start, place, 1)
    process.kill()
    out, err = process.communicate(timeout=40)
    assert living(below, 8) == [], "a killed command leaves no worker"
    first = next(line for line in err.splitlines() if "epoch " in line)
    assert int(first.split("epoch ")[1].split(" ")[0]) > reached, "it went on from the checkpoint"
    with open_instance(Home(place[0])) as instance:
        (killed,) = instance.get_runs(limit=1)
        assert killed.status == dg.DagsterRunStatus.STARTED

    home, path = place
    said = dlp("run", path, "--date", "2026-01-01", "--until", "trained_model", "--home", home, "--json")
    assert said.code == 0, said.err
    assert f"epoch {EPOCHS} of {EPOCHS}" in said.err
    assert ("trained_model", "2026-01-01|base") in digests(said.json)
    assert checkpoints(home) == []
    with open_instance(Home(home)) as instance:
        assert instance.get_run_by_id(killed.run_id).status == dg.DagsterRunStatus.FAILURE
        messages = [event.message for event in instance.all_logs(killed.run_id)]
        assert any(f"its process {process.pid} is gone" in message for message in messages)
