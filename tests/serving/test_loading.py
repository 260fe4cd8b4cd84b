"""A load is given up later, the larger the model is."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from dl_pipelines.serving import loading, repository
from dl_pipelines.serving.server import running
from dl_pipelines.serving.state import start_limit
from dl_pipelines.store.home import Home
from tests.serving.echo import CODE, CONFIG, MODELS, answers, echo_home, until

SLOW = CODE.replace(
    "    def execute", "    def initialize(self, args):\n        __import__('time').sleep(3)\n\n    def execute"
)


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
            repository.install(server.home, model, {"config.pbtxt": CONFIG.encode(), "1/model.py": SLOW.encode()})
            grown(server.home.repository / model / "1" / "weights", megabytes)
        started = time.monotonic()
        server.control.load("large")
        assert time.monotonic() - started > 3 and answers(server.state().http, "large")
        with pytest.raises(TimeoutError, match="found small not loaded after 1 s; expected it to be, for the size of"):
            server.control.load("small")
        until(lambda: answers(server.state().http, "small"), 20)
