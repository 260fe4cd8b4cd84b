"""What the guardian does about servers and backends' processes that die, hang, or can't be started again."""

from __future__ import annotations

import functools
import os
import signal
import time
from pathlib import Path

import pytest

from dl_pipelines.serving import launch, process
from dl_pipelines.serving.process import TritonError, birth, region_prefix
from dl_pipelines.serving.server import TritonServer, running
from dl_pipelines.serving.state import Orders, ServerState, read_state, state_file, wanted_models
from dl_pipelines.store import durable
from dl_pipelines.store.home import Home
from tests.serving.echo import MODELS, answers, echo_home, finish, stubs_of, until


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home of its own, whose server is ended with the test."""
    monkeypatch.setenv(launch.HANG, "1.5")
    made = echo_home(tmp_path / "home")
    yield made
    finish(made)


@pytest.fixture
def empty(tmp_path):
    """A home whose server has nothing to load."""
    made = Home(tmp_path / "empty").prepare()
    yield made
    finish(made)


@pytest.fixture
def server(home):
    """Its server, kept."""
    found = TritonServer(home)
    found.start(keep=True)
    return found


@pytest.fixture
def loop(home, monkeypatch) -> Path:
    """While this file exists, a server that is started ends at once."""
    flag, binary = home.root / "crash", home.root / "tritonserver"
    real = process.Installation.find().binary
    binary.write_text(f'#!/bin/sh\nif [ -e "{flag}" ]; then echo "no luck"; exit 7; fi\nexec {real} "$@"\n')
    binary.chmod(0o755)
    monkeypatch.setattr(process.Installation, "binary", property(lambda _: binary))
    return flag


def ready(server: TritonServer) -> ServerState:
    """Its state, once the guardian has seen that it answers."""
    until(lambda: (state := server.state()) and state.ready)
    state = server.state()
    assert state
    return state


def regions(home) -> list[Path]:
    return list(Path("/dev/shm").glob(f"{region_prefix(home)}*"))


@pytest.mark.parametrize("keep", [True, False])
def test_a_killed_server_comes_back_with_its_models(home, keep):
    with running(home, keep=keep) as server:
        first = server.state()
        assert first and all(answers(first.http, model) for model in MODELS)
        orphans = [pid for model in MODELS for pid in stubs_of(first.pid, model)]
        left = Path("/dev/shm") / f"{region_prefix(home)}left"
        left.write_bytes(b"x")
        os.kill(first.pid, signal.SIGKILL)
        until(lambda: answers(first.http))
        second = ready(server)
        assert second.pid != first.pid and second.kept is keep
        assert (second.http, second.grpc, second.metrics) == (first.http, first.grpc, first.metrics)
        assert (second.restarts, second.guardian) == (1, first.guardian)
        assert second.last_exit.startswith("it ended by SIGKILL at ")
        assert all(answers(first.http, model) for model in MODELS)
        assert len(orphans) == 3 and not any(birth(pid) for pid in orphans)
        assert not left.exists() and len(regions(home)) == 3, "a region for each backend's process, none of the dead"
        assert server.start() == second, "a command finds the new one"
    assert (server.state() == second) is keep
    assert server.stop() is keep
    assert birth(second.pid) is None and birth(second.guardian) is None and not regions(home)


def test_a_dead_process_of_a_model_is_replaced_and_the_others_stay(home, server):
    state = server.state()
    assert state
    for model in ("echo", "echo__champion"):
        (dead,), others = stubs_of(state.pid, model), stubs_of(state.pid, "echo__challenger")
        os.kill(dead, signal.SIGKILL)
        until(lambda model=model: answers(state.http, model))
        assert server.state() == state and stubs_of(state.pid, "echo__challenger") == others
        assert dead not in stubs_of(state.pid, model)
    told = [line.partition("supervisor: ")[2] for line in server.log.read_text().splitlines()]
    assert [line for line in told if line] == [
        "loads echo again: a process of it is gone",
        "loads echo__champion again: a process of it is gone",
    ]


def test_a_model_whose_process_dies_again_and_again_rests_and_is_told(home, monkeypatch):
    monkeypatch.setenv(launch.CRASHES, "2")
    server = TritonServer(home)
    state = server.start(keep=True)
    for _ in range(3):
        (pid,) = stubs_of(state.pid, "echo__challenger")
        os.kill(pid, signal.SIGKILL)
        until(lambda: answers(state.http, "echo__challenger") or server.last().failing)
    told = "echo__challenger: a process of it is gone, 2 times within 60 s"
    until(lambda: server.last().failing == told)
    assert answers(state.http), "the others go on"
    assert server.state().restarts == 0


def test_a_model_that_is_unloaded_is_not_called_dead(home, server):
    state = server.state()
    assert state
    server.control.unload("echo__challenger")
    durable.write_text(home.repository / "other" / "config.pbtxt", (home.repository / "echo/config.pbtxt").read_text())
    durable.write_text(home.repository / "other" / "1" / "model.py", "raise ValueError('bad')")
    with pytest.raises(TritonError, match="could not load other"):
        server.control.load("other")
    time.sleep(1.5)
    assert "supervisor" not in server.log.read_text()
    assert server.control.ready(), "a model that can't be loaded does not make the server look dead"


def test_what_hangs_is_ended_and_started_again(home, server):
    first = server.state()
    assert first
    os.kill(first.pid, signal.SIGSTOP)
    until(lambda: birth(first.pid) is None)
    until(lambda: answers(first.http))
    second = ready(server)
    assert second.last_exit.startswith("it did not answer for ")
    (stub,) = stubs_of(second.pid, "echo")
    os.kill(stub, signal.SIGSTOP)
    until(lambda: birth(stub) is None)
    until(lambda: answers(first.http))
    assert server.state() == second, "one process of a model, not the server"


def test_one_that_crashes_again_and_again_is_given_up_and_told(home, loop, monkeypatch):
    monkeypatch.setenv(launch.CRASHES, "3")
    server = TritonServer(home)
    first = server.start(keep=True)
    loop.touch()
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: (last := server.last()) and last.gave_up)
    last, why = server.last(), "3 crashes within 60 s, the last: it ended with exit code 7"
    assert last and last.gave_up == why and server.state() is None
    assert f"supervisor: gives up for 60 s: {why}\n" in server.log.read_text()
    assert server.log.read_text().count("no luck") == 2 and not regions(home)
    told = (
        r"was given up for a minute \(3 crashes within 60 s, the last: it ended with exit code 7\).*`dlp serve PROJECT`"
    )
    with pytest.raises(TritonError, match=told), running(home):
        pass
    with pytest.raises(TritonError, match=r"did not become ready \(no luck\)"):
        server.start(keep=True)
    loop.unlink()
    again = server.start(keep=True)
    assert again.ready and not again.gave_up and answers(again.http)


def test_one_that_was_given_up_is_tried_again_when_its_crashes_are_long_ago(home, loop, monkeypatch):
    monkeypatch.setattr(launch, "Orders", functools.partial(Orders, window=2.0))
    monkeypatch.setenv(launch.CRASHES, "2")
    server = TritonServer(home)
    first = server.start(keep=True)
    loop.touch()
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: (last := server.last()) and last.gave_up)
    loop.unlink()
    assert until(lambda: answers(first.http)) > 1
    last = ready(server)
    assert not last.gave_up and last.guardian == first.guardian
    assert server.start() == last


def test_a_server_that_commands_share_is_given_up_until_they_end(home, loop, monkeypatch):
    monkeypatch.setenv(launch.CRASHES, "2")
    with running(home) as server:
        first = server.state()
        assert first
        loop.touch()
        os.kill(first.pid, signal.SIGKILL)
        until(lambda: (last := server.last()) and last.gave_up)
        with pytest.raises(TritonError, match="was given up"):
            server.start()
        loop.unlink()
    assert birth(first.guardian) is None and not state_file(home).exists()
    with running(home) as server:
        assert server.state() is not None, "the next command tries anew"


def test_a_stop_while_it_is_started_again_is_final(home, loop, monkeypatch):
    monkeypatch.setenv(launch.CRASHES, "9")
    server = TritonServer(home)
    first = server.start(keep=True)
    loop.touch()
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: server.log.read_text().count("starting it again in 0.8 s"))
    loop.unlink()
    assert server.stop() is True, "there was one, if not at this moment"
    assert birth(first.guardian) is None and not state_file(home).exists()
    time.sleep(1)
    assert process.in_use(first.http) is None and server.state() is None
    assert server.stop() is False


def test_stops_and_kills_at_any_moment_leave_nothing(empty):
    for pause in (0.0, 0.2, 0.4):
        server = TritonServer(empty)
        state = server.start(keep=True)
        os.kill(state.pid, signal.SIGKILL)
        time.sleep(pause)
        assert server.stop() is True
        assert process.in_use(state.http) is None and not regions(empty) and birth(state.guardian) is None


def test_a_kept_server_survives_its_guardian_and_gets_another(home):
    server = TritonServer(home)
    first = server.start(keep=True)
    os.kill(first.guardian, signal.SIGKILL)
    until(lambda: birth(first.guardian) is None)
    assert answers(first.http), "it serves on"
    second = server.start()
    assert second.pid == first.pid and second.guardian != first.guardian
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: answers(first.http))
    third = read_state(home)
    assert third and third.guardian == second.guardian and third.restarts == 1


def test_a_shared_server_ends_with_its_guardian(empty):
    with running(empty) as server:
        first = server.state()
        assert first
        os.kill(first.guardian, signal.SIGKILL)
        until(lambda: birth(first.pid) is None)
        second = server.start()
        assert second.pid != first.pid and server.control.ready()


def test_a_request_that_ends_this_triton_ends_it_for_seconds_only(server):
    first = server.state()
    body = {"inputs": [{"name": "in", "datatype": "FP32", "shape": [2**31, 4], "data": [1, 2, 3, 4]}]}
    with pytest.raises(OSError):
        server.control._ask("POST", "/v2/models/echo/infer", body, 10)
    until(lambda: birth(first.pid) is None)
    until(lambda: answers(first.http))
    assert ready(server).last_exit.startswith("it ended by SIG")


def test_a_long_log_is_rotated_while_the_server_runs(home, monkeypatch):
    monkeypatch.setattr(launch, "Orders", functools.partial(Orders, log_bytes=2000))
    server = TritonServer(home)
    state = server.start(keep=True)
    until(lambda: "supervisor: rotated at 2000 bytes" in server.log.read_text())
    assert "Started HTTPService" in server.log.with_suffix(".log.1").read_text()
    assert answers(state.http) and server.state() == state


def test_a_home_that_was_removed_takes_its_server_along(home, server):
    state = server.state()
    home.root.rename(home.root.with_name("gone"))
    until(lambda: birth(state.guardian) is None)
    assert birth(state.pid) is None and not regions(home)


def test_wanted_are_the_models_of_the_tables_not_those_of_measurements(home):
    durable.write_json(TritonServer(home).routing("echo__probe"), {"project": "x"})
    durable.write_text(TritonServer(home).routing("damaged"), "{")
    durable.write_bytes(TritonServer(home).routing("nonsense"), b"\xff\xfe")
    assert wanted_models(home) == ["echo__champion", "echo__challenger", "echo"]


@pytest.mark.parametrize("value", ["0", "-1", "many", "inf"])
def test_settings_that_are_no_numbers_are_refused(home, monkeypatch, value):
    monkeypatch.setenv(launch.CRASHES, value)
    with pytest.raises(TritonError, match=f"found DLP_SERVER_CRASHES={value}; expected a number above zero; unset it"):
        TritonServer(home).start()
