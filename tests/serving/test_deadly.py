"""Which ends of a server are charged to the model that was loaded then; a server that really dies: tests/lifecycle."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dl_pipelines.serving.deadly import DeadlyError, forgive, noted
from dl_pipelines.serving.process import TritonError
from dl_pipelines.serving.state import loading_file
from dl_pipelines.store import durable
from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.store.home import Home

ARTIFACT = Artifact(Path("none"), "triton_repository", "d1", {}, {}, {})


class Server:
    """A server whose birth, guardian and readiness are as a test says."""

    def __init__(self, home):
        self.home, self.born, self.guardian, self.ready = home, "s1", "g1", True
        self.control = SimpleNamespace(ready=lambda: self.ready)

    def state(self):
        return SimpleNamespace(born=self.born, guardian_born=self.guardian) if self.born else None

    @property
    def file(self):
        return loading_file(self.home, ARTIFACT.digest)

    def load(self, error=None, **becomes):
        server: Any = self
        with noted(server, ARTIFACT, "m"):
            assert json.loads(self.file.read_text())["server"] == self.born, "written before the load"
            vars(self).update(becomes)
            if error:
                raise error


@pytest.fixture
def server(tmp_path):
    return Server(Home(tmp_path / "home").prepare())


def interrupted(server, **becomes):
    """A load after which nothing was written, as by a process that died."""
    with pytest.raises(KeyboardInterrupt):
        server.load(KeyboardInterrupt(), **becomes)


def deaths(server):
    return json.loads(server.file.read_text())["deaths"] if server.file.exists() else 0


def test_two_deaths_in_a_row_and_then_no_load(server):
    with pytest.raises(TritonError, match=r"found that the server died while m was loaded \(gone\); expected it to"):
        server.load(OSError("gone"), born="")
    with pytest.raises(TritonError, match="found no living server to load m; expected one"):
        server.load()
    server.born = "s2"
    with pytest.raises(DeadlyError, match="found of m that the server died twice while it was loaded; expected"):
        server.load(OSError("gone"), born="s3")
    with pytest.raises(DeadlyError, match="twice"):
        server.load(AssertionError("loaded"))
    forgive(server.home, ARTIFACT)
    server.load()
    assert not server.file.exists()


def test_a_sound_load_forgets_and_an_error_of_the_model_alone_does_not(server):
    for _ in range(3):
        with pytest.raises(TritonError):
            server.load(OSError("gone"), born="s2")
        with pytest.raises(ValueError, match="it does not load"):
            server.load(ValueError("it does not load"))
        assert json.loads(server.file.read_text()) == {"deaths": 1}, "and nothing is under way"
        server.load()
        server.born = "s1"
    with pytest.raises(ValueError, match="it does not load"):
        server.load(ValueError("it does not load"))
    assert not server.file.exists()


def test_a_process_that_ended_over_a_load_charges_only_what_the_same_guardian_saw(server):
    interrupted(server)
    interrupted(server, born="s2", guardian="g2")  # it lived on, or it was stopped and started
    interrupted(server, born="s3")
    assert deaths(server) == 0, "and then it died"
    interrupted(server, born="s4")
    assert deaths(server) == 1
    with pytest.raises(DeadlyError, match="twice"):
        server.load(AssertionError("loaded"))
    server.guardian = "g3"
    with pytest.raises(DeadlyError, match="twice"):
        server.load(AssertionError("loaded"))


def test_a_server_that_seems_to_live_but_does_not_answer_is_found_dead_at_the_next_load(server):
    with pytest.raises(OSError, match="gone"):
        server.load(OSError("gone"), ready=False)
    server.born, server.ready = "s2", True
    with pytest.raises(ValueError, match="it does not load"):
        server.load(ValueError("it does not load"))
    assert deaths(server) == 1


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"deaths": "many"}', '{"deaths": 3, "guardian": "g1"}'])
def test_a_note_that_makes_no_sense_charges_nobody(server, text):
    durable.write_text(server.file, text)
    server.load()
    assert not server.file.exists()
