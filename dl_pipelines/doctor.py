"""What is there, what is missing, and the command that mends it: the checks behind `dlp doctor`.

Heavy libraries are tried in subprocesses, so that a broken one is a line of the answer, not a crash of it.
Not here: printing (the command line does) and repairing (`make setup` does).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from dl_pipelines.store.database import Database, DatabaseError
from dl_pipelines.store.home import DATABASE_URL, Home
from dl_pipelines.store.owner import refused

CHECKOUT = Path(__file__).resolve().parent.parent
FREE_DISK = 2.0
"""GiB a demo with its artifacts, images of its report and temporary files stays under."""

_SETUP = "make clean setup"
_TORCH = """
import torch, torchvision
kept = torchvision.ops.nms(torch.tensor([[0., 0., 2., 2.], [0., 0., 2., 2.]]), torch.tensor([.9, .8]), .5)
assert kept.tolist() == [0], kept
print("torch", torch.__version__, "with torchvision", torchvision.__version__)
"""
_ALL_REDUCE = """
import horovod, torch, horovod.torch as hvd
hvd.init()
total = hvd.allreduce(torch.tensor([float(hvd.rank() + 1)]), op=hvd.Sum)
if hvd.rank() == 0:
    print("SUM", float(total), "of", hvd.size(), "with horovod", horovod.__version__, flush=True)
"""


@dataclass(frozen=True)
class Check:
    """One line of the answer. `remedy` is a command or an action; empty when `ok`."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


def run_checks(home: Path, quick: bool = False) -> list[Check]:
    """Look at everything a run needs; `quick` leaves out what starts other processes (about 15 s)."""
    checks = [check_interpreter(), check_compiler(), check_disk(home), check_database(home)]
    return checks if quick else [*checks, check_torch(), check_horovod(), check_triton()]


def check_interpreter() -> Check:
    """Python 3.11: what the lock is made for; Horovod's launcher imports distutils."""
    found = f"Python {sys.version.split()[0]} at {sys.executable}"
    ok = sys.version_info[:2] == (3, 11)
    return Check("interpreter", ok, found, "" if ok else "PYTHON=python3.11 make setup")


def check_compiler() -> Check:
    """A C++ compiler, make and Python's headers: Horovod's build needs them, a run does not."""
    tools = {tool: shutil.which(tool) for tool in ("c++", "make")}
    header = Path(sysconfig.get_path("include")) / "Python.h"
    missing = [tool for tool, path in tools.items() if path is None]
    missing += [] if header.is_file() else [f"Python.h in {header.parent}"]
    if not missing:
        return Check("compiler", True, f"{tools['c++']}, make and Python's headers")
    found = f"no {', no '.join(missing)}"
    if find_spec("horovod") is not None:
        return Check("compiler", True, f"{found}; Horovod is built already")
    return Check("compiler", False, found, "apt-get install g++ make python3.11-dev (or your system's names)")


def check_disk(home: Path) -> Check:
    """The home can be written and its disk has room for a run."""
    place = home.expanduser().resolve()
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK):
        return Check("disk", False, f"{place} can't be written", "DLP_HOME=A_FOLDER_OF_YOURS, or --home")
    free = shutil.disk_usage(place).free / 2**30
    ok = free >= FREE_DISK
    remedy = "" if ok else f"free {FREE_DISK:.0f} GiB there (dlp gc), or DLP_HOME on another disk"
    return Check("disk", ok, f"{free:.1f} GiB free at {place}", remedy)


def check_database(home: Path) -> Check:
    """The ledger's database answers at the migration that this version writes."""
    import sqlalchemy as sa
    from sqlalchemy.exc import SQLAlchemyError

    place = Home.find(home)
    database = Database.of(place)
    try:
        with database.begin() as connection:
            others = refused(connection, place) if os.environ.get(DATABASE_URL) else []
            connection.execute(sa.text("SELECT 1"))
        url = sa.make_url(database.url).render_as_string(hide_password=True)
        told = f"; refused here, as of another home: {', '.join(others)}" if others else ""
        remedy = f"work on them with that home, or remove their briefs from {place.briefs}" if others else ""
        return Check("database", True, f"{url} answers{told}", remedy)
    except (DatabaseError, SQLAlchemyError, OSError) as error:
        remedy = "start the database that DLP_DATABASE_URL names, or unset it to use SQLite in the home"
        return Check("database", False, " ".join(str(error).split()), remedy)
    finally:
        database.close()


