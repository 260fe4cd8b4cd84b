"""What served when, from rows of the ledger written by hand; no server is asked."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from dl_pipelines.serving import champion as reads
from dl_pipelines.serving.champion import append, champion, kept, previous
from dl_pipelines.serving.rollouts import end_rollout, open_rollout, rollout_rows
from dl_pipelines.serving.served import served, time_of
from dl_pipelines.serving.server import TritonServer
from dl_pipelines.store import durable
from dl_pipelines.store.database import Database
from dl_pipelines.store.home import Home
from dl_pipelines.store.tables import rollouts
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.wire.routing import only

START = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def workspace(tmp_path):
    return Workspace(Home(tmp_path / "home").prepare(), "p")


def when(hour):
    return START + timedelta(hours=hour)


def row(workspace, hour, event, model, actor="run", **evidence):
    at = when(hour).isoformat(timespec="milliseconds")
    return append(
        workspace, event=event, model=f"p__{model}", digest=model * 64, partition=f"2026-01-0{hour % 9 + 1}|base",
        reason=f"{event} of {model}", actor=actor, evidence=evidence, at=at,
    )  # fmt: skip


def route(workspace, model, version):
    durable.write_json(TritonServer(workspace.home).routing("p"), only("p", f"p__{model}", version).plain())


def told(found):
    return [(arm.arm, arm.model, arm.share, arm.actor) for arm in found.arms]


def test_every_time_has_its_arms(workspace):
    row(workspace, 0, "published", "a")
    row(workspace, 1, "champion", "a", version=1)
    row(workspace, 2, "published", "b", revision=7)
    row(workspace, 3, "challenger", "b", "sensor", revision=7, share=0.0)
    row(workspace, 4, "challenger", "b", "sensor", revision=8, share=0.1)
    row(workspace, 5, "withdrawn", "b", "sensor", revision=9)
    row(workspace, 6, "challenger", "c", "sensor", revision=10, share=0.5)
    row(workspace, 7, "champion", "c", "ann", version=5)
    row(workspace, 8, "rollback", "a", "bob", version=6)
    expected = {
        0: [],
        1: [("champion", "p__a", 1, "run")],
        2: [("champion", "p__a", 1, "run")],
        3: [("champion", "p__a", 1, "run"), ("shadow", "p__b", 0, "sensor")],
        4: [("champion", "p__a", 0.9, "run"), ("challenger", "p__b", 0.1, "sensor")],
        5: [("champion", "p__a", 1, "run")],
        6: [("champion", "p__a", 0.5, "run"), ("challenger", "p__c", 0.5, "sensor")],
        7: [("champion", "p__c", 1, "ann")],
        8: [("champion", "p__a", 1, "bob")],
    }
    for hour, arms in expected.items():
        assert told(served(workspace, when(hour))) == arms, hour
        assert told(served(workspace, when(hour) - timedelta(milliseconds=1))) == expected.get(hour - 1, []), hour
    found = served(workspace, when(4))
    assert (found.arms[0].since, found.arms[1].since) == (
        "2026-01-01T13:00:00.000+00:00", "2026-01-01T16:00:00.000+00:00"
    )  # fmt: skip
    assert (found.arms[1].reason, found.arms[1].digest) == ("challenger of b", "b" * 64)
    assert [(change.event, change.share) for change in found.history] == [
        ("champion", 1), ("challenger", 0), ("challenger", 0.1), ("withdrawn", 0), ("challenger", 0.5),
        ("champion", 1), ("rollback", 1),
    ]  # fmt: skip
    assert found.plain()["arms"][1]["share"] == 0.1


def test_a_table_ahead_of_the_ledger_is_said(workspace):
    assert (served(workspace).arms, served(workspace).open) == ((), "")
    first = row(workspace, 0, "published", "a")
    route(workspace, "a", first)
    assert served(workspace).open == (
        "the routing table has p__a and the ledger not yet; the next `dlp serve`, `dlp run` or `dlp predict` completes "
        "it"
    )
    row(workspace, 0, "champion", "a", version=first)
    assert served(workspace).open == ""
    assert served(workspace, when(0)).open == "", "of another time than now nothing is said"


def test_times_as_a_person_writes_them():
    assert time_of("2026-01-31") == datetime(2026, 1, 31, tzinfo=UTC)
    assert time_of("2026-01-31T14:00:00+02:00") == datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert time_of("2026-01-31 14:00") == datetime(2026, 1, 31, 14, tzinfo=UTC)
    with pytest.raises(ValueError, match="found the time 'yesterday'; expected ISO 8601, such as 2026-01-31 or"):
        time_of("yesterday")


@pytest.mark.parametrize(
    ("moves", "expected"),
    [
        ("a", None),
        ("ab", "a"),
        ("abA", None),
        ("zabA", "z"),
        ("zabAZ", None),
        ("abAb", "a"),
        ("abAc", "a"),
        ("abAcA", None),
        ("abab", "a"),
        ("ababA", "b"),
        ("abAB", "a"),
        ("aab", "a"),
    ],
)
def test_what_a_rollback_brings_back(workspace, moves, expected):
    """Capitals are rollbacks. The third last case is a ledger of an older version, which went forth again."""
    for hour, name in enumerate(moves):
        number = row(workspace, hour, "published", name.lower())
        row(workspace, hour, "rollback" if name.isupper() else "champion", name.lower(), version=number)
        route(workspace, name.lower(), number)
    found = previous(workspace)
    assert (found and found["model"]) == (expected and f"p__{expected}")


def test_rollbacks_by_a_pile_that_is_kept_apart(workspace):
    """1,000 moves at random against a list that is pushed and popped as they are done."""
    draw, pile, rows = random.Random(3), [], []
    for number in range(1000):
        if len(pile) > 1 and draw.random() < 0.45:
            pile.pop()
            event = "rollback"
        else:
            pile.append(draw.choice([name for name in "abcdef" if not pile or name != pile[-1]]))
            event = "champion"
        rows.append({"id": number, "event": event, "digest": pile[-1], "evidence": {}})
        below = reads._below(rows, pile[-1])
        assert (below and below["digest"]) == (pile[-2] if len(pile) > 1 else None), rows


def test_what_stays_is_what_serves_what_did_and_what_would(workspace):
    for hour, (event, name) in enumerate([("champion", "a"), ("champion", "b"), ("champion", "c"), ("rollback", "b")]):
        number = row(workspace, hour, "published", name)
        row(workspace, hour, event, name, version=number)
        route(workspace, name, number)
    assert kept(workspace) == {"b" * 64: "p__b", "a" * 64: "p__a", "c" * 64: "p__c"}
    assert champion(workspace).actor == "run"


def rollout(workspace, event, key, challenger="p__b"):
    database = Database.of(workspace.home, workspace.project)
    number = database.append(
        rollouts, project="p", experiment="b-vs-a-1", event=event, stage=1, share=0.1, champion="p__a",
        challenger=challenger, partition="2026-01-02|base", decision={}, reason="r", actor="sensor", key=key,
    )  # fmt: skip
    database.close()
    return number


@pytest.mark.parametrize(("champion", "event"), [("p__a", "stopped"), ("p__b", "promoted")])
def test_an_experiment_is_ended_once(workspace, champion, event):
    assert open_rollout(workspace) is None
    number = rollout(workspace, "stage", "b-vs-a-1:stage:1")
    assert open_rollout(workspace)["id"] == number
    assert end_rollout(workspace, number, champion, "by hand", "ann") is True
    assert end_rollout(workspace, number, champion, "by hand", "ann") is False
    assert open_rollout(workspace) is None
    last = rollout_rows(workspace)[-1]
    assert (last["event"], last["reason"], last["actor"], last["key"]) == (event, "by hand", "ann", "b-vs-a-1:end")
    assert (last["stage"], last["challenger"], last["experiment"]) == (1, "p__b", "b-vs-a-1")
