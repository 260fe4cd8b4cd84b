"""How workers are started: each communicator's command, where only loopback exists, ended with their parent."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from dl_pipelines.brief.sections import Distributed

PASSED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "XDG_CACHE_HOME")
"""What workers may see of the environment: Horovod puts all of it on their command lines, so never a secret."""


class Launcher(Protocol):
    """Runs a command to its end, with its parent's life as its own. Raises LaunchFailed on another exit code than 0."""

    def __call__(self, command: list[str], env: Mapping[str, str]) -> None:
        """Run it."""
        ...


class LaunchFailed(ValueError):
    """A launched command ended with an exit code other than 0."""

    def __init__(self, code: int):
        self.code = code
        super().__init__(f"the training's supervisor ended with code {code}")


def run_locally(command: list[str], env: Mapping[str, str]) -> None:
    """The plain Launcher: a subprocess that is told to end when this process is interrupted."""
    process = subprocess.Popen([*die_with_parent(), *command], env=dict(env), start_new_session=True)
    try:
        code = process.wait()
    except BaseException:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        process.wait()
        raise
    if code != 0:
        raise LaunchFailed(code)


def worker_environment(threads: int) -> dict[str, str]:
    """The environment of workers: little of ours, and the number of threads."""
    kept = {name: os.environ[name] for name in PASSED if name in os.environ}
    root = str(Path(__file__).resolve().parents[2])
    return {**kept, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": root, "PYTHONUNBUFFERED": "1"}


def die_with_parent() -> list[str]:
    """A prefix under which a command gets SIGTERM when its parent dies, however that dies."""
    binary = shutil.which("setpriv")
    return [binary, "--pdeathsig", "TERM", "--"] if binary else []


@functools.cache
def sandbox_prefix() -> tuple[str, ...]:
    """A prefix under which only loopback exists (Horovod's rendezvous unpickles what it gets); empty if not allowed."""
    prefix = ("unshare", "-Urn", "--", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
    if shutil.which("unshare") is None:
        return ()
    allowed = subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
    return prefix if allowed else ()


def worker_command(job: Path, distributed: Distributed, logs: Path) -> list[str]:
    """The command that starts every worker of a job and ends when all have ended.

    Raises ValueError when the launcher of the communicator is not there.
    """
    worker = ["-m", "dl_pipelines.training.worker", "--job", str(job)]
    python, count = sys.executable, str(distributed.workers)
    if distributed.communicator == "single":
        return [python, *worker]
    if distributed.communicator == "torch":
        return [
            python, "-m", "torch.distributed.run", "--nproc-per-node", count, "--master-addr", "127.0.0.1",
            "--master-port", str(free_port()), "--redirects", "3", "--log-dir", str(logs), *worker,
        ]  # fmt: skip
    launcher = Path(python).parent / "horovodrun"
    if not launcher.exists():
        raise ValueError(
            f"found no {launcher}; expected Horovod's launcher; run `make setup`, then `dlp doctor`, or set "
            "distributed.communicator to torch"
        )
    return [
        str(launcher), "-np", count, "-H", f"localhost:{count}", "--gloo", "--network-interfaces", "lo",
        "--disable-cache", "--output-filename", str(logs), python, *worker,
    ]  # fmt: skip


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
