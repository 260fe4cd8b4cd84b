"""Against a real server: what a client may not do, and that our own commands may."""

from __future__ import annotations

import base64
import json
import os
import stat
from http.client import HTTPConnection
from pathlib import Path

import pytest
from tritonclient.utils import InferenceServerException

from dl_pipelines.serving import admin, process
from dl_pipelines.serving.client import open_client
from dl_pipelines.serving.process import birth
from dl_pipelines.serving.server import TritonServer, running
from dl_pipelines.store.home import Home
from tests.serving.echo import MODELS, answers, echo_home, finish, until

EVIL = """
class TritonPythonModel:
    def initialize(self, args):
        open({marker!r}, "w").write("was here")
"""
CONFIG = {"backend": "python", "max_batch_size": 0, "instance_group": [{"kind": "KIND_CPU", "count": 1}]}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home whose kept server has an echo project."""
    made = echo_home(tmp_path_factory.mktemp("admin") / "home")
    TritonServer(made).start(keep=True)
    yield made
    finish(made)


@pytest.fixture
def server(home):
    """Its server."""
    return TritonServer(home)


def asked(port: int, method: str, path: str, body: object = None, **headers: str) -> tuple[int, str]:
    """Status and text of a request."""
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        reply = connection.getresponse()
        return reply.status, reply.read().decode(errors="replace")
    finally:
        connection.close()


def evil(marker: Path) -> dict:
    """The body of a load that brings code along."""
    code = base64.b64encode(EVIL.format(marker=str(marker)).encode()).decode()
    return {"parameters": {"config": json.dumps({"name": "evil", **CONFIG}), "file:1/model.py": code}}


def test_a_client_can_not_bring_code(server, tmp_path):
    state, before = server.state(), sorted(server.home.repository.rglob("*"))
    told = (403, '{"error":"This API is restricted, expecting header \'dlp-admin\'"}')
    for headers in ({}, {"dlp-admin": ""}, {"dlp-admin": "0" * 64}):
        given = asked(state.http, "POST", "/v2/repository/models/evil/load", evil(tmp_path / "marker"), **headers)
        assert given == told
    client = open_client(server.grpc)
    with pytest.raises(InferenceServerException, match="This protocol is restricted"):
        client.load_model("evil", config=json.dumps(CONFIG), files={"file:1/model.py": EVIL.encode()})
    client.close()
    assert not (tmp_path / "marker").exists() and sorted(server.home.repository.rglob("*")) == before
    assert "evil" not in server.control.index()


def test_what_else_only_an_administrator_may(server):
    state = server.state()
    name = next(process.SHARED_MEMORY.glob(f"{process.region_prefix(server.home)}*")).name
    region = {"key": f"/{name}", "offset": 0, "byte_size": 64}
    for method, path, body in (
        ("POST", "/v2/repository/models/echo/unload", {}),
        ("POST", "/v2/repository/models/echo/load", {}),
        ("POST", "/v2/repository/index", {}),
        ("GET", "/v2/models/echo/config", None),
        ("POST", "/v2/systemsharedmemory/region/mine/register", region),
        ("POST", "/v2/systemsharedmemory/unregister", {}),
        ("GET", "/v2/systemsharedmemory/status", None),
        ("POST", "/v2/cudasharedmemory/unregister", {}),
        ("POST", "/v2/logging", {"log_verbose_level": 1}),
        ("POST", "/v2/trace/setting", {"trace_level": ["TIMESTAMPS"]}),
        ("POST", "/v2/models/echo/trace/setting", {"trace_level": ["TIMESTAMPS"]}),
    ):
        assert asked(state.http, method, path, body)[0] == 403, path
    client = open_client(server.grpc)
    for call in (
        lambda: client.unload_model("echo"),
        lambda: client.load_model("echo"),
        client.get_model_repository_index,
        lambda: client.get_model_config("echo"),
        lambda: client.register_system_shared_memory("mine", f"/{name}", 64),
        client.unregister_system_shared_memory,
        lambda: client.update_log_settings({"log_verbose_level": 1}),
        lambda: client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]}),
    ):
        with pytest.raises(InferenceServerException, match="This protocol is restricted"):
            call()
    client.close()
    assert all(answers(state.http, model) for model in MODELS)


def test_everybody_may_ask(server):
    state, client = server.state(), open_client(server.grpc)
    for path in ("health/live", "health/ready", "models/echo/ready", "models/echo", "models/echo/stats"):
        assert asked(state.http, "GET", f"/v2/{path}")[0] == 200, path
    assert asked(state.metrics, "GET", "/metrics")[0] == 200
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("echo")
    assert client.get_model_metadata("echo").name == "echo" and client.get_server_metadata().name == "triton"
    assert client.get_inference_statistics("echo").model_stats[0].name == "echo"
    client.close()


def test_our_own_commands_may_all_of_it(server):
    assert server.control.index() == dict.fromkeys(MODELS, "READY") and server.control.instances("echo") == 1
    server.control.load("echo")
    server.control.unload("echo__challenger")
    assert server.control.index()["echo__challenger"] == "UNAVAILABLE"
    server.serve("echo")
    assert answers(server.state().http, "echo__challenger")


def test_the_key_is_its_users_and_stays_when_the_server_is_started_again(server, home):
    path, state, control = admin.key_file(home), server.state(), server.control
    key = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and len(key) == 64
    others = [file for file in home.server.rglob("*") if file.is_file() and file != path]
    assert others and not [file for file in others if key in file.read_text(errors="replace")]
    assert key not in Path(f"/proc/{state.guardian}/cmdline").read_text()
    os.kill(state.pid, 9)
    until(lambda: birth(state.pid) is None)
    until(lambda: answers(state.http))
    assert path.read_text() == key and control.index() == dict.fromkeys(MODELS, "READY"), "a command goes on"


def test_the_key_is_not_left_in_the_command_line(server):
    key, state = admin.read_key(server.home), server.state()
    words = Path(f"/proc/{state.pid}/cmdline").read_text().split("\0")
    hidden = [word for word in words if "-restricted-" in word]
    assert len(hidden) == 2 and all(word.endswith(f":dlp-admin={'x' * 64}") for word in hidden)
    assert key not in "".join(words)
    assert asked(state.http, "POST", "/v2/repository/index", {}, **{"dlp-admin": "x" * 64})[0] == 403
    assert server.control.index()


def test_each_start_has_a_key_of_its_own_that_goes_with_it(tmp_path):
    home = Home(tmp_path / "home").prepare()
    home.server.mkdir()
    (home.server / "admin.key").write_text("left")
    (home.server / "admin.key").chmod(0o644)
    with running(home):
        key = admin.read_key(home)
        assert len(key) == 64 and stat.S_IMODE(admin.key_file(home).stat().st_mode) == 0o600
    assert not admin.key_file(home).exists() and admin.read_key(home) == ""
    assert admin.http_headers("") == admin.grpc_headers("") == {}


def test_a_server_of_an_older_version_goes_on_and_is_restricted_when_it_is_served_again(tmp_path, monkeypatch):
    home = Home(tmp_path / "home").prepare()
    server = TritonServer(home)
    try:
        with monkeypatch.context() as older:
            older.setattr(admin, "restricted", lambda _: [])
            first = server.start(keep=True)
        admin.key_file(home).unlink()
        with running(home):
            assert server.state() == first, "clients are asking it"
            assert server.control.index() == {}
        assert asked(first.http, "POST", "/v2/repository/index", {})[0] == 200
        second = server.start(keep=True)
        assert second.pid != first.pid and (second.http, second.grpc) == (first.http, first.grpc)
        assert asked(first.http, "POST", "/v2/repository/index", {})[0] == 403
        assert server.start(keep=True) == second
    finally:
        finish(home)


def test_one_whose_guardian_was_of_an_older_version_gets_a_key_with_the_next_start(tmp_path, monkeypatch):
    home = Home(tmp_path / "home").prepare()
    server = TritonServer(home)
    try:
        with monkeypatch.context() as older:
            older.setattr(admin, "restricted", lambda _: [])
            first = server.start(keep=True)
        admin.key_file(home).unlink()
        os.kill(first.guardian, 9)
        until(lambda: birth(first.guardian) is None)
        assert server.start().pid == first.pid
        assert server.control.index() == {}, "it does not mind the key"
        os.kill(first.pid, 9)
        until(lambda: birth(first.pid) is None)
        until(lambda: (state := server.state()) and state.ready)
        assert asked(first.http, "POST", "/v2/repository/index", {})[0] == 403
        assert server.control.index() == {}
    finally:
        finish(home)
