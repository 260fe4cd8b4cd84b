"""What of a dead server's process group is ended, and what is somebody else's."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dl_pipelines.serving import launch, process
from dl_pipelines.serving.process import birth
from dl_pipelines.serving.server import TritonServer, running
from dl_pipelines.serving.state import ServerState, state_file, write_state
from dl_pipelines.serving.stubs import end_orphans
from dl_pipelines.store.home import Home
from tests.serving.echo import until


@pytest.fixture
def home(tmp_path):
    """A home without a server."""
    made = Home(tmp_path / "home").prepare()
    made.server.mkdir()
    return made


def left_behind(command: str = "sleep 60", **environment: str) -> tuple[int, int]:
    """A leader of a group that has ended, and the process that it left there."""
    leader = subprocess.Popen(
        ["/bin/sh", "-c", f"{command} & echo $!"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={"PATH": "/usr/bin:/bin", **environment},
    )
    assert leader.stdout
    child = int(leader.stdout.readline())
    leader.wait()
    leader.stdout.close()
    assert birth(leader.pid) is None and birth(child) is not None
    return leader.pid, child


@pytest.fixture
def foreign():
    """Somebody else's."""
    leader, child = left_behind(HOME="/somewhere")
    yield leader, child
    if birth(child):
        os.kill(child, 9)


def test_a_group_that_took_over_the_number_is_left_alone(home, foreign):
    leader, child = foreign
    born = f"{process._boot()}:1"
    write_state(home, ServerState(leader, born, 1, 2, 3, True, True, "x", 2**22 - 1, born))
    launch.end(home)
    assert birth(child) is not None and not state_file(home).exists()
    end_orphans(Home(home.root.parent / "hom"), leader)
    assert birth(child) is not None


def test_what_was_started_for_this_home_is_ended(home):
    name = f"exec sh -c 'sleep 60; :' {process.region_prefix(home)}0-0"
    for leader, child in (left_behind(HOME=str(home.server)), left_behind(name)):
        end_orphans(Home(home.root.parent / "hom"), leader)
        assert birth(child) is not None, "another home's"
        end_orphans(home, leader)
        assert birth(child) is None


def test_what_lives_has_no_orphans(home):
    living = subprocess.Popen(["sleep", "60"], start_new_session=True, env={"HOME": str(home.server)})
    end_orphans(home, living.pid)
    assert birth(living.pid)
    living.kill()
    living.wait()


def test_a_guardian_that_ends_by_itself_leaves_no_state(home):
    program = (
        "import sys; from pathlib import Path\n"
        "from dl_pipelines.serving.server import TritonServer; from dl_pipelines.store.home import Home\n"
        "state = TritonServer(Home(Path(sys.argv[1]))).start(); print(state.guardian, state.pid, flush=True); input()"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", program, home.root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout
    guardian, server = map(int, starter.stdout.readline().split())
    starter.kill()
    starter.communicate()
    until(lambda: birth(guardian) is None)
    assert birth(server) is None and not state_file(home).exists()


def test_a_kept_server_that_was_ended_with_its_guardian_is_kept_again(home):
    server = TritonServer(home)
    first = server.start(keep=True)
    os.kill(first.guardian, 15)
    until(lambda: birth(first.guardian) is None)
    assert birth(first.pid) is None
    with running(home):
        second = server.state()
    assert second and second.kept and server.stop() is True