def check_torch() -> Check:
    """Torch and torchvision import and are a pair: torchvision's operators are registered."""
    code, output = _run([sys.executable, "-c", _TORCH], 120)
    return Check("torch", code == 0, _last(output), "" if code == 0 else _SETUP)


def check_horovod() -> Check:
    """Two processes started by `horovodrun` sum a tensor, where the system allows with loopback only."""
    binary = Path(sys.executable).parent / "horovodrun"
    if not binary.is_file():
        return Check("horovod", False, f"no {binary}", _SETUP)
    sandbox = sandbox_prefix()
    with tempfile.TemporaryDirectory(prefix="dlp-doctor-") as folder:
        program = Path(folder) / "all_reduce.py"
        program.write_text(_ALL_REDUCE, encoding="utf-8")
        launch = [str(binary), "-np", "2", "-H", "localhost:2", "--gloo", sys.executable, str(program)]
        # Horovod puts the environment on its workers' command lines: they get only this.
        environment = {"PATH": f"{binary.parent}:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": folder}
        code, output = _run([*sandbox, *launch], 120, environment)
    answer = next((line for line in output.splitlines() if "SUM" in line), "")
    if code or "SUM 3.0 of 2" not in answer:
        return Check("horovod", False, _last(output) or f"exit code {code}", _SETUP)
    network = "loopback only" if sandbox else "not isolated: this system allows no user namespaces"
    version = answer.rpartition(" ")[2]
    return Check("horovod", True, f"horovod {version}: 2 processes summed a tensor ({network})")


def sandbox_prefix() -> list[str]:
    """The command that runs another where only loopback exists; empty where that isn't allowed."""
    prefix = ["unshare", "-Urn", "--", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    if shutil.which("unshare") is None or _run([*prefix, "true"], 10)[0]:
        return []
    return prefix


def check_triton() -> Check:
    """The embedded server starts with an empty repository and answers on loopback."""
    venv = CHECKOUT / ".venv-triton"
    packages = venv / "lib" / "python3.11" / "site-packages"
    binary = packages / "pytriton" / "tritonserver" / "bin" / "tritonserver"
    backends = venv / "tritonserver" / "backends"
    stub = backends / "python" / "triton_python_backend_stub"
    if not (binary.is_file() and os.access(stub, os.X_OK)):
        return Check("triton", False, f"no {stub if binary.is_file() else binary}", _SETUP)
    libraries = f"{packages / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}"
    environment = {"PATH": f"{venv / 'bin'}:/usr/bin:/bin", "LD_LIBRARY_PATH": libraries}
    with tempfile.TemporaryDirectory(prefix="dlp-doctor-") as folder:
        log, port = Path(folder) / "log", _free_port()
        flags = [f"--model-repository={folder}", f"--backend-directory={backends}"]
        flags += ["--model-control-mode=explicit", "--http-address=127.0.0.1", f"--http-port={port}"]
        flags += ["--allow-grpc=false", "--allow-metrics=false", "--exit-timeout-secs=1"]
        with log.open("wb") as sink:
            server = subprocess.Popen(
                [str(binary), *flags], env=environment, stdout=sink, stderr=sink, start_new_session=True
            )
        try:
            answer = _answer(server, f"http://127.0.0.1:{port}", 30)
        finally:
            _end(server)
        if answer:
            return Check("triton", True, f"tritonserver {answer} answered on 127.0.0.1")
        output = log.read_text(errors="replace")
    return Check("triton", False, _last(output) or "it did not answer within 30 s", _SETUP)


def _answer(server: subprocess.Popen[bytes], url: str, seconds: float) -> str:
    """The server's version once it is ready; empty when it ended or took longer than `seconds`."""
    import json

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + seconds
    while server.poll() is None and time.monotonic() < deadline:
        with suppress(OSError):
            opener.open(f"{url}/v2/health/ready", timeout=1).close()
            with opener.open(f"{url}/v2", timeout=1) as reply:
                return str(json.load(reply)["version"])
        time.sleep(0.05)
    return ""


def _run(command: list[str], seconds: float, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Exit code and output of a command; after `seconds` it and what it started are ended."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        _end(process, signal.SIGKILL)
        output, _ = process.communicate()
        return 124, f"{output}\nno end within {seconds:g} s"
    return process.returncode, output


def _end(process: subprocess.Popen[bytes] | subprocess.Popen[str], first: int = signal.SIGTERM) -> None:
    """End a process and its group: `first`, and SIGKILL five seconds later."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, first)
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _last(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def _free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
