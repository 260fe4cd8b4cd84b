"""A challenger beside the champion, on a real server: what table, server and ledger have after each step."""

import contextlib
import time
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from benchmarks.tiny import FIRST, SECOND, THIRD
from dl_pipelines.brief.live import Router
from dl_pipelines.serving import parity, repair, repository, traffic, trial
from dl_pipelines.serving.champion import NoChampion, champion, kept, ledger, routed
from dl_pipelines.serving.control import Control
from dl_pipelines.serving.parity import ParityError
from dl_pipelines.serving.process import TritonError
from dl_pipelines.serving.publish import make_triton_repository
from dl_pipelines.serving.served import served
from dl_pipelines.serving.server import TritonServer, running
from dl_pipelines.serving.traffic import give_traffic, rollback
from dl_pipelines.serving.trial import TrialError, end_trial, put_challenger, require_servable
from dl_pipelines.store import durable
from dl_pipelines.store.artifacts import ArtifactError
from dl_pipelines.store.database import DatabaseError
from dl_pipelines.wire.routing import CHALLENGER, CHAMPION, Arm

ROUTER = Router(timeout_ms=300, breaker=7)


def name_of(artifact):
    return artifact.read_json("model.json")["model"]


@pytest.fixture(scope="module")
def trio(make_workspace, task, data, serving, evaluation):
    """Three published models of a home of their own; the server runs for the whole module."""
    workspace = make_workspace()
    with running(workspace.home, lazy=True):
        yield (
            workspace,
            [make_triton_repository(workspace, day, serving, data, task, evaluation) for day in (FIRST, SECOND, THIRD)],
        )


@pytest.fixture
def start(trio):
    """The first model serves alone."""
    workspace, made = trio
    give_traffic(workspace, made[1], SECOND, "another")
    give_traffic(workspace, made[0], FIRST, "start")
    return workspace, made


def ready(workspace):
    control = TritonServer(workspace.home).control
    return {name for name, state in control.index().items() if state == "READY"}


def trial_events(workspace):
    told = [row for row in ledger(workspace) if row["event"] in ("challenger", "withdrawn")]
    return [(row["event"], row["model"], row["evidence"]["revision"]) for row in told]


REVISION = iter(range(100, 10_000))


def put(workspace, artifact, share=0.1, salt="s", revision=None):
    number = next(REVISION) if revision is None else revision
    return put_challenger(workspace, artifact, share=share, salt=salt, revision=number, router=ROUTER)


def test_nothing_is_tried_before_something_serves(trio):
    workspace, made = trio
    with pytest.raises(NoChampion, match="found nothing published for tiny; expected a champion"):
        put(workspace, made[0])
    assert routed(workspace) is None


def test_a_share_of_the_units_then_shadow_then_the_end(start):
    workspace, (first, _, third) = start
    before = len(trial_events(workspace))
    table = put(workspace, third, 0.25, "once", 20)
    assert table.arms == (Arm(CHAMPION, name_of(first), 0.75), Arm(CHALLENGER, name_of(third), 0.25))
    assert (table.revision, table.salt, table.timeout_ms, table.breaker, table.shadow) == (20, "once", 300, 7, "")
    assert table == routed(workspace)
    assert table.version == champion(workspace).version, "the champion's publication is as it was"
    assert {name_of(first), name_of(third), "tiny"} <= ready(workspace)
    assert kept(workspace)[third.digest] == name_of(third)

    again = put(workspace, third, 0.5, "other", 20)
    assert again == table, "the same revision changes nothing"
    with pytest.raises(TrialError, match="found the revision 19 of tiny; expected 20, which came after it"):
        put(workspace, third, 0.5, "other", 19)

    shadow = put(workspace, third, 0, "twice", 21)
    assert shadow.arms == (Arm(CHAMPION, name_of(first), 1.0),)
    assert (shadow.shadow, shadow.revision) == (name_of(third), 21)
    ended = end_trial(workspace, 22)
    assert (ended.models, ended.revision, ended.version) == ((name_of(first),), 22, table.version)
    assert name_of(third) not in ready(workspace)
    assert not (workspace.home.repository / name_of(third)).exists()
    assert end_trial(workspace, 22) == ended
    assert trial_events(workspace)[before:] == [
        ("challenger", name_of(third), 20), ("challenger", name_of(third), 21), ("withdrawn", name_of(third), 22)
    ]  # fmt: skip
    assert repair.reconcile(workspace) == []


