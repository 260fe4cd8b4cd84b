"""Looks at a live experiment: which are kept, when one is due, and what stops it from being decided on."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from dl_pipelines.brief.live import Rollout, Router
from dl_pipelines.lifecycle import experiment, ledger
from dl_pipelines.lifecycle.experiment import due, step
from dl_pipelines.lifecycle.promotion import PromotionError
from dl_pipelines.lifecycle.verdict import accept
from dl_pipelines.serving.champion import append, routed
from dl_pipelines.wire.log_format import LogError

from .traffic import Table
from .worlds import ADVANCE, HARMED, PROMOTE, SHARES, WAIT, both


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
