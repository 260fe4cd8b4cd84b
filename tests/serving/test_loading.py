"""A load is given up later, the larger the model is."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from dl_pipelines.serving import loading, repository
from dl_pipelines.serving.server import running
from dl_pipelines.serving.state import start_limit
from dl_pipelines.serving.unloading import drop
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Workspace
from tests.serving.echo import CODE, CONFIG, MODELS, answers, echo_home, stubs_of, until


def slow(seconds: float) -> dict[str, bytes]:
    """Files of a model that takes so long to load."""
    begin = f"    def initialize(self, args):\n        __import__('time').sleep({seconds})\n\n"
    return {"config.pbtxt": CONFIG.encode(), "1/model.py": CODE.replace("    def ex", f"{begin}    def ex").encode()}


def grown(path: Path, megabytes: int) -> Path:
    """A file that takes no room on the disk."""
    with path.open("ab") as file:
        file.truncate(megabytes * 10**6)
    return path


def test_the_limit_grows_with_all_files_of_the_model(tmp_path):
    assert loading.load_limit(tmp_path / "absent") == 120
    (tmp_path / "1").mkdir()
    grown(tmp_path / "config.pbtxt", 1)
    grown(tmp_path / "1" / "model.onnx", 4999)
    (tmp_path / "1" / "gone").symlink_to(tmp_path / "absent")
    assert loading.load_limit(tmp_path) == 120 + 5000 / 20


def test_a_start_has_time_for_all_models_that_it_loads(tmp_path):
    home = echo_home(tmp_path / "home")
    before = start_limit(home)
    for place, model in enumerate(MODELS):
        grown(home.repository / model / "1" / "weights", 1000 * (place + 1))
    (home.repository / "another").mkdir()
    grown(home.repository / "another" / "weights", 1000)
    assert start_limit(home) - before == pytest.approx(6000 / 20, abs=0.1)


def test_a_large_model_is_waited_for_and_a_small_one_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "LOAD_SECONDS", 1.0)
    with running(Home(tmp_path / "home").prepare()) as server:
        for model, megabytes in (("large", 400), ("small", 0)):
            repository.install(server.home, model, slow(3))
            grown(server.home.repository / model / "1" / "weights", megabytes)
        started = time.monotonic()
        server.control.load("large")
        assert time.monotonic() - started > 3 and answers(server.state().http, "large")
        with pytest.raises(TimeoutError, match="found small not loaded after 1 s; expected it to be, for the size of"):
            server.control.load("small")
        until(lambda: answers(server.state().http, "small"), 20)


def test_what_was_given_up_does_not_stay_in_the_server_when_it_is_dropped(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "LOAD_SECONDS", 1.0)
    home = Home(tmp_path / "home").prepare()
    with running(home) as server:
        repository.install(home, "slow", slow(60))
        repository.install(home, "other", slow(0))
        server.control.load("other")
        with pytest.raises(TimeoutError):
            server.control.load("slow")
        started, pid = time.monotonic(), server.state().pid
        assert len(stubs_of(pid, "slow")) == 1
        drop(Workspace(home, "any"), server, "slow")
        assert time.monotonic() - started < 20
        assert stubs_of(pid, "slow") == [] and set(server.control.index()) == {"other"}
        assert server.state().pid == pid and answers(server.state().http, "other")
        repository.install(home, "slow", slow(0))
        server.control.load("slow")
        assert answers(server.state().http, "slow")