def test_the_next_challenger_takes_the_place_of_the_first(start):
    workspace, (_, second, third) = start
    put(workspace, third)
    put(workspace, second)
    assert name_of(third) not in ready(workspace)
    assert name_of(second) in ready(workspace)


@pytest.mark.parametrize("move", ["promotion", "rollback"])
def test_a_move_of_the_champion_ends_the_trial(start, move):
    workspace, (_, second, third) = start
    put(workspace, third)
    if move == "promotion":
        give_traffic(workspace, third, THIRD, "better")
    else:
        rollback(workspace)
    table = routed(workspace)
    assert (table.champion, len(table.models)) == (name_of(third if move == "promotion" else second), 1)
    assert (table.revision, table.shadow, table.salt) == (0, "", "")
    assert trial_events(workspace)[-1][0] == "challenger", "the move itself is the end of it"


@pytest.mark.parametrize(("share", "revision"), [(1, 5), (-0.1, 5), (float("nan"), 5), (0.5, 0)])
def test_shares_and_revisions_that_make_no_sense(start, share, revision):
    workspace, made = start
    with pytest.raises(TrialError, match=r"found the share .* expected a share from 0 \(shadow\) to below 1"):
        put(workspace, made[2], share, "s", revision)


def test_what_may_not_be_tried_changes_nothing(start, monkeypatch):
    workspace, (first, _, third) = start
    before, folders = routed(workspace), sorted(path.name for path in workspace.home.repository.iterdir())
    with pytest.raises(TrialError, match=f"found {name_of(first)} as challenger of itself in tiny"):
        put(workspace, first)
    with monkeypatch.context() as patch:
        patch.setattr(repository, "unlike", lambda first, other: "found the outputs a; expected b")
        with pytest.raises(TrialError, match="not tried: found the outputs a; expected b"):
            put(workspace, third)
    real = np.load
    with monkeypatch.context() as patch:
        patch.setattr(np, "load", lambda path, **given: real(path, **given) + (parity.OUTPUTS in str(path)))
        with pytest.raises(ParityError, match=r"found a largest difference of 0\.\d+ .*the old model keeps the"):
            put(workspace, third)
    path = third.file("model/1/model.xml")
    sound = path.read_bytes()
    path.write_bytes(sound[:-1])
    try:
        with pytest.raises(ArtifactError, match=r"found model/1/model.xml of triton_repository .* damaged"):
            put(workspace, third)
    finally:
        path.write_bytes(sound)
    assert routed(workspace) == before
    assert sorted(path.name for path in workspace.home.repository.iterdir()) == folders
    assert name_of(third) not in ready(workspace)


def promote(workspace, artifact):
    give_traffic(workspace, artifact, THIRD, "better")


@pytest.mark.parametrize("move", [promote, put, require_servable])
def test_what_does_not_load_or_answers_otherwise_is_in_no_ledger(start, monkeypatch, move):
    workspace, (_, _, third) = start
    before, real = ledger(workspace), Control.load

    def load(self, model):
        if model == name_of(third):
            raise TritonError(f"found no memory for {model}")
        real(self, model)

    def compare(server, artifact, model):
        raise ParityError(f"found a difference of {model}")

    for place, name, fails, error in (
        (Control, "load", load, TritonError), (parity, "require_live_parity", compare, ParityError)
    ):  # fmt: skip
        with monkeypatch.context() as patch, pytest.raises(error, match=f"found .* {name_of(third)}"):
            patch.setattr(place, name, fails)
            move(workspace, third)
        assert ledger(workspace) == before
        assert name_of(third) not in ready(workspace)


