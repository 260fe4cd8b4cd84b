"""How workers are started: each communicator's command, where only loopback exists, ended with their parent."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from dl_pipelines.brief.sections import Distributed
from dl_pipelines.training.hosts import HOSTFILE, INTERFACE, Network, hosts_of, network_of

PASSED = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "XDG_CACHE_HOME",
    INTERFACE, HOSTFILE,
)  # fmt: skip
"""What workers may see of the environment: Horovod puts all of it on their command lines, so never a secret."""


TORCH_STORE = "DLP_TORCH_STORE"
"""Names the file through which torch's workers find each other."""
BIND = "DLP_HOROVOD_BIND"
"""Tells our build of Horovod on which address its rendezvous listens; without it, on 127.0.0.1."""
LOOPBACK = Network("lo", "127.0.0.1")


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


def worker_environment(threads: int, logs: Path | None = None) -> dict[str, str]:
    """The environment of workers: little of ours, and the number of threads; with `logs`, what torch's need as well."""
    kept = {name: os.environ[name] for name in PASSED if name in os.environ}
    root = str(Path(__file__).resolve().parents[2])
    plain = {**kept, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": root, "PYTHONUNBUFFERED": "1"}
    if logs is None:
        return plain
    # Without these torch's agent serves a store on every interface, and gloo listens where the host's name points to.
    return {
        **plain, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "GLOO_SOCKET_IFNAME": "lo",
        TORCH_STORE: str(logs / "store"),
    }  # fmt: skip


def network_environment(distributed: Distributed) -> dict[str, str]:
    """Where Horovod's rendezvous listens: on loopback, or with `hosts` on the network that leads to them.

    Raises ValueError where no network leads there.
    """
    return {BIND: _network(distributed).address} if distributed.communicator == "horovod" else {}


def _network(distributed: Distributed) -> Network:
    hosts = hosts_of(distributed)
    return network_of(hosts) if hosts else LOOPBACK


def die_with_parent(number: str = "TERM") -> list[str]:
    """A prefix under which a command gets a signal when its parent dies, however that dies."""
    binary = shutil.which("setpriv")
    return [binary, "--pdeathsig", number, "--"] if binary else []


@functools.cache
def sandbox_prefix() -> tuple[str, ...]:
    """A prefix under which only loopback exists (Horovod's rendezvous unpickles what it gets); empty if not allowed."""
    prefix = ("unshare", "-Urn", "--", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
    if shutil.which("unshare") is None:
        return ()
    allowed = subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
    return prefix if allowed else ()


def worker_command(
    job: Path, distributed: Distributed, logs: Path, module: str = "dl_pipelines.training.worker"
) -> list[str]:
    """The command that starts every worker of a job and ends when all have ended; each is a process of `module`.

    Raises ValueError when the launcher of the communicator is not there, or no network leads to its hosts.
    """
    python, count = sys.executable, str(distributed.workers)
    # A launcher that is killed can't end its workers, and an orphan would write beside those of the next attempt.
    worker = [*die_with_parent("KILL"), python, "-m", module, "--job", str(job)]
    if distributed.communicator == "single":
        return worker
    if distributed.communicator == "torch":
        return [
            python, "-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", count,
            "--rdzv-backend", "c10d", "--rdzv-endpoint", str(logs / "rendezvous"), "--rdzv-conf", "store_type=file",
            "--rdzv-id", "training", "--redirects", "3", "--log-dir", str(logs), "--no-python", *worker,
        ]  # fmt: skip
    launcher = Path(python).parent / "horovodrun"
    if not launcher.exists():
        raise ValueError(
            f"found no {launcher}; expected Horovod's launcher; run `make setup`, then `dlp doctor`, or set "
            "distributed.communicator to torch"
        )
    hosts = ",".join(hosts_of(distributed)) or f"localhost:{count}"
    # Given an interface, Horovod asks no services of its own for one: their secret would be on command lines.
    # Gradients come in buckets; which of them Horovod would join depends on time, and so would their sums.
    return [
        str(launcher), "-np", count, "-H", hosts, "--gloo", "--network-interfaces", _network(distributed).interface,
        "--fusion-threshold-mb", "0", "--cycle-time-ms", f"{distributed.cycle_ms:g}", "--disable-cache",
        "--output-filename", str(logs), *worker,
    ]  # fmt: skip
