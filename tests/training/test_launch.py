import os
import signal
import subprocess
import sys

import psutil
import pytest

from dl_pipelines.brief.sections import Distributed
from dl_pipelines.training import launch
from tests.training.conftest import wait_for


def gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_workers_see_little_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("DLP_DATABASE_URL", "postgresql://secret")
    monkeypatch.setenv("LANG", "C.UTF-8")
    plain = launch.worker_environment(3)
    assert set(plain) <= {*launch.PASSED, "OMP_NUM_THREADS", "PYTHONPATH", "PYTHONUNBUFFERED"}
    assert (plain["LANG"], plain["OMP_NUM_THREADS"]) == ("C.UTF-8", "3")
    assert (plain["PATH"], plain["PYTHONUNBUFFERED"]) == (os.environ["PATH"], "1")
    full = launch.worker_environment(3, tmp_path)
    assert {name: full[name] for name in full if name not in plain} == {
        "DLP_TORCH_STORE": str(tmp_path / "store"),
        "GLOO_SOCKET_IFNAME": "lo",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }


@pytest.mark.parametrize(("communicator", "workers"), [("single", 1), ("torch", 3), ("horovod", 3)])
def test_each_communicator_has_its_launcher(tmp_path, communicator, workers):
    command = launch.worker_command(
        tmp_path / "job.json", Distributed(communicator=communicator, workers=workers), tmp_path
    )
    worker = [sys.executable, "-m", "dl_pipelines.training.worker", "--job", str(tmp_path / "job.json")]
    assert command[-5:] == worker
    assert launch.die_with_parent("KILL") == command[-5 - len(launch.die_with_parent()) : -5]
    if communicator == "torch":
        assert command[:3] == [sys.executable, "-m", "torch.distributed.run"]
        assert command[command.index("--nproc-per-node") + 1] == "3"
    if communicator == "horovod":
        assert command[0].endswith("/bin/horovodrun")
        assert command[1:3] == ["-np", "3"]
        assert command[command.index("--network-interfaces") + 1] == "lo"


def test_horovod_without_its_launcher_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    message = (
        rf"found no {tmp_path}/horovodrun; expected Horovod's launcher; run `make setup`, then `dlp doctor`, or set "
        "distributed.communicator to torch"
    )
    with pytest.raises(ValueError, match=message):
        launch.worker_command(tmp_path / "job.json", Distributed(), tmp_path)


def test_a_command_that_fails_is_told_by_its_code():
    launch.run_locally([sys.executable, "-c", "pass"], {})
    with pytest.raises(launch.LaunchFailed, match="the training's supervisor ended with code 7") as caught:
        launch.run_locally([sys.executable, "-c", "raise SystemExit(7)"], {})
    assert caught.value.code == 7


def test_a_command_gets_only_the_environment_it_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "secret")
    script = f"import os; open({str(tmp_path / 'env')!r}, 'w').write(repr(sorted(os.environ)))"
    launch.run_locally([sys.executable, "-c", script], {"GIVEN": "1"})
    assert "SOME_TOKEN" not in (tmp_path / "env").read_text()
    assert "GIVEN" in (tmp_path / "env").read_text()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_command_ends_with_its_parent(tmp_path, number):
    pid_file = tmp_path / "pid"
    script = "import sys; from dl_pipelines.training.launch import run_locally\nrun_locally(sys.argv[1:], {})"
    inner = ["sh", "-c", f"echo $$ > {pid_file}; exec sleep 600"]
    parent = subprocess.Popen([sys.executable, "-c", script, *inner], stderr=subprocess.DEVNULL)
    wait_for(lambda: pid_file.exists() and bool(pid_file.read_text().strip()))
    pid = int(pid_file.read_text())
    parent.send_signal(number)
    parent.wait(30)
    wait_for(lambda: gone(pid), 10)


@pytest.mark.skipif(not launch.sandbox_prefix(), reason="this system allows no user namespaces")
def test_the_sandbox_has_loopback_and_nothing_else():
    done = subprocess.run(
        [*launch.sandbox_prefix(), "cat", "/proc/net/dev"], capture_output=True, text=True, check=True
    )
    assert [line.split(":")[0].strip() for line in done.stdout.splitlines()[2:]] == ["lo"]
    reach = "import socket; s = socket.socket(); s.settimeout(2); s.connect(('192.0.2.1', 9))"
    outside = subprocess.run(
        [*launch.sandbox_prefix(), sys.executable, "-c", reach], capture_output=True, text=True, check=False
    )
    assert "Network is unreachable" in outside.stderr


def test_without_namespaces_there_is_no_sandbox(monkeypatch):
    monkeypatch.setattr(launch.shutil, "which", lambda _: None)
    assert launch.sandbox_prefix.__wrapped__() == ()
    assert launch.die_with_parent() == []


def test_a_namespace_that_is_refused_is_no_sandbox(monkeypatch, tmp_path):
    refusing = tmp_path / "unshare"
    refusing.write_text("#!/bin/sh\necho 'Operation not permitted' >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert launch.sandbox_prefix.__wrapped__() == ()
