"""Fixtures of the whole line on a small slice of the digits: each stage is made once a test session, on demand."""

from __future__ import annotations

import contextlib
import gc
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path

import pytest
import yaml

from dl_pipelines import catalog
from dl_pipelines.brief import Brief
from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Task

ROOT = Path(__file__).parent.parent
TOGETHER = {"cli": ("cli",), "line": ("compression", "evaluation", "inference", "models", "monitoring", "report")}
"""Rooms whose tests share what takes long to make: the home of the command line's tests, the session's line below."""

PARTIES = (
    ("cli", "test_end_to_end.py", "assets", "data", "resources", "sensors", "test_definitions.py"),  # Dagster, GX
    ("line", "benchmarks", "bundles"),  # the exporter, and what compresses
    ("training", "lifecycle", "serving"),  # workers and servers, which are processes of their own
)
"""Rooms that import the same for seconds, or share a long fixture: each process begins with a party of its own."""


def together(nodeid: str) -> str:
    """What a test stays in one process with, where they run in several (`make test`): its room, else its file."""
    file = nodeid.partition("::")[0]
    room = file.split("/")[1]
    return next((name for name, rooms in TOGETHER.items() if room in rooms), file)


def room_of(scope: str) -> str:
    """The room, or the file beside the rooms, that a scope of `together` is of."""
    return scope if scope in TOGETHER else scope.split("/")[1]


def take(waiting: Iterable[str], process: int) -> str:
    """Which of the scopes that wait a process takes: the first of its own party while there is one, else the first."""
    waiting, party = list(waiting), PARTIES[process % len(PARTIES)]
    return next((scope for scope in waiting if room_of(scope) in party), waiting[0])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """Hand out what belongs together as a whole."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return together(nodeid)

        def _assign_work_unit(self, node) -> None:
            self.workqueue.move_to_end(take(self.workqueue, self.nodes.index(node)), last=False)
            super()._assign_work_unit(node)

    return Scheduling(config, log)


def pytest_configure(config: pytest.Config) -> None:
    """Processes side by side have the cores already: threads of each would only wait for one another."""
    gc.set_threshold(50_000, 20, 20)  # modules stay: looking through them again and again is a seventh of collecting
    if hasattr(config, "workerinput"):
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In several processes the long ones come first, so that all end at about the same time."""
    if hasattr(config, "workerinput"):
        long = {together(item.nodeid) for item in items if item.get_closest_marker("slow")} | {"line"}
        items.sort(key=lambda item: together(item.nodeid) not in long)


@pytest.fixture(autouse=True, scope="module")
def same_bits_on_a_gpu() -> Iterator[None]:
    """Where torch has a GPU, tests that train in their own process compute as workers do: the same bits each time."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        yield
        return
    mode = torch.get_deterministic_debug_mode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.set_deterministic_debug_mode("error")
        yield
        torch.set_deterministic_debug_mode(mode)


@pytest.fixture(scope="session")
def brief() -> Brief:
    """The demo's brief, trained for fewer epochs by one process."""
    data = yaml.safe_load((ROOT / "briefs" / "digits.yaml").read_text())
    data["training"] |= {"epochs": 4}
    data["distributed"] |= {"communicator": "single", "workers": 1}
    data["data"]["augmentation"] |= {"factor": 2}
    data["evaluation"] |= {"resamples": 200}
    data["serving"] = {"load_seconds": 0.5}
    data["compression"] = {"timing_rounds": 5}
    return catalog.read_brief(yaml.safe_dump(data), "digits.yaml")


@pytest.fixture(scope="session")
def task(brief: Brief) -> Task:
    """The brief's task."""
    return catalog.task_of(brief)


@pytest.fixture(scope="session")
def partition() -> Partition:
    """The first day of the digits, base experiment."""
    return Partition(date(2026, 1, 1), "base")


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory, brief: Brief) -> Workspace:
    """A home that the session's line fills; tests that damage something make their own."""
    return Workspace(Home(tmp_path_factory.mktemp("home")).prepare(), brief.project)


@pytest.fixture(scope="session")
def raw_data(workspace: Workspace, partition: Partition, brief: Brief, task: Task) -> Artifact:
    """Records of the first day."""
    from dl_pipelines.data.raw import make_raw_data

    return make_raw_data(workspace, partition.daily, brief.data, task)


@pytest.fixture(scope="session")
def validated_data(
    raw_data: Artifact, workspace: Workspace, partition: Partition, brief: Brief, task: Task
) -> Artifact:
    """Clean records of the first day."""
    from dl_pipelines.data.validation import make_validated_data

    return make_validated_data(workspace, partition.daily, brief.data, task)


