"""A published model whose loading ends the whole server: on a real one, looked at again and again."""

import shutil

import numpy as np
import pytest

from benchmarks.tiny import reference, weights
from dl_pipelines.brief.live import Lifecycle, Rollout, Router
from dl_pipelines.lifecycle import ledger
from dl_pipelines.lifecycle.by_hand import Wish, promote_by_hand
from dl_pipelines.lifecycle.experiment import Rules, due, step
from dl_pipelines.lifecycle.promotion import compare_with_champion, promote
from dl_pipelines.serving import repository
from dl_pipelines.serving.champion import STAGE, routed
from dl_pipelines.serving.champion import ledger as served
from dl_pipelines.serving.client import predict
from dl_pipelines.serving.deadly import DeadlyError
from dl_pipelines.serving.process import TritonError
from dl_pipelines.serving.server import TritonServer, running
from dl_pipelines.serving.state import loading_file
from dl_pipelines.serving.traffic import give_traffic, rollback
from dl_pipelines.serving.trial import require_servable
from dl_pipelines.store import durable
from dl_pipelines.store.artifacts import Gate
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Workspace

from .conftest import BETTER, RENAMED, WORSE, model_of

LIVE = Lifecycle(evidence="live", rollout=Rollout(shares=(0, 0.5)))
CODE = """
import os, signal
import numpy as np
import triton_python_backend_utils as pb

class TritonPythonModel:
    def initialize(self, args):
        if os.path.exists({flag!r}):
            with open({flag!r}, "a") as deaths:
                deaths.write("x")
            os.kill(os.getppid(), signal.SIGKILL)

    def execute(self, requests):
        return [pb.InferenceResponse([pb.Tensor("logits", self.answer(request))]) for request in requests]

    def answer(self, request):
        images = pb.get_input_tensor_by_name(request, "image").as_numpy()
        return (images.reshape(-1, 64).astype(np.float32) - np.float32(128)) @ np.float32({weights})
"""
WHY = "that the server died twice while it was loaded; expected it to outlive that"
IMAGE = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1)


class Crash(BaseException):
    """The process is gone."""


class Deadly:
    """A project whose first model serves; the good one's answers come from code that ends the server at its loading."""

    def __init__(self, workspace, task, data, evaluation, flag):
        self.workspace, self.task, self.flag = workspace, task, flag
        self.rules = Rules(task, data, evaluation, LIVE, Router())
        self.server = TritonServer(workspace.home)
        self.first, self.made = workspace.get(STAGE, WORSE), self._make(workspace.get(STAGE, BETTER))
        self.old, self.new = model_of(self.first), model_of(self.made)
        give_traffic(workspace, self.first, WORSE, "start")
        self.evidence = compare_with_champion(workspace, RENAMED, data, task, LIVE, evaluation)
        flag.write_text("")

    def _make(self, good):
        def build(draft):
            for name in good.files:
                if name not in ("model.json", "model/1/model.onnx"):
                    draft.file(name).write_bytes(good.file(name).read_bytes())
            config = draft.file("model/config.pbtxt")
            config.write_text(config.read_text().replace('"onnxruntime"', '"python"'))
            code = CODE.format(weights=weights(1).tolist(), flag=str(self.flag))
            draft.file("model/1/model.py").write_text(code)
            model = repository.model_name(self.workspace.project, draft.path / "model")
            draft.write_json("model.json", {**good.read_json("model.json"), "model": model})
            draft.gate(Gate("live_parity", True, "made by a test", blocking=True))

        parents = {stage: self.workspace.by_digest(stage, digest) for stage, digest in good.parents.items()}
        return self.workspace.make(STAGE, RENAMED, build, settings={"deadly": True}, parents=parents)

    @property
    def deaths(self):
        """How often the model has ended a server, by its own count, and how often the guardian started it again."""
        return len(self.flag.read_text()), self.server.start().restarts

    def look(self):
        return step(self.workspace, self.rules, 1e10)

    def by_force(self):
        wish = Wish("ann", partition=RENAMED, reason="once more", force=True)
        return promote_by_hand(self.workspace, self.rules, wish)

    def answers(self, seed, middle):
        found = predict(self.workspace, self.task, IMAGE, ["one"])
        return np.allclose(found, reference(IMAGE, seed, middle), atol=1e-4)

    def ends(self):
        return [(row["event"], row["reason"]) for item in ledger.experiments(self.workspace) for row in item.rows[1:]]

    def nothing_moved(self):
        table = routed(self.workspace)
        return table is not None and table.models == (self.old,) and self.answers(0, 60)