@pytest.mark.parametrize("move", [promote, put])
def test_a_database_that_fails_after_the_comparison_leaves_what_served_as_it_was(start, monkeypatch, move):
    workspace, (_, _, third) = start
    before, routers = (ledger(workspace), routed(workspace)), []

    def fail(*_, **named):
        raise DatabaseError("found it gone")

    with monkeypatch.context() as patch, pytest.raises(DatabaseError, match="found it gone"):
        patch.setattr(traffic, "install_router", lambda *given: routers.append(given))
        patch.setattr(traffic, "append", fail)
        patch.setattr(trial, "append", fail)
        move(workspace, third)
    assert routers == [], "the old champion would answer behind the new one's settings"
    assert name_of(third) not in ready(workspace) and not (workspace.home.repository / name_of(third)).exists()
    assert (ledger(workspace), routed(workspace)) == before


def test_a_server_that_dies_before_the_comparison_is_no_fault_of_the_model(trio, monkeypatch):
    _, (first, *_) = trio
    with pytest.raises(TritonError, match=f"found that {name_of(first)} does not answer .*connect"):
        parity.require_live_parity(SimpleNamespace(grpc="127.0.0.1:9"), first, name_of(first))

    def late(*_):
        raise InferenceServerException("Deadline Exceeded", "StatusCode.DEADLINE_EXCEEDED")

    monkeypatch.setattr(parity, "batched", late)
    for lives, error in ((True, ParityError), (False, TritonError)):
        server = SimpleNamespace(grpc="127.0.0.1:9", control=SimpleNamespace(ready=lambda lives=lives: lives))
        with pytest.raises(error, match=r"does not answer \(Deadline Exceeded\)"):
            parity.require_live_parity(server, first, name_of(first))


class Crash(BaseException):
    """The process is gone."""


@contextlib.contextmanager
def dies(place, monkeypatch):
    """The process goes between the ledger's row and the routing table, or between the table and the next row."""

    def hook(operation, path):
        if place == "before" and operation == "rename" and path.name == "tiny.json":
            raise Crash

    def append(workspace, **values):
        raise Crash

    with monkeypatch.context() as patch, durable.inject(hook), contextlib.suppress(Crash):
        if place == "after":
            patch.setattr(repair, "append", append)
        yield


def test_what_served_at_a_time_is_what_the_table_had_then_whatever_died(start, monkeypatch):
    workspace, (first, _, third) = start
    seen = []

    def note():
        time.sleep(0.02)  # a file's time is of the kernel's last tick
        seen.append((datetime.now(UTC), routed(workspace).models))
        time.sleep(0.02)

    for move in (put, promote):
        for place in ("before", "after"):
            note()
            with dies(place, monkeypatch):
                move(workspace, third)
            note()
            assert (seen[-2][1] != seen[-1][1]) == (place == "after")
            assert ("ledger's row" in " ".join(repair.reconcile(workspace))) == (place == "after")
    give_traffic(workspace, first, FIRST, "back")
    note()
    for at, models in seen:
        assert tuple(arm.model for arm in served(workspace, at).arms) == models


def test_a_challenger_that_does_not_go_holds_up_nobody(start, monkeypatch):
    workspace, (first, _, third) = start
    told = []
    monkeypatch.setattr(workspace, "progress", lambda *said: told.append(said))
    put(workspace, third)

    def hangs(self, *models, seconds=20):
        raise TritonError(f"found {', '.join(models)} still being unloaded after {seconds:g} s")

    with monkeypatch.context() as patch:
        patch.setattr(Control, "unload", hangs)
        assert end_trial(workspace, next(REVISION)).models == (name_of(first),)
    what = f"found {name_of(third)} still being unloaded after 5 s; nothing waits for it"
    assert told == [("triton_repository", what)]
    assert not (workspace.home.repository / name_of(third)).exists()
    assert repair.reconcile(workspace) == []
