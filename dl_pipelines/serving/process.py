"""The `tritonserver` process: where it is installed, its environment, its backends, its identity, its shared memory.

Not here: which server a home has and when it is started (server.py).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from dl_pipelines.store.home import Home

VENV = "DLP_TRITON_VENV"
CHECKOUT = Path(__file__).resolve().parents[2]
BACKENDS = Path(__file__).resolve().parent / "backends"
WIRE = Path(__file__).resolve().parents[1] / "wire"
SHARED_MEMORY = Path("/dev/shm")


class TritonError(ValueError):
    """The server is missing, can't start or can't do what it was asked; says what to do."""


@dataclass(frozen=True)
class Installation:
    """Triton's own virtual environment, made by `make setup`; `DLP_TRITON_VENV` names another one."""

    venv: Path

    @classmethod
    def find(cls) -> Installation:
        """The installation in use. Raises TritonError when something of it is missing."""
        found = cls(Path(os.environ.get(VENV) or CHECKOUT / ".venv-triton").expanduser().resolve())
        for path in (found.binary, found.python_backend / "triton_python_backend_stub", found.venv / "bin" / "python"):
            if not path.exists():
                raise TritonError(
                    f"found no {path}; expected Triton's own environment in {found.venv}; run `make setup`, or set "
                    f"{VENV} to the place where it is"
                )
        return found

    @property
    def packages(self) -> Path:
        """Its site-packages."""
        return self.venv / "lib" / "python3.11" / "site-packages"

    @property
    def binary(self) -> Path:
        """The server."""
        return self.packages / "pytriton" / "tritonserver" / "bin" / "tritonserver"

    @property
    def python_backend(self) -> Path:
        """The Python backend with the stub of this interpreter."""
        return self.venv / "tritonserver" / "backends" / "python"

    def environment(self, home: Path) -> dict[str, str]:
        """All that the server sees of an environment: its interpreter first, its libraries, nothing of ours."""
        return {
            "PATH": f"{self.venv / 'bin'}:/usr/bin:/bin",
            "LD_LIBRARY_PATH": f"{self.packages / 'nvidia_pytriton.libs'}:{_library_folder(self.venv)}",
            "HOME": str(home),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime would report to its makers
        }


@functools.cache
def _library_folder(venv: Path) -> str:
    """Where the venv's libpython is: another one breaks the standard library inside the server."""
    program = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
    python = str(venv / "bin" / "python")
    return subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def assemble_backends(installation: Installation, folder: Path) -> Path:
    """A backend directory: Triton's Python backend and ours for the runtimes; made anew, so never half of one."""
    fresh = folder.with_name(f".{folder.name}-{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    (fresh / "python").symlink_to(installation.python_backend)
    for model in BACKENDS.glob("*/model.py"):
        target = fresh / model.parent.name
        target.mkdir()
        shutil.copyfile(model, target / "model.py")
        for shared in (BACKENDS / "batching.py", BACKENDS / "line.py", WIRE / "channel.py"):
            shutil.copyfile(shared, target / shared.name)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    return folder


def region_prefix(home: Home) -> str:
    """What the names of this home's shared memory regions start with."""
    return f"dlp{hashlib.sha256(str(home.root).encode()).hexdigest()[:10]}_"


def remove_regions(home: Home) -> int:
    """Remove what a killed server of this home left in shared memory; returns how many regions."""
    left = list(SHARED_MEMORY.glob(f"{region_prefix(home)}*"))
    for path in left:
        path.unlink(missing_ok=True)
    return len(left)


def free_ports(count: int) -> list[int]:
    """TCP ports of 127.0.0.1 that are free now, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [int(listener.getsockname()[1]) for listener in sockets]


def in_use(port: int) -> str | None:
    """What a port of 127.0.0.1 is found as when it is taken, None when it is free."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            return f"port {port} of 127.0.0.1 in use ({error.strerror})"
    return None


def require_free(port: int) -> None:
    """Raises TritonError when a port of 127.0.0.1 is taken."""
    if found := in_use(port):
        raise TritonError(
            f"found {found}; expected a free one; end what listens there, or give another port with --http or --grpc "
            "(without them free ones are taken)"
        )


def birth(pid: int) -> str | None:
    """When a living process started (the boot, clock ticks since it), or None: pids are used again, this isn't."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else f"{_boot()}:{fields[19]}"


@functools.cache
def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]


def this_boot(born: str) -> bool:
    """Whether a process that was born then started since this machine did."""
    return born.startswith(f"{_boot()}:")


def end(pid: int, born: str, patience: float) -> None:
    """End the one process that started then: SIGTERM, and SIGKILL after `patience` seconds."""
    for sign, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 10.0)):
        if birth(pid) != born:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sign)
        deadline = time.monotonic() + seconds
        while birth(pid) == born and time.monotonic() < deadline:
            time.sleep(0.02)