@pytest.fixture(scope="session")
def augmented_dataset(
    validated_data: Artifact, workspace: Workspace, partition: Partition, brief: Brief, task: Task
) -> Artifact:
    """Records with their copies."""
    from dl_pipelines.data.augmentation import make_augmented_dataset

    return make_augmented_dataset(workspace, partition.daily, brief.data, task)


@pytest.fixture(scope="session")
def training_window(
    augmented_dataset: Artifact, workspace: Workspace, partition: Partition, brief: Brief, task: Task
) -> Artifact:
    """What a model of the first day sees."""
    from dl_pipelines.data.window import make_training_window

    return make_training_window(workspace, partition.daily, brief.data, task)


@pytest.fixture(scope="session")
def trained_model(
    training_window: Artifact, workspace: Workspace, partition: Partition, brief: Brief, task: Task
) -> Artifact:
    """A model trained by one process."""
    from dl_pipelines.training.train import make_trained_model

    return make_trained_model(
        workspace, partition, brief.architecture, brief.training, brief.distributed, brief.data, task
    )


@pytest.fixture(scope="session")
def evaluation(
    trained_model: Artifact, workspace: Workspace, partition: Partition, brief: Brief, task: Task
) -> Artifact:
    """Its metrics."""
    from dl_pipelines.evaluation.evaluate import make_evaluation

    return make_evaluation(workspace, partition, brief.evaluation, brief.data, task)


@pytest.fixture(scope="session")
def compressed_model(
    evaluation: Artifact, workspace: Workspace, partition: Partition, brief: Brief, task: Task
) -> Artifact:
    """The fastest variant within the budget."""
    from tests.compressing import compress

    return compress(brief, workspace, partition, task)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[int]:
    """The port of a real PostgreSQL on 127.0.0.1, started on demand and ended with the session.

    It refuses to run as root: then an ordinary user owns it and its folder, which can't be below pytest's own.
    """
    initdb, postgres = _postgres_program("initdb"), _postgres_program("postgres")
    if initdb is None or postgres is None:
        pytest.skip("no initdb and postgres, on PATH or in /usr/lib/postgresql: install PostgreSQL to run this")
    owner = _ordinary_user()
    rights = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if os.getuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="dlp-postgres-"))
    os.chown(folder, owner.pw_uid, owner.pw_gid)
    data, log = folder / "data", folder / "log"
    make = [initdb, "-A", "trust", "-U", "dlp", "-E", "UTF8", "--locale=C", "--no-sync", "-D", str(data)]
    made = subprocess.run(make, cwd=folder, capture_output=True, text=True, **rights)
    assert made.returncode == 0, made.stderr
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off"}
    command = [postgres, "-D", str(data), *[f"--{name}={value}" for name, value in settings.items()]]
    if guard := shutil.which("setpriv"):
        command = [guard, "--pdeathsig", "QUIT", *command]  # a killed pytest leaves no server behind
    with log.open("wb") as output:
        server = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, **rights)
    try:
        _await_postgres(server, port, log)
        yield port
    finally:
        server.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown
        server.wait(30)
        shutil.rmtree(folder)


@pytest.fixture
def postgres_url(postgres_server: int) -> Iterator[str]:
    """URL of an empty database of the test's own. Mark the test `postgres`."""
    name = f"test_{time.monotonic_ns()}"
    with _postgres_admin(postgres_server) as run:
        run(f"CREATE DATABASE {name}")
    yield f"postgresql://dlp@127.0.0.1:{postgres_server}/{name}"
    with _postgres_admin(postgres_server) as run:
        run(f"DROP DATABASE {name} WITH (FORCE)")


def _postgres_program(name: str) -> str | None:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *map(str, folders)]))


def _ordinary_user() -> pwd.struct_passwd:
    if os.getuid() != 0:
        return pwd.getpwuid(os.getuid())
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres")
    return pwd.getpwnam("nobody")


def _await_postgres(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    import psycopg2

    end = time.monotonic() + 30
    while True:
        try:
            psycopg2.connect(host="127.0.0.1", port=port, user="dlp", dbname="postgres").close()
        except psycopg2.OperationalError:
            assert server.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        else:
            return


@contextlib.contextmanager
def _postgres_admin(port: int):
    import psycopg2

    connection = psycopg2.connect(host="127.0.0.1", port=port, user="dlp", dbname="postgres")
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            yield cursor.execute
    finally:
        connection.close()
