"""A guardian whose own work goes wrong, in this process, over a server that is only a sleeping child."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dl_pipelines.serving import admin, guardian, stubs
from dl_pipelines.serving.process import birth
from dl_pipelines.serving.state import Orders, state_file
from dl_pipelines.store.home import Home
from tests.serving.echo import until


@pytest.fixture
def home(tmp_path):
    """A home without a server."""
    made = Home(tmp_path / "home").prepare()
    made.server.mkdir()
    return made


@pytest.fixture
def watched(home, monkeypatch):
    """A guardian that watches; it is told to end with the test."""
    monkeypatch.setattr(guardian, "LOOK_SECONDS", 0.02)
    made = guardian.Guardian(Orders(("sleep", "60"), str(home.root), 1, 2, 3, log_bytes=200))
    monkeypatch.setattr(made.control, "ready", lambda *_: True)
    made.begin()
    work = threading.Thread(target=made.run)
    work.start()
    yield made
    made.stopping = True
    work.join(20)
    assert not work.is_alive() and made.server.gone()


def looks(watched, monkeypatch) -> list[float]:
    """Its looks from now on."""
    seen: list[float] = []
    real = watched.stubs.look
    monkeypatch.setattr(watched.stubs, "look", lambda now: (seen.append(now), real(now)))
    return seen


def told(home: Home) -> list[str]:
    lines = [line.partition("supervisor: ")[2] for line in (home.server / "server.log").read_text().splitlines()]
    return [line for line in lines if line]


def test_a_thread_that_can_not_start_ends_no_server(watched, home, monkeypatch):
    seen = looks(watched, monkeypatch)

    def never(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as failing:
        failing.setattr(threading.Thread, "start", never)
        monkeypatch.setattr(stubs, "EVERY_SECONDS", 0.0)
        until(lambda: len(seen) > 5, 10)
        assert birth(watched.server.pid) == watched.server.born
    assert told(home) == ["could not look after the server: RuntimeError: can't start new thread"]
    until(lambda: watched.stubs._work, 10)


def test_a_log_that_can_not_be_renamed_ends_no_server(watched, home, monkeypatch):
    seen, log = looks(watched, monkeypatch), home.server / "server.log"
    (home.server / "server.log.1").touch()
    (home.server / "server.log.2").touch()
    (home.server / "server.log.3" / "in the way").mkdir(parents=True)
    with log.open("a") as file:
        file.write("x" * 300 + "\n")
    start = len(seen)
    until(lambda: len(seen) > start + 5, 10)
    assert "x" * 300 in log.read_text(), "nothing is lost"
    assert birth(watched.server.pid) == watched.server.born
    (line,) = told(home)
    assert line.startswith("could not look after the server: ") and "server.log" in line


def test_whatever_a_look_raises_is_said_once(watched, home, monkeypatch):
    seen: list[float] = []

    def broken(*_):
        seen.append(time.monotonic())
        raise KeyError("surprise")

    monkeypatch.setattr(watched, "_look_after", broken)
    until(lambda: len(seen) > 5, 10)
    assert birth(watched.server.pid) == watched.server.born and state_file(home).exists()
    assert told(home) == ["could not look after the server: KeyError: 'surprise'"]


@pytest.mark.parametrize(("error", "hidden"), [(OSError(5, "I/O error"), True), (PermissionError(1, "no"), False)])
def test_the_key_of_a_server_that_was_taken_over_is_hidden_too(home, monkeypatch, error, hidden):
    key, tries, real = admin.new_key(home), [], admin.hide_key
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", f"dlp-admin={key}"])

    def shown():
        return key in Path(f"/proc/{child.pid}/cmdline").read_text()

    def fails_at_first(*given):
        tries.append(given)
        if len(tries) == 1:
            raise error
        real(*given)

    born = birth(child.pid) or ""
    real(child.pid, "another", key)
    until(shown, 10)  # for a moment a new process has no command line; it was not the one that was meant
    monkeypatch.setattr(admin, "hide_key", fails_at_first)
    monkeypatch.setattr(guardian, "LOOK_SECONDS", 0.02)
    seen: list[float] = []
    made = guardian.Guardian(Orders(("sleep", "60"), str(home.root), 1, 2, 3, adopt=(child.pid, born)))
    monkeypatch.setattr(made.control, "ready", lambda *_: seen.append(0.0) or True)
    made.begin()
    work = threading.Thread(target=made.run)
    work.start()
    try:
        until(lambda: len(seen) > 8, 10)
        assert (len(tries), shown()) == (2 if hidden else 1, not hidden)
    finally:
        made.stopping = True
        work.join(20)
        child.kill()
        child.wait(10)
    told_of = "could not look after the server: OSError" if hidden else "could not hide the admin key in the server's"
    assert sum(told_of in line for line in told(home)) == 1


def test_a_process_that_ends_while_it_is_being_ended_is_no_error(home, monkeypatch):
    said: list[str] = []
    watcher = stubs.Stubs(10, home, None, said.append, patience=0, loads=5)
    monkeypatch.setattr(stubs, "group_of", lambda _: {10: "S", 2**22 - 1: "T"})
    monkeypatch.setattr(watcher, "_model", lambda pid: "m" if pid != 10 else None)
    assert watcher._of_models(1.0) == {}
    assert said == [f"ended process {2**22 - 1} of m: it stood still for 0 s"]
