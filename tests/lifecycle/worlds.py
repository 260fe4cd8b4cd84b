"""A project whose traffic is moved by fakes, for tests of what live experiments decide and write."""

import contextlib
from dataclasses import replace
from datetime import date
from types import SimpleNamespace

import pytest

from dl_pipelines.brief.live import Lifecycle, Rollout, Router
from dl_pipelines.lifecycle import experiment, ledger, mend
from dl_pipelines.lifecycle.experiment import Rules, due, step
from dl_pipelines.lifecycle.rollout import Decision
from dl_pipelines.serving.champion import append, routed
from dl_pipelines.serving.server import TritonServer
from dl_pipelines.store import durable
from dl_pipelines.store.artifacts import Gate
from dl_pipelines.store.database import Database
from dl_pipelines.store.home import Home
from dl_pipelines.store.tables import promotion_evidence
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.wire.routing import CHALLENGER, CHAMPION, Arm, only

from .traffic import Table

SHARES = (0, 0.1, 0.5)
WAIT, ADVANCE, PROMOTE = Decision("wait", "too few"), Decision("advance", "enough"), Decision("promote", "better")
HARMED, STOP = Decision("roll_back", "harmed"), Decision("stop", "no decision came")


class Crash(BaseException):
    """The process is gone."""


class World:
    """A project with published models, fakes of what moves traffic, and the decision that comes next."""

    def __init__(self, workspace, rules):
        self.workspace, self.rules = workspace, rules
        self.published, self.calls, self.decision, self.crash = {}, [], WAIT, ""

    def publish(self, day, model):
        def build(draft):
            draft.write_json("model.json", {"model": f"tiny__{model}"})
            draft.gate(Gate("live_parity", True, "by a test", blocking=True))

        partition = Partition(date(2026, 1, day), "base")
        made = self.workspace.make("triton_repository", partition, build, settings={"model": model}, parents={})
        self.published[model] = made, partition
        return made

    def serve(self, model, actor="run", event="champion", evidence=None):
        """What give_traffic comes to: the table and the ledger."""
        made, partition = self.published[model]
        row = {"model": f"tiny__{model}", "digest": made.digest, "partition": partition.key, "reason": "moved"}
        version = append(self.workspace, event="published", evidence=evidence or {}, actor=actor, **row)
        self.route(only("tiny", f"tiny__{model}", version))
        append(
            self.workspace, event=event, evidence={**(evidence or {}), "version": version}, actor=actor, **row
        )  # fmt: skip

    def route(self, table):
        durable.write_json(TritonServer(self.workspace.home).routing("tiny"), table.plain())

    def compared(self, challenger, champion, low=-0.01, high=0.02, rows=100):
        values = {
            "champion": f"tiny__{champion}", "challenger": f"tiny__{challenger}", "metric": "accuracy", "rows": rows,
            "partition": self.published[challenger][1].key, "difference": 0.0, "low": low, "high": high,
            "decision": "", "reason": "measured",
        }  # fmt: skip
        with contextlib.closing(Database.of(self.workspace.home, self.workspace.project)) as database:
            return database.append(promotion_evidence, project="tiny", **values)

    # what mend.py calls

    def put_challenger(self, workspace, artifact, *, share, salt, revision, router):
        self.at("put")
        model, table = artifact.read_json("model.json")["model"], routed(workspace)
        arms = (Arm(CHAMPION, table.champion, 1 - share), *([Arm(CHALLENGER, model, share)] if share else []))
        self.route(replace(table, arms=arms, shadow="" if share else model, salt=salt, revision=revision))
        self.at("put after")

    def require_servable(self, workspace, artifact):
        self.at("probe")

    def end_trial(self, workspace, revision):
        self.at("end")
        table = routed(workspace)
        self.route(replace(only("tiny", table.champion, table.version), revision=revision))
        self.at("end after")

    def give_traffic(self, workspace, artifact, partition, reason, evidence=None, actor="run"):
        self.at("give")
        self.serve(artifact.read_json("model.json")["model"].removeprefix("tiny__"), actor, evidence=evidence)
        self.at("give after")

    def at(self, place):
        self.calls.append(place)
        if place == self.crash:
            self.crash = ""
            raise Crash

    # what tests ask

    def step(self, decision=WAIT, **changed):
        self.decision = decision
        return step(self.workspace, self.ruled(**changed), 1e10)

    def due(self, decision=WAIT, seen="", **changed):
        self.decision = decision
        return due(self.workspace, self.ruled(**changed), 1e10, seen)

    def ruled(self, **changed):
        return replace(self.rules, lifecycle=self.rules.lifecycle.model_copy(update=changed))

    @property
    def events(self):
        return [
            (row["event"], row["stage"], row["challenger"].removeprefix("tiny__"))
            for item in ledger.experiments(self.workspace)
            for row in item.rows
        ]

    @property
    def shares(self):
        table = routed(self.workspace)
        arms = {arm.name: arm.weight for arm in table.arms}
        return table.champion, table.shadow, arms.get(CHALLENGER, 0)


@pytest.fixture
def make_world(tmp_path, monkeypatch, task, data, evaluation):
    """A function: `old` serves; `new` is published and not worse on held-out rows."""

    def make():
        given = Lifecycle(evidence="live", rollout=Rollout(shares=SHARES))
        workspace = Workspace(Home(tmp_path / "home").prepare(), "tiny")
        made = World(workspace, Rules(task, data, evaluation, given, Router()))
        for name in ("put_challenger", "end_trial", "give_traffic", "require_servable"):
            monkeypatch.setattr(mend, name, getattr(made, name))
        monkeypatch.setattr(experiment, "decide_rollout", lambda evidence, rules, margin: made.decision)
        made.publish(1, "old")
        made.publish(2, "new")
        made.serve("old")
        made.compared("new", "old")
        return made

    return make


@pytest.fixture
def world(make_world, monkeypatch):
    monkeypatch.delenv("DLP_DATABASE_URL", raising=False)
    return make_world()


def both(world, *requests):
    """Requests that the champion has answered and the challenger too, in shadow."""
    table, revision = Table(world.workspace), routed(world.workspace).revision
    table.answers(revision, [{"request_id": name, "arm": "champion"} for name in requests])
    table.shadows(revision, [{"request_id": name, "model": "tiny__new"} for name in requests])


def propose(world):
    for decision in (WAIT, ADVANCE, ADVANCE, PROMOTE):
        world.step(decision, promotion="manual")
    return ledger.running(world.workspace).proposed["id"]


def loads(monkeypatch):
    """A server that lives and loads what serves; the models that it was asked for."""
    asked = []
    control = SimpleNamespace(load=asked.append)
    monkeypatch.setattr(TritonServer, "control", property(lambda server: control))
    return asked