@pytest.fixture
def deadly(never_served, tmp_path, task, data, evaluation):
    original, _ = never_served
    home = Home(tmp_path / "home")
    for name in ("artifacts", "index", "briefs", "reports", "dagster", "logs", "work"):
        shutil.copytree(original.home.root / name, home.root / name, symlinks=True)
    with running(home):
        yield Deadly(Workspace(home, original.project), task, data, evaluation, tmp_path / "flag")


@pytest.mark.slow
def test_an_experiment_whose_challenger_ends_the_server_is_over_after_two_deaths(deadly):
    assert deadly.answers(0, 60)
    with pytest.raises(TritonError, match=f"found that the server died while {deadly.new} was loaded .*after the next"):
        deadly.look()
    assert deadly.deaths == (1, 1) and deadly.nothing_moved() and deadly.ends() == []
    (told,) = deadly.look()
    assert told.startswith(f"{deadly.new}: stopped (the challenger can't be served: found of {deadly.new} {WHY}; read")
    ((event, reason),) = deadly.ends()
    assert event == "stopped" and WHY in reason and reason.endswith("`dlp promote --date D --force --reason TEXT`")
    for _ in range(2):
        assert not due(deadly.workspace, deadly.rules, 1e10).needed
        assert deadly.look() == []
    with pytest.raises(DeadlyError, match=WHY):
        promote(deadly.workspace, deadly.evidence, actor="sensor")
    assert deadly.deaths == (2, 2) and deadly.nothing_moved()

    with pytest.raises(TritonError, match=f"found that the server died while {deadly.new} was loaded"):
        deadly.by_force()
    assert deadly.deaths == (3, 3) and deadly.nothing_moved(), "a person may try again"
    deadly.flag.unlink()
    assert deadly.by_force().model == deadly.new and deadly.answers(1, 128)
    assert not list(loading_file(deadly.workspace.home, "").parent.iterdir())


def test_a_death_counts_when_the_process_that_asked_dies_with_the_server(deadly):
    def dies(operation, path):
        if path.parent.name == "loading" and deadly.flag.read_text():
            raise Crash

    with pytest.raises(Crash), durable.inject(dies):
        deadly.look()
    assert deadly.deaths == (1, 1) and deadly.nothing_moved()
    (told,) = deadly.look()
    assert WHY in told and deadly.deaths == (2, 2) and deadly.nothing_moved()


def test_a_promotion_is_refused_after_two_deaths_and_a_rollback_to_such_a_model_is_not(deadly):
    def move():
        promote(deadly.workspace, deadly.evidence, actor="sensor")

    for error, told in ((TritonError, "died while"), (DeadlyError, WHY), (DeadlyError, WHY)):
        with pytest.raises(error, match=told):
            move()
        assert deadly.nothing_moved()
    with pytest.raises(DeadlyError, match=WHY):
        require_servable(deadly.workspace, deadly.made)
    assert deadly.deaths == (2, 2)
    assert [row["event"] for row in served(deadly.workspace)] == ["published", "champion"]

    deadly.flag.unlink()
    deadly.by_force()
    give_traffic(deadly.workspace, deadly.first, WORSE, "back")
    durable.write_json(loading_file(deadly.workspace.home, deadly.made.digest), {"deaths": 2})
    assert rollback(deadly.workspace).model == deadly.new and deadly.answers(1, 128)
