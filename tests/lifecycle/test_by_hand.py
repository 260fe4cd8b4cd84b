"""A person's promotions and rollbacks, on a real server; what they may not do, and what the ledgers say of them."""

from __future__ import annotations

import pytest

from dl_pipelines.brief.live import Router
from dl_pipelines.lifecycle import ledger as experiments
from dl_pipelines.lifecycle.by_hand import Wish, promote_by_hand, rollback_by_hand
from dl_pipelines.lifecycle.experiment import Rules
from dl_pipelines.lifecycle.promotion import PromotionError, compare_with_champion
from dl_pipelines.lifecycle.retention import collect_garbage
from dl_pipelines.serving.champion import NoChampion, champion, ledger
from dl_pipelines.serving.rollouts import rollout_rows
from dl_pipelines.serving.traffic import give_traffic
from dl_pipelines.serving.trial import put_challenger

from .conftest import ALIKE, BETTER, LATER, WORSE, model_of


@pytest.fixture(scope="module")
def rules(task, data, evaluation, lifecycle):
    return Rules(task, data, evaluation, lifecycle, Router())


@pytest.fixture
def compare(task, data, lifecycle, evaluation):
    return lambda workspace, day: compare_with_champion(workspace, day, data, task, lifecycle, evaluation)


@pytest.fixture
def start(duel):
    """The poor model serves."""
    workspace, published = duel
    give_traffic(workspace, published[WORSE], WORSE, "start")
    return workspace, published


def ann(**wish):
    return Wish("ann", **wish)


def last_move(workspace):
    row = ledger(workspace)[-1]
    return row["event"], row["model"], row["actor"], row["reason"]


def test_what_the_evidence_favours_is_what_is_proposed(start, compare, rules):
    workspace, published = start
    with pytest.raises(PromotionError, match=f"found no comparison of {model_of(published[ALIKE])} .*, which serves; "):
        promote_by_hand(workspace, rules, ann(partition=ALIKE))
    row = compare(workspace, BETTER)
    moved = promote_by_hand(workspace, rules, ann(reason="fine by me"))
    better = model_of(published[BETTER])
    assert (moved.changed, moved.before, moved.model, moved.partition) == (
        True, model_of(published[WORSE]), better, BETTER.key
    )  # fmt: skip
    assert moved.files == 3 and moved.seconds > 0
    assert last_move(workspace) == ("champion", better, "ann", "fine by me")
    assert ledger(workspace)[-1]["evidence"]["evidence"] == row["id"]

    back = rollback_by_hand(workspace, "", "bob")
    assert (back.model, back.actor, back.reason) == (model_of(published[WORSE]), "bob", "rolled back by hand")
    again = (
        f"found that evidence {row['id']} has promoted {better} once, and that {back.model} took its place; expected"
    )
    for wish in (ann(), ann(evidence=row["id"]), ann(partition=BETTER)):
        with pytest.raises(PromotionError, match=again):
            promote_by_hand(workspace, rules, wish)
    forced = promote_by_hand(workspace, rules, ann(evidence=row["id"], force=True, reason="it was the data"))
    assert (forced.model, forced.reason) == (better, "it was the data")
    assert ledger(workspace)[-1]["evidence"] | {"version": 0} == {
        "evidence": row["id"], "decision": "promote", "forced": True, "version": 0
    }  # fmt: skip


def test_against_the_evidence_only_with_force_and_a_reason(start, compare, rules):
    workspace, published = start
    give_traffic(workspace, published[BETTER], BETTER, "start")
    row, better = compare(workspace, LATER), model_of(published[BETTER])
    for wish in (ann(evidence=row["id"]), ann(partition=LATER)):
        with pytest.raises(PromotionError, match=f"found the decision keep in evidence {row['id']} "):
            promote_by_hand(workspace, rules, wish)
    with pytest.raises(PromotionError, match=rf"found no challenger of {better} .* the last comparison said keep \("):
        promote_by_hand(workspace, rules, ann())
    with pytest.raises(PromotionError, match="found no reason; expected --reason"):
        promote_by_hand(workspace, rules, ann(partition=LATER, force=True, reason=" "))
    assert champion(workspace).model == better
    moved = promote_by_hand(workspace, rules, ann(partition=LATER, force=True, reason="a demonstration"))
    assert (moved.model, last_move(workspace)[2:]) == (model_of(published[LATER]), ("ann", "a demonstration"))


