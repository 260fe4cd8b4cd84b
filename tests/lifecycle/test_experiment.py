"""What is done on a decision, by rows of the ledger and the routing table; the moves of traffic are faked."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import SimpleNamespace

import dagster as dg
import pytest
import yaml
from dagster._utils.warnings import disable_dagster_warnings

from dl_pipelines import catalog
from dl_pipelines.lifecycle import experiment, ledger, mend
from dl_pipelines.lifecycle.experiment import step
from dl_pipelines.lifecycle.promotion import PromotionError
from dl_pipelines.lifecycle.verdict import accept
from dl_pipelines.serving.champion import champion, routed
from dl_pipelines.serving.parity import ParityError
from dl_pipelines.serving.process import TritonError
from dl_pipelines.serving.repository import RepositoryError
from dl_pipelines.serving.server import TritonServer
from dl_pipelines.store.artifacts import ArtifactError
from resources.workspaces import RESOURCE, WorkspaceResource
from sensors.jobs import rollout_job
from sensors.rollout import rollout_sensor
from tests.small import small

from .traffic import Table
from .worlds import ADVANCE, HARMED, PROMOTE, STOP, WAIT, Crash, both, loads


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


def test_a_challenger_that_can_not_be_served_ends_its_experiment(world, monkeypatch):
    def refuse(*given, **named):
        raise ParityError("found a largest difference of 3")

    monkeypatch.setattr(mend, "put_challenger", refuse)
    done = world.step()
    assert done[1] == "tiny__new: stopped (the challenger can't be served: found a largest difference of 3)"
    assert world.shares == ("tiny__old", "", 0) and not world.due().needed


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
def test_a_challenger_that_can_not_be_loaded_is_taken_out_and_no_row_says_that_it_was_promoted(
    world, monkeypatch, error, mode
):
    def refuse(*given):
        raise error("found it damaged")

    for decision in (WAIT, ADVANCE, ADVANCE):
        world.step(decision)
    monkeypatch.setattr(mend, "require_servable", refuse)
    loads(monkeypatch)
    told = "the challenger can't be promoted: found it damaged"
    world.step(PROMOTE, promotion=mode)
    if mode == "manual":
        with pytest.raises(PromotionError, match=rf"found that the experiment of tiny__new was stopped \({told}\)"):
            accept(world.workspace, world.rules, "ann")
    assert "promoted" not in [event for event, *_ in world.events] and "give" not in world.calls
    end = ledger.experiments(world.workspace)[-1].end
    assert (end["event"], end["stage"], end["reason"], end["actor"]) == ("stopped", 2, told, "sensor")
    assert world.shares == ("tiny__old", "", 0) and routed(world.workspace).revision == end["id"]
    before = world.events
    assert not world.due().needed and world.step(PROMOTE) == [] and world.events == before


def test_one_that_is_damaged_after_it_was_loaded_is_taken_out_and_a_row_says_so(world, monkeypatch):
    """A crash between the row and the table, and then the damage: the row was true when it was written."""

    def refuse(*given, **named):
        raise ArtifactError("found it damaged")

    for decision in (WAIT, ADVANCE, ADVANCE):
        world.step(decision)
    world.crash = "give"
    with pytest.raises(Crash):
        world.step(PROMOTE)
    monkeypatch.setattr(mend, "give_traffic", refuse)
    world.step()
    assert world.events[-2:] == [("promoted", 2, "new"), ("stopped", 2, "new")]
    assert world.shares == ("tiny__old", "", 0) and not world.due().needed


@pytest.mark.parametrize("mode", ["automatic", "manual"])
def test_a_server_that_is_away_puts_a_promotion_off_and_no_row_says_otherwise(world, monkeypatch, mode):
    def away(*given, **named):
        raise TritonError("found no server")

    for decision in (WAIT, ADVANCE, ADVANCE):
        world.step(decision)
    if mode == "manual":
        world.step(PROMOTE, promotion=mode)
    world.decision, before = PROMOTE, world.events
    with monkeypatch.context() as patched:
        patched.setattr(mend, "require_servable", away)
        for _ in range(2):
            with pytest.raises(TritonError, match="found no server"):
                accept(world.workspace, world.rules, "ann") if mode == "manual" else world.step(PROMOTE)
    assert world.events == before and world.due(PROMOTE).needed
    accept(world.workspace, world.rules, "ann") if mode == "manual" else world.step(PROMOTE)
    assert world.events == [*before, ("promoted", 2, "new")] and world.shares == ("tiny__new", "", 0)


@pytest.mark.parametrize(("place", "lived"), [
    ("put_challenger", False), ("require_servable", True), ("give_traffic", True)
])  # fmt: skip
def test_a_server_that_was_started_again_meanwhile_puts_it_off(world, monkeypatch, place, lived):
    """The champion loads, but by another server: what failed was cut off. `lived`: before, so did one."""

    def cut_off(*given, **named):
        state.update(born="b", restarts=1)
        raise TritonError("found its connection reset")

    for decision in (WAIT, ADVANCE, ADVANCE)[: 0 if place == "put_challenger" else 3]:
        world.step(decision)
    state = {"born": "a", "restarts": 0} if lived else {}
    with monkeypatch.context() as patched:
        loads(patched)
        patched.setattr(TritonServer, "state", lambda _: SimpleNamespace(**state) if state else None)
        patched.setattr(mend, place, cut_off)
        with pytest.raises(TritonError, match="connection reset"):
            world.step(PROMOTE)
        assert "stopped" not in [event for event, *_ in world.events]
        with monkeypatch.context() as again:  # it failed by itself: the same server lives
            again.setattr(TritonServer, "state", lambda _: SimpleNamespace(born="b", restarts=1))
            world.step(PROMOTE)
    assert world.events[-1][0] == "stopped"


def test_a_crash_while_a_promotion_is_tried_has_written_no_row(world):
    for decision in (WAIT, ADVANCE, ADVANCE):
        world.step(decision)
    before, world.crash = world.events, "probe"
    with pytest.raises(Crash):
        world.step(PROMOTE)
    assert world.events == before and world.shares == ("tiny__old", "", 0.5)
    assert world.due(PROMOTE).needed and not world.due(WAIT).needed, "nothing to mend, the decision is to come again"
    assert world.step(PROMOTE) == ["tiny__new: promoted (better)", "tiny__new has the traffic"]
    assert world.events == [*before, ("promoted", 2, "new")] and world.calls.count("probe") == 2


def test_a_server_that_goes_away_after_the_row_has_the_next_step_give_the_traffic(world, monkeypatch):
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
