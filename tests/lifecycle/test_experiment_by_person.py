"""Who accepts, forces, stops or moves the champion while a live experiment runs; the moves of traffic are faked."""

import pytest

from dl_pipelines.lifecycle import by_hand, experiment, ledger, mend
from dl_pipelines.lifecycle.by_hand import Wish, promote_by_hand
from dl_pipelines.lifecycle.experiment import step
from dl_pipelines.lifecycle.promotion import PromotionError
from dl_pipelines.lifecycle.verdict import accept, stop
from dl_pipelines.serving.champion import append, champion, routed
from dl_pipelines.serving.process import TritonError
from dl_pipelines.serving.rollouts import end_rollout, open_rollout
from dl_pipelines.wire.log_format import LogError
from dl_pipelines.wire.routing import only

from .worlds import ADVANCE, HARMED, PROMOTE, STOP, propose


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