def test_where_live_traffic_decides_a_comparison_moves_nothing(start, compare, rules):
    workspace, _ = start
    row = compare(workspace, BETTER)
    live = Rules(
        rules.task, rules.data, rules.evaluation, rules.lifecycle.model_copy(update={"evidence": "live"}), rules.router
    )
    for wish in (ann(), ann(evidence=row["id"])):
        with pytest.raises(PromotionError, match="found no promotion of tiny that was proposed"):
            promote_by_hand(workspace, live, wish)
    with pytest.raises(PromotionError, match=r"found that lifecycle\.evidence is live; expected its experiment to"):
        promote_by_hand(workspace, live, ann(partition=BETTER))


@pytest.mark.parametrize(("move", "event"), [("rollback", "stopped"), ("another", "stopped"), ("it", "promoted")])
def test_a_person_ends_the_experiment_under_way(start, rules, move, event):
    workspace, published = start
    give_traffic(workspace, published[ALIKE], ALIKE, "a version to go back from")
    now, challenger = champion(workspace), published[BETTER]
    name = experiments.name_of(now.model, model_of(challenger), now.version)
    experiments.add(
        workspace, f"{name}:stage:0", experiment=name, event="stage", stage=0, share=0.5, champion=now.model,
        challenger=model_of(challenger), partition=BETTER.key, reason="not worse", actor="sensor",
        decision={"digest": challenger.digest, "version": now.version},
    )  # fmt: skip
    revision = rollout_rows(workspace)[-1]["id"]
    put_challenger(workspace, challenger, share=0.5, salt=name, revision=revision, router=Router())
    assert ledger(workspace)[-1]["actor"] == "sensor" and ledger(workspace)[-1]["partition"] == BETTER.key
    if move == "rollback":
        rollback_by_hand(workspace, "worse", "ann")
    else:
        to = LATER if move == "another" else BETTER
        promote_by_hand(workspace, rules, ann(partition=to, force=True, reason="worse"))
    last = rollout_rows(workspace)[-1]
    assert (last["event"], last["actor"], last["experiment"]) == (event, "ann", name)
    assert last["reason"] == f"{champion(workspace).model} was given the traffic: worse"
    assert experiments.running(workspace) is None


def test_a_challenger_is_not_garbage(start, project):
    workspace, published = start
    name = "kept-vs-serving-1"
    first, now = published[LATER], champion(workspace)
    experiments.add(
        workspace, f"{name}:stage:0", experiment=name, event="stage", stage=0, share=0.0, champion=now.model,
        challenger=model_of(first), partition=LATER.key, reason="not worse", actor="sensor",
        decision={"digest": first.digest, "version": now.version},
    )  # fmt: skip
    planned = {item.digest for item in collect_garbage(workspace, 1, dry_run=True) if item.stage == "triton_repository"}
    assert first.digest not in planned and published[WORSE].digest not in planned
    experiments.add(
        workspace, f"{name}:end", experiment=name, event="stopped", stage=0, share=0.0, champion=now.model,
        challenger=model_of(first), partition=LATER.key, reason="over", actor="sensor", decision={},
    )  # fmt: skip
    assert rollout_rows(workspace)[-1]["event"] == "stopped"


def test_nothing_to_roll_back_to(project):
    with pytest.raises(NoChampion, match="found no version of silent that served before the present one; expected two"):
        rollback_by_hand(project("silent"), "", "ann")
