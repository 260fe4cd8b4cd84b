"""What is done on a decision, by rows of the ledger and the routing table; the moves of traffic are faked."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime
from threading import Barrier
from types import SimpleNamespace

import dagster as dg
import pytest
import yaml
from dagster._utils.warnings import disable_dagster_warnings

from dl_pipelines import catalog
from dl_pipelines.brief.live import Lifecycle, Rollout, Router
from dl_pipelines.lifecycle import by_hand, door, experiment, ledger, mend
from dl_pipelines.lifecycle.by_hand import Wish, promote_by_hand
from dl_pipelines.lifecycle.experiment import Rules, due, step
from dl_pipelines.lifecycle.promotion import PromotionError
from dl_pipelines.lifecycle.rollout import Decision
from dl_pipelines.lifecycle.verdict import accept, stop
from dl_pipelines.serving.champion import append, champion, routed
from dl_pipelines.serving.parity import ParityError
from dl_pipelines.serving.process import TritonError
from dl_pipelines.serving.repository import RepositoryError
from dl_pipelines.serving.rollouts import end_rollout, open_rollout
from dl_pipelines.serving.server import TritonServer
from dl_pipelines.store import durable
from dl_pipelines.store.artifacts import ArtifactError, Gate
from dl_pipelines.store.database import Database
from dl_pipelines.store.home import Home
from dl_pipelines.store.tables import promotion_evidence
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.wire.log_format import LogError
from dl_pipelines.wire.routing import CHALLENGER, CHAMPION, Arm, only
from resources.workspaces import RESOURCE, WorkspaceResource
from sensors.jobs import rollout_job
from sensors.rollout import rollout_sensor
from tests.small import small

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
        with contextlib.closing(Database.of(self.workspace.home)) as database:
            return database.append(promotion_evidence, project="tiny", **values)

    # what mend.py calls

    def put_challenger(self, workspace, artifact, *, share, salt, revision, router):
        self.at("put")
        model, table = artifact.read_json("model.json")["model"], routed(workspace)
        arms = (Arm(CHAMPION, table.champion, 1 - share), *([Arm(CHALLENGER, model, share)] if share else []))
        self.route(replace(table, arms=arms, shadow="" if share else model, salt=salt, revision=revision))
        self.at("put after")

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
        for name in ("put_challenger", "end_trial", "give_traffic"):
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


def test_from_shadow_over_every_share_to_all(world):
    assert world.step() == [
        "tiny__new begins its experiment against tiny__old", "tiny__new sees all and answers nobody",
    ]  # fmt: skip
    assert world.shares == ("tiny__old", "tiny__new", 0)
    first = ledger.running(world.workspace)
    table = routed(world.workspace)
    assert (table.revision, table.salt) == (first.stage["id"], first.name) and first.name == "new-vs-old-1"
    assert world.step() == [], "too few"
    assert world.step(ADVANCE) == ["tiny__new: stage 1 (enough)", "tiny__new answers 10.0% of the units"]
    assert world.shares == ("tiny__old", "", 0.1)
    world.step(ADVANCE)
    assert world.shares == ("tiny__old", "", 0.5)
    assert routed(world.workspace).salt == first.name, "a share that grows takes units from the champion only"
    assert world.step(PROMOTE) == ["tiny__new: promoted (better)", "tiny__new has the traffic"]
    assert world.shares == ("tiny__new", "", 0)
    assert world.events == [("stage", 0, "new"), ("stage", 1, "new"), ("stage", 2, "new"), ("promoted", 2, "new")]
    now = champion(world.workspace)
    assert (now.model, now.actor, now.reason) == ("tiny__new", "sensor", "moved")
    for decision in (PROMOTE, HARMED, ADVANCE):
        assert world.step(decision) == [], "nothing runs"


@pytest.mark.parametrize(("decision", "event"), [(HARMED, "rolled_back"), (STOP, "stopped")])
@pytest.mark.parametrize("mode", ["automatic", "manual"])
def test_harm_takes_the_challenger_out_in_every_stage_and_mode(world, decision, event, mode):
    world.step()
    world.step(ADVANCE)
    done = world.step(decision, promotion=mode)
    assert done[0] == f"tiny__new: {event.replace('_', ' ')} ({decision.reason})"
    assert done[1:] == ["tiny__new is taken out; tiny__old has the traffic"]
    assert world.shares == ("tiny__old", "", 0)
    assert world.events[-1] == (event, 1, "new")
    assert world.step() == [] and not world.due().needed, "it does not begin again"


def test_in_manual_mode_a_person_decides_once(world):
    world.step()
    with pytest.raises(
        PromotionError, match="found no promotion of tiny that was proposed; expected an experiment that"
    ):
        accept(world.workspace, world.rules, "ann")
    world.step(ADVANCE)
    world.step(ADVANCE)
    assert world.step(PROMOTE, promotion="manual") == ["tiny__new: proposed (better)"]
    assert world.shares == ("tiny__old", "", 0.5), "nothing moved"
    assert world.step(PROMOTE, promotion="manual") == []
    found = world.due(PROMOTE, promotion="manual")
    proposed = ledger.running(world.workspace).proposed["id"]
    assert not found.needed and found.told == (
        "tiny__new, stage 2: promote (better); lifecycle.promotion is manual: a person decides on the proposal "
        f"{proposed} (`dlp promote`)"
    )
    with pytest.raises(PromotionError, match=f"that was proposed by the row {proposed + 9}; expected"):
        accept(world.workspace, world.rules, "ann", proposal=proposed + 9)
    for _ in range(2):
        row = accept(world.workspace, world.rules, "ann", proposal=proposed)
        assert (row["event"], row["actor"], row["reason"]) == ("promoted", "ann", "proposed: better")
    assert world.shares == ("tiny__new", "", 0) and world.calls.count("give") == 1
    assert champion(world.workspace).actor == "ann"


def test_what_was_proposed_and_then_harmed_can_not_be_accepted(world):
    world.step()
    world.step(PROMOTE, promotion="manual")
    assert world.due(HARMED, promotion="manual").needed
    world.step(HARMED, promotion="manual")
    with pytest.raises(PromotionError, match=r"found that the experiment of tiny__new was rolled_back \(harmed\)"):
        accept(world.workspace, world.rules, "ann")
    assert world.shares == ("tiny__old", "", 0)


@pytest.mark.parametrize(("decisions", "place"), [
    ([], "put"), ([], "put after"), ([ADVANCE], "put"), ([ADVANCE], "put after"), ([ADVANCE, HARMED], "end"),
    ([ADVANCE, HARMED], "end after"), ([ADVANCE, ADVANCE, PROMOTE], "give"),
    ([ADVANCE, ADVANCE, PROMOTE], "give after"),
])  # fmt: skip
def test_what_a_crash_left_is_finished_by_the_next_step(world, decisions, place):
    if decisions:
        world.step()
    for decision in decisions[:-1]:
        world.step(decision)
    world.crash = place
    with pytest.raises(Crash):
        world.step(decisions[-1] if decisions else WAIT)
    half = place.endswith("after")
    assert world.due().needed != half, "the row is there; the table may be"
    before = world.events
    world.step()
    assert world.events == before, "no row a second time"
    last = decisions[-1] if decisions else None
    wanted = {
        None: ("tiny__old", "tiny__new", 0), ADVANCE: ("tiny__old", "", 0.1), HARMED: ("tiny__old", "", 0),
        PROMOTE: ("tiny__new", "", 0),
    }  # fmt: skip
    assert world.shares == wanted[last]
    assert not world.due().needed
    assert world.calls.count(place.removesuffix(" after")) <= len(decisions) + 2
    assert world.calls.count("give after") <= 1


def test_a_promotion_that_a_person_rolled_back_stays_so(world):
    world.step()
    world.step(ADVANCE)
    world.step(ADVANCE)
    world.step(PROMOTE)
    world.serve("old", "ann", "rollback")
    assert world.step(PROMOTE) == []
    assert world.shares == ("tiny__old", "", 0)


def test_a_person_who_moves_the_champion_ends_the_experiment(world):
    world.publish(3, "other")
    world.step()
    world.step(ADVANCE)
    world.serve("other", "ann")
    assert world.due(PROMOTE).told == "tiny__other serves now, not tiny__old"
    assert world.step(PROMOTE) == ["tiny__new: stopped (tiny__other was given the traffic: moved)"]
    assert ledger.experiments(world.workspace)[0].end["actor"] == "ann"
    assert world.shares == ("tiny__other", "", 0)


def test_a_person_who_promotes_the_challenger_itself_has_promoted_it(world):
    world.step()
    world.serve("new", "ann")
    assert world.step(HARMED) == ["tiny__new: promoted (tiny__new was given the traffic: moved)"]
    assert world.shares == ("tiny__new", "", 0)


def test_the_newest_challenger_waits_and_takes_the_place_of_one_that_waits(world):
    world.step()
    for day, model in ((3, "third"), (4, "fourth")):
        world.publish(day, model)
        world.compared(model, "old")
        assert world.step() == [], "the one that runs goes on"
    done = world.step(HARMED)
    assert done[2:] == [
        "tiny__fourth begins its experiment against tiny__old", "tiny__fourth sees all and answers nobody",
    ]  # fmt: skip
    world.step(HARMED)
    assert world.events[-1] == ("rolled_back", 0, "fourth") and not world.due().needed, "third was passed over"


def test_one_that_waited_is_compared_with_the_new_champion_first(world, monkeypatch):
    asked = []

    def compare(workspace, partition, *given):
        asked.append(partition.key)
        world.compared("third", "new", *bounds)
        return door.evidence_after(workspace, 0)[-1]

    monkeypatch.setattr(door, "compare_with_champion", compare)
    world.step()
    world.publish(3, "third")
    world.compared("third", "old")
    world.step(ADVANCE)
    world.step(ADVANCE)
    bounds = (-0.3, -0.2)
    world.step(PROMOTE)
    assert asked == ["2026-01-03|base"] and ledger.running(world.workspace) is None, "worse than what serves now"
    assert not world.due().needed
    world.publish(4, "fourth")
    world.compared("fourth", "new")
    world.step()
    assert world.events[-1] == ("stage", 0, "fourth")


@pytest.mark.parametrize("low_high_rows", [(-0.3, -0.2, 100), (0.1, 0.2, 0)])
def test_a_model_that_is_worse_on_held_out_rows_or_was_not_compared_has_no_experiment(world, low_high_rows):
    world.publish(3, "worse")
    world.compared("worse", "old", *low_high_rows)
    assert world.due().told == "tiny__new waits for its experiment"
    world.step()
    world.step(HARMED)
    assert world.due().told == "no challenger waits"
    assert world.step() == [] and world.events == [("stage", 0, "new"), ("rolled_back", 0, "new")]


def test_a_model_that_is_older_or_published_otherwise_by_now_has_none(world):
    world.publish(2, "again")
    assert world.step() == [] and world.due().told == "no challenger waits"
    world.serve("again")
    world.publish(1, "earlier")
    world.compared("earlier", "again")
    assert world.step() == [] and world.events == []


def test_a_challenger_that_can_not_be_served_ends_its_experiment(world, monkeypatch):
    def refuse(*given, **named):
        raise ParityError("found a largest difference of 3")

    monkeypatch.setattr(mend, "put_challenger", refuse)
    done = world.step()
    assert done[1] == "tiny__new: stopped (the challenger can't be served: found a largest difference of 3)"
    assert world.shares == ("tiny__old", "", 0) and not world.due().needed


def loads(monkeypatch):
    """A server that lives and loads what serves; the models that it was asked for."""
    asked = []
    control = SimpleNamespace(load=asked.append)
    monkeypatch.setattr(TritonServer, "control", property(lambda server: control))
    return asked


@pytest.mark.parametrize("decisions", [[WAIT], [WAIT, ADVANCE], [WAIT, ADVANCE, ADVANCE]])
def test_a_challenger_that_a_living_server_does_not_load_ends_its_experiment(world, monkeypatch, decisions):
    def refuse(*given, **named):
        raise TritonError("found no memory for it")

    for decision in decisions[:-1]:
        world.step(decision)
    monkeypatch.setattr(mend, "put_challenger", refuse)
    asked = loads(monkeypatch)
    world.step(decisions[-1])
    assert world.events[-1] == ("stopped", len(decisions) - 1, "new") and asked == ["tiny__old"]
    end = ledger.experiments(world.workspace)[0].end
    assert end["reason"] == "the challenger can't be served: found no memory for it"
    assert world.shares == ("tiny__old", "", 0) and not world.due().needed


@pytest.mark.parametrize("error", [ParityError, ArtifactError, RepositoryError, TritonError])
@pytest.mark.parametrize("mode", ["automatic", "manual"])
def test_a_promotion_that_can_not_be_carried_out_takes_the_challenger_out(world, monkeypatch, error, mode):
    def refuse(*given, **named):
        raise error("found it damaged")

    for decision in (WAIT, ADVANCE, ADVANCE):
        world.step(decision)
    monkeypatch.setattr(mend, "give_traffic", refuse)
    loads(monkeypatch)
    told = "the challenger can't be promoted: found it damaged"
    world.step(PROMOTE, promotion=mode)
    if mode == "manual":
        with pytest.raises(PromotionError, match=rf"found that the experiment of tiny__new was stopped \({told}\)"):
            accept(world.workspace, world.rules, "ann")
    assert world.events[-2:] == [("promoted", 2, "new"), ("stopped", 2, "new")]
    end = ledger.experiments(world.workspace)[-1].end
    assert (end["event"], end["reason"], end["actor"]) == ("stopped", told, "sensor")
    assert world.shares == ("tiny__old", "", 0) and routed(world.workspace).revision == end["id"]
    before = world.events
    assert not world.due().needed and world.step(PROMOTE) == [] and world.events == before


def test_a_server_that_is_away_puts_a_promotion_off(world, monkeypatch):
    def away(*given, **named):
        raise TritonError("found no server")

    for decision in (WAIT, ADVANCE, ADVANCE):
        world.step(decision)
    with monkeypatch.context() as patched:
        patched.setattr(mend, "give_traffic", away)
        for _ in range(2):
            with pytest.raises(TritonError, match="found no server"):
                world.step(PROMOTE)
    assert world.events[-1] == ("promoted", 2, "new") and world.due().told == "tiny__new was to be promoted"
    assert world.step() == ["tiny__new has the traffic"] and world.shares == ("tiny__new", "", 0)


def test_a_server_that_is_away_ends_nothing(world, monkeypatch):
    def away(*given, **named):
        raise TritonError("found no server")

    with monkeypatch.context() as patched:
        patched.setattr(mend, "put_challenger", away)
        for _ in range(2):
            with pytest.raises(TritonError):
                world.step()
    assert world.events == [("stage", 0, "new")]
    assert world.due().told == "the challenger has not its share"
    world.step()
    assert world.shares == ("tiny__old", "tiny__new", 0)


def test_held_out_evidence_begins_nothing_and_ends_what_runs(world):
    assert world.due(evidence="held_out") == experiment.Due(
        False, "lifecycle.evidence is held_out: no experiment is run"
    )
    assert world.step(evidence="held_out") == []
    world.step()
    assert world.due(evidence="held_out").needed
    world.step(PROMOTE, evidence="held_out")
    assert world.events[-1] == ("stopped", 0, "new") and world.shares == ("tiny__old", "", 0)


def both(world, *requests):
    """Requests that the champion has answered and the challenger too, in shadow."""
    table, revision = Table(world.workspace), routed(world.workspace).revision
    table.answers(revision, [{"request_id": name, "arm": "champion"} for name in requests])
    table.shadows(revision, [{"request_id": name, "model": "tiny__new"} for name in requests])


def test_the_same_evidence_is_looked_at_and_kept_once(world):
    world.step()
    found = world.due(WAIT)
    assert (found.needed, found.told) == (False, "tiny__new, stage 0: wait (too few)")
    assert world.due(PROMOTE, found.seen).told == "nothing new of tiny__new, stage 0"
    assert len(ledger.looks(world.workspace)) == 1
    world.due(WAIT)
    assert len(ledger.looks(world.workspace)) == 1
    world.due(ADVANCE)
    assert len(ledger.looks(world.workspace)) == 2, "another decision"
    both(world, "a")
    assert world.due(ADVANCE, found.seen).needed
    last = ledger.looks(world.workspace, "new-vs-old-1")[-1]
    assert (last["stage"], last["decision"]["action"], last["evidence"]["champion"]["units"]) == (0, "advance", 1)


def test_of_many_looks_those_are_kept_that_saw_more_or_decided_otherwise(world):
    world.step()
    kept, sent = [], 0
    for count in (10, 1, 190, 1, 1, 1, 1, 0):
        both(world, *(f"r{sent + n}" for n in range(count)))
        sent += count
        world.due(WAIT)
        kept.append(len(ledger.looks(world.workspace)))
    assert kept == [1, 2, 3, 3, 3, 4, 4, 4], "10, 11, 201, and the first above 203.01"
    world.due(HARMED)
    assert len(ledger.looks(world.workspace)) == 5


def test_an_answer_after_the_routers_limit_is_a_failure_of_the_champion_too(world):
    world.rules = replace(world.rules, router=Router(timeout_ms=70))
    world.step()
    table, revision = Table(world.workspace), routed(world.workspace).revision
    for name, first, second in (("a", 90.0, 60.0), ("b", 60.0, 60.0)):
        table.answers(revision, [{"request_id": name, "arm": "champion", "latency_ms": first}])
        table.shadows(revision, [{"request_id": name, "model": "tiny__new", "latency_ms": second}])
    world.due(WAIT)
    seen = ledger.looks(world.workspace)[-1]["evidence"]
    assert [(seen[arm]["requests"], seen[arm]["failed"]) for arm in ("champion", "challenger")] == [(2, 1), (2, 0)]


def test_what_json_can_not_hold_is_none():
    assert ledger.finite({"a": (1.5, float("inf")), 3: float("nan")}) == {"a": [1.5, None], "3": None}


def test_many_at_once_move_once_even_without_the_lock(world, monkeypatch):
    world.step()
    monkeypatch.setattr(experiment, "alone", lambda workspace: contextlib.nullcontext())
    world.decision, count = HARMED, 6
    barrier = Barrier(count)

    def race(_):
        barrier.wait(10)
        return step(world.workspace, world.rules, 1e10)

    with ThreadPoolExecutor(count) as pool:
        told = [line for done in pool.map(race, range(count)) for line in done]
    assert world.events == [("stage", 0, "new"), ("rolled_back", 0, "new")]
    assert told.count("tiny__new: rolled back (harmed)") == 1
    assert world.shares == ("tiny__old", "", 0)


def test_where_the_log_is_damaged_a_challenger_goes_no_further_but_may_be_taken_out(world, monkeypatch):
    def fail(workspace):
        raise LogError("found a damaged segment")

    world.step()
    monkeypatch.setattr("dl_pipelines.serving.carry.carry_log", fail)
    for decision in (ADVANCE, PROMOTE, WAIT):
        with pytest.raises(LogError, match="found a damaged segment"):
            world.due(decision)
        with pytest.raises(LogError, match="found a damaged segment"):
            world.step(decision)
    assert world.events == [("stage", 0, "new")]
    assert world.due(HARMED).needed
    with pytest.raises(LogError):
        world.step(HARMED)
    assert world.events[-1] == ("rolled_back", 0, "new") and world.shares == ("tiny__old", "", 0)


def propose(world):
    for decision in (WAIT, ADVANCE, ADVANCE, PROMOTE):
        world.step(decision, promotion="manual")
    return ledger.running(world.workspace).proposed["id"]


@pytest.mark.parametrize(("decision", "event"), [(HARMED, "rolled_back"), (STOP, "stopped")])
def test_who_accepts_has_the_newest_evidence_looked_at_first(world, decision, event):
    propose(world)
    world.decision, looks = decision, len(ledger.looks(world.workspace))
    told = (
        rf"found that the experiment of tiny__new was {event} \({decision.reason}\); expected it to wait for a person"
    )
    for _ in range(2):
        with pytest.raises(PromotionError, match=told):
            accept(world.workspace, world.rules, "ann")
    assert world.shares == ("tiny__old", "", 0) and "give" not in world.calls
    assert ledger.experiments(world.workspace)[0].end["actor"] == "ann"
    assert len(ledger.looks(world.workspace)) == looks + 1


def test_nothing_is_accepted_while_a_part_of_the_log_is_damaged(world, monkeypatch):
    def fail(workspace):
        raise LogError("found a damaged segment")

    propose(world)
    world.decision = PROMOTE
    with monkeypatch.context() as patched:
        patched.setattr("dl_pipelines.serving.carry.carry_log", fail)
        told = r"found a part of the log that can't be read \(found a damaged segment\); expected all of it"
        with pytest.raises(PromotionError, match=told):
            accept(world.workspace, world.rules, "ann")
        assert world.events[-1] == ("proposed", 2, "new") and world.shares == ("tiny__old", "", 0.5)
    assert accept(world.workspace, world.rules, "ann")["event"] == "promoted"


@pytest.fixture
def forced(world, monkeypatch):
    """A function: `dlp promote --force --evidence N`; what serves then."""
    monkeypatch.setattr(by_hand, "give_traffic", world.give_traffic)
    monkeypatch.setattr(by_hand, "_moved", lambda workspace, *given: champion(workspace).model)

    def do(number, evidence="live"):
        wish = Wish("ann", evidence=number, force=True, reason="I accept it")
        return promote_by_hand(world.workspace, world.ruled(promotion="manual", evidence=evidence), wish)

    return do


def test_a_forced_proposal_is_the_one_with_that_id_and_not_a_comparison(world, forced):
    proposed = propose(world)
    world.publish(3, "worse")
    for _ in range(proposed + 1):
        last = world.compared("worse", "old", -0.3, -0.2)
    assert last > proposed
    with pytest.raises(PromotionError, match=f"found no proposal {last} of tiny; expected the id of one, since"):
        forced(last)
    stage = ledger.running(world.workspace).stage["id"]
    with pytest.raises(PromotionError, match=f"found no proposal {stage} of tiny"):
        forced(stage)
    assert champion(world.workspace).model == "tiny__old"
    assert forced(proposed) == "tiny__new"


@pytest.mark.parametrize("evidence", ["live", "held_out"])
def test_another_model_under_the_partition_of_what_is_forced_is_refused(world, forced, evidence):
    number = propose(world) if evidence == "live" else world.compared("new", "old")
    world.publish(2, "again")
    with pytest.raises(PromotionError, match=r"found tiny__again published for 2026-01-02\|base; expected tiny__new"):
        forced(number, evidence)
    assert champion(world.workspace).model == "tiny__old"


@pytest.mark.parametrize("decision", [ADVANCE, PROMOTE, HARMED])
def test_who_moves_the_champion_between_a_look_and_its_row_has_ended_the_experiment(world, monkeypatch, decision):
    world.publish(3, "other")
    world.step()

    def decide(evidence, rules, margin):
        row = open_rollout(world.workspace)
        world.serve("other", "ann", "rollback")  # what `dlp rollback` does; it waits for no look
        end_rollout(world.workspace, row["id"], "tiny__other", "by ann", "ann")
        return decision

    monkeypatch.setattr(experiment, "decide_rollout", decide)
    assert step(world.workspace, world.rules, 1e10) == []
    assert world.events == [("stage", 0, "new"), ("stopped", 0, "new")]
    assert open_rollout(world.workspace) is None and world.shares == ("tiny__other", "", 0)


@pytest.mark.parametrize("decision", [ADVANCE, PROMOTE, HARMED])
def test_a_move_between_a_look_and_its_row_that_crashed_before_its_own_row_ends_it_too(world, monkeypatch, decision):
    world.publish(3, "other")
    world.step()

    def decide(evidence, rules, margin):
        made, partition = world.published["other"]
        row = {"model": "tiny__other", "digest": made.digest, "partition": partition.key, "reason": "ann knows"}
        version = append(world.workspace, event="published", evidence={"event": "champion"}, actor="ann", **row)
        world.route(only("tiny", "tiny__other", version))
        return decision

    monkeypatch.setattr(experiment, "decide_rollout", decide)
    assert step(world.workspace, world.rules, 1e10) == [
        "tiny__new: stopped (tiny__other was given the traffic: ann knows)"
    ]
    assert world.events == [("stage", 0, "new"), ("stopped", 0, "new")]
    assert ledger.experiments(world.workspace)[0].end["actor"] == "ann", "who moved, by the row of the publication"


@pytest.mark.parametrize(("changed", "told"), [
    ({"rollout": Rollout(shares=SHARES, alpha=0.4)}, "alpha was 0.01 and is 0.4"),
    ({"margin": 0.5}, "margin was 0.0 and is 0.5"),
    ({"rollout": Rollout(shares=(0, 0.1, 0.2))}, r"shares was [0.0, 0.1, 0.5] and is [0.0, 0.1, 0.2]"),
    ({"rollout": Rollout(shares=SHARES, min_units=20, label_hours=0)},
     "min_units was 2000 and is 20, label_hours was 24.0 and is 0.0"),
])  # fmt: skip
@pytest.mark.parametrize("mode", ["automatic", "manual"])
def test_rules_that_change_in_the_middle_end_the_experiment_and_say_which(world, changed, told, mode):
    for decision in (WAIT, ADVANCE, ADVANCE):
        world.step(decision)
    if mode == "manual":
        world.step(PROMOTE, promotion="manual")
        with pytest.raises(PromotionError, match="was stopped"):
            accept(world.workspace, world.ruled(**changed), "ann")
    else:
        assert world.due(PROMOTE, **changed).needed
        world.step(PROMOTE, **changed)
    end = ledger.experiments(world.workspace)[0].end
    reason = f"the rules have changed while it ran, and what it counts is not by them: {told}"
    assert (end["event"], end["reason"]) == ("stopped", reason)
    assert world.shares == ("tiny__old", "", 0) and "give" not in world.calls


def test_another_limit_of_the_router_in_the_middle_ends_the_experiment_too(world):
    world.step()
    world.rules = replace(world.rules, router=Router(timeout_ms=50, breaker=3))
    world.step(ADVANCE)
    end = ledger.experiments(world.workspace)[0].end
    assert end["reason"].endswith("not by them: timeout_ms was 500.0 and is 50.0, breaker was 10 and is 3")


def test_what_decides_nothing_about_a_challenger_may_change(world):
    world.step()
    world.step(ADVANCE, promotion="manual", keep=9, confidence=0.9)
    assert world.events[-1] == ("stage", 1, "new")


def test_a_worse_newer_one_does_not_take_the_place_of_one_that_waits(world):
    world.step()
    for day, model, bounds in ((3, "good", (0.01, 0.03)), (4, "worse", (-0.3, -0.2))):
        world.publish(day, model)
        world.compared(model, "old", *bounds)
    assert world.step(HARMED)[2] == "tiny__good begins its experiment against tiny__old"
    world.step(HARMED)
    assert not world.due().needed and world.events[-1] == ("rolled_back", 0, "good"), "worse has none"


def test_of_several_that_are_to_be_compared_anew_the_newest_that_is_not_worse_begins(world, monkeypatch):
    bounds = {"2026-01-03|base": ("third", 0.01, 0.03), "2026-01-04|base": ("fourth", -0.3, -0.2)}

    def compare(workspace, partition, *given):
        model, *found = bounds[partition.key]
        world.compared(model, "new", *found)
        return door.evidence_after(workspace, 0)[-1]

    monkeypatch.setattr(door, "compare_with_champion", compare)
    world.step()
    for day, model in ((3, "third"), (4, "fourth")):
        world.publish(day, model)
        world.compared(model, "old")
    world.step(ADVANCE)
    world.step(ADVANCE)
    assert world.step(PROMOTE)[2] == "tiny__third begins its experiment against tiny__new"
    world.step(HARMED)
    assert not world.due().needed


def test_the_same_model_of_another_day_has_no_second_experiment_and_is_not_due(world):
    world.step()
    world.step(HARMED)
    world.publish(3, "new")  # a model is called by its bytes
    world.compared("new", "old")
    for _ in range(2):
        assert world.due() == experiment.Due(False, "no challenger waits") and world.step() == []
    assert world.events == [("stage", 0, "new"), ("rolled_back", 0, "new")]


def test_a_person_stops_the_experiment_and_the_champion_stays(world):
    with pytest.raises(PromotionError, match="found no live experiment of tiny that runs; expected one; look at `dlp"):
        stop(world.workspace, world.rules, "ann")
    world.publish(3, "third")
    world.step()
    world.step(ADVANCE)
    row = stop(world.workspace, world.rules, "ann", "the label source is down")
    assert (row["event"], row["stage"], row["actor"], row["reason"]) == (
        "stopped", 1, "ann", "the label source is down"
    )  # fmt: skip
    assert world.shares == ("tiny__old", "", 0) and routed(world.workspace).revision == row["id"]
    assert world.step(PROMOTE) == [] and "give" not in world.calls, "it does not begin again"
    world.compared("third", "old")
    world.step()
    assert world.events[-1] == ("stage", 0, "third")
    assert stop(world.workspace, world.rules, "ann")["reason"] == "stopped by hand"


def test_a_stop_while_the_server_is_away_is_done_by_the_next_step(world, monkeypatch):
    def away(*given, **named):
        raise TritonError("found no server")

    world.step()
    with monkeypatch.context() as patched:
        patched.setattr(mend, "end_trial", away)
        with pytest.raises(TritonError, match="found no server"):
            stop(world.workspace, world.rules, "ann")
    assert world.events[-1] == ("stopped", 0, "new")
    assert world.step() == ["tiny__new is taken out; tiny__old has the traffic"]


def test_who_stops_what_a_moved_champion_has_ended_is_told(world):
    world.step()
    world.serve("new", "bob")
    told = r"found that the experiment of tiny__new was promoted \(tiny__new was given the traffic: moved\) meanwhile"
    with pytest.raises(PromotionError, match=told):
        stop(world.workspace, world.rules, "ann")


def test_the_hours_of_a_stage_count_from_when_the_table_took_it(world, monkeypatch):
    world.step()
    stage, hours = ledger.running(world.workspace).stage, []
    monkeypatch.setattr(experiment, "decide_rollout", lambda evidence, *given: hours.append(evidence.hours) or WAIT)
    begun = datetime.fromisoformat(stage["at"]).timestamp()
    step(world.workspace, world.rules, begun + 4 * 3600)
    made, partition = world.published["new"]
    row = {"model": "tiny__new", "digest": made.digest, "partition": partition.key, "reason": "r", "actor": "sensor"}
    for revision, later in ((stage["id"] + 1, 1), (stage["id"], 3)):
        at = datetime.fromtimestamp(begun + later * 3600, UTC).isoformat(timespec="milliseconds")
        append(world.workspace, event="challenger", evidence={"revision": revision}, at=at, **row)
    step(world.workspace, world.rules, begun + 4 * 3600)
    assert hours == pytest.approx([4, 1])


def test_a_large_stage_is_looked_at_by_a_run_every_five_minutes(world, monkeypatch):
    world.step()
    monkeypatch.setattr(experiment, "LARGE", 1)
    table, revision = Table(world.workspace), routed(world.workspace).revision
    table.answers(revision, [{"request_id": name, "arm": "champion"} for name in "ab"])
    looks = len(ledger.looks(world.workspace))
    found = world.due(WAIT)
    assert found.needed and found.told == "tiny__new, stage 0: too much to look at beside a sensor"
    assert len(ledger.looks(world.workspace)) == looks
    table.answers(revision, [{"request_id": "c", "arm": "champion"}])
    assert not world.due(WAIT, found.seen).needed, "within the five minutes"
    assert due(world.workspace, world.rules, 1e10 + experiment.RELOOK, found.seen).needed


@pytest.mark.postgres
def test_on_postgres_it_is_the_same(make_world, monkeypatch, postgres_url):
    monkeypatch.setenv("DLP_DATABASE_URL", postgres_url)
    world = make_world()
    world.step()
    both(world, "a")
    world.step(WAIT)
    world.crash = "put"
    with pytest.raises(Crash):
        world.step(ADVANCE)
    world.step(WAIT)
    world.step(PROMOTE)
    world.step(HARMED)
    assert world.events == [("stage", 0, "new"), ("stage", 1, "new"), ("promoted", 1, "new")]
    assert world.shares == ("tiny__new", "", 0)
    assert [look["evidence"]["champion"]["requests"] for look in ledger.looks(world.workspace)] == [1, 1, 0, 0]


def test_the_sensor_and_its_job_do_the_same(world, monkeypatch):
    """Ticks as the daemon takes them, and the runs that they request, on one instance."""
    brief = catalog.read_brief(yaml.safe_dump(small(project="tiny", lifecycle={"evidence": "live"})), "tiny.yaml")
    resources = {RESOURCE: WorkspaceResource(home=str(world.workspace.home.root))}
    told, cursor = [], None
    with disable_dagster_warnings(), dg.DagsterInstance.ephemeral() as instance:
        job = rollout_job(brief)
        sensor = rollout_sensor(brief, job)
        for number, decision in enumerate((WAIT, WAIT, ADVANCE, WAIT, HARMED, WAIT)):
            world.decision = decision
            if number:
                row = {"request_id": f"r{number}", "arm": "champion"}
                Table(world.workspace).answers(routed(world.workspace).revision, [row])
            context = dg.build_sensor_context(instance=instance, cursor=cursor, resources=resources)
            with context:
                result = sensor(context)
            cursor = result.cursor
            told.append(result.skip_reason.skip_message if result.skip_reason else len(result.run_requests))
            if result.run_requests:
                assert job.execute_in_process(instance=instance, resources=resources).success
    assert told == [1, "tiny__new, stage 0: wait (too few)", 1, "tiny__new, stage 1: wait (too few)", 1,
                    "no challenger waits"]  # fmt: skip
    assert world.events == [("stage", 0, "new"), ("stage", 1, "new"), ("rolled_back", 1, "new")]
