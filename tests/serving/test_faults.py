"""Faults of publishing with a real server, in numbers for every day; `make soak` has the large ones."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import threading
import time

import pytest
import sqlalchemy as sa

from benchmarks.bad_models import KINDS, publish_bad
from benchmarks.faults import Clients, Crashes, Pair, crash_everywhere, torn
from benchmarks.tiny import FIRST, SECOND
from dl_pipelines.brief.live import Router
from dl_pipelines.serving import repository
from dl_pipelines.serving.champion import champion, ledger, routed
from dl_pipelines.serving.publish import make_triton_repository
from dl_pipelines.serving.server import running
from dl_pipelines.serving.traffic import give_traffic, rollback
from dl_pipelines.serving.trial import put_challenger
from dl_pipelines.store import database, durable
from dl_pipelines.store.database import Database, DatabaseError
from dl_pipelines.store.digest import digest_folder
from dl_pipelines.store.home import DATABASE_URL

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pair(make_workspace, task, data, serving, evaluation):
    """A home of its own with two published models, the first of which serves, and its server."""
    workspace = make_workspace()
    with running(workspace.home, lazy=True):
        made = [make_triton_repository(workspace, day, serving, data, task, evaluation) for day in (FIRST, SECOND)]
        give_traffic(workspace, made[1], SECOND, "the first")
        give_traffic(workspace, made[0], FIRST, "the start")
        yield Pair(workspace, *made)


def model_of(artifact):
    return artifact.read_json("model.json")["model"]


def test_a_kill_at_any_operation_leaves_nothing_torn(pair):
    """Each flow at some of its operations; all of them are killed in the soak."""
    with Crashes(pair.workspace) as crashes, Clients(pair.workspace) as load:
        moves = crash_everywhere(pair, crashes, ("promote", "rollback", "put_challenger", "end_trial"), 8, 4)
        whole = crash_everywhere(pair, crashes, ("publish",), 50, 30)
    assert load.requests > 100
    assert load.failures == [] or pair.deaths, load.failures[:3]
    assert sum(moves.values()) >= 5 and whole["publish"] >= 1, (moves, whole)
    assert set(load.by_model) == {0, 1}, "both have answered meanwhile"


def test_bad_models_are_refused_and_named_while_clients_notice_nothing(pair):
    workspace = pair.workspace
    give_traffic(workspace, pair.first, FIRST, "start")
    before = routed(workspace)
    with Clients(workspace) as load:
        told = publish_bad(workspace, pair.second, 8, (*list(KINDS)[:6], "damaged after it was listed"))
    for kind, pattern, said in told:
        assert re.search(pattern, said), f"{kind}: {said}"
    assert (load.failures, set(load.by_model)) == ([], {0})
    assert routed(workspace) == before
    assert list(torn(workspace)) == []


def test_a_rollback_under_load_has_the_same_bytes_and_no_failed_request(pair, capsys):
    workspace = pair.workspace
    give_traffic(workspace, pair.second, SECOND, "start")
    give_traffic(workspace, pair.first, FIRST, "start")
    served = digest_folder(workspace.home.repository / model_of(pair.first))
    give_traffic(workspace, pair.second, SECOND, "better")
    repository.remove(workspace.home, model_of(pair.first))
    with Clients(workspace, count=4, pause=0) as load:
        time.sleep(0.3)
        started = time.perf_counter()
        now = rollback(workspace, "worse", "ann")
        seconds = time.perf_counter() - started
        time.sleep(0.3)
    assert (load.failures, set(load.by_model)) == ([], {0, 1})
    assert (now.model, now.reason, now.actor) == (model_of(pair.first), "worse", "ann")
    assert digest_folder(workspace.home.repository / now.model) == served, "byte for byte"
    with capsys.disabled():
        print(f" [rollback with {load.count} clients: {seconds:.2f} s, {load.requests} requests, 0 failed]", end="")


def test_a_rollback_ends_a_trial_without_a_failed_request(pair):
    workspace = pair.workspace
    give_traffic(workspace, pair.second, SECOND, "start")
    give_traffic(workspace, pair.first, FIRST, "start")
    number = pair.number = pair.number + 2
    with Clients(workspace) as load:
        put_challenger(workspace, pair.second, share=0.5, salt="s", revision=number, router=Router(timeout_ms=2000))
        time.sleep(0.2)
        rollback(workspace, "both are bad")
        time.sleep(0.1)
    assert (load.failures, set(load.by_model)) == ([], {0, 1})
    assert [row["event"] for row in ledger(workspace)][-3:] == ["challenger", "published", "rollback"]


def moves(workspace):
    return [(row["event"], row["model"]) for row in ledger(workspace)]


def test_a_locked_database_is_waited_for(pair):
    workspace = pair.workspace
    give_traffic(workspace, pair.first, FIRST, "start")
    before, timers = moves(workspace), []

    def hook(operation, path):
        if operation == "rename" and path.name == "tiny.json":
            other = sqlite3.connect(workspace.home.root / "dlp.sqlite", check_same_thread=False)
            other.execute("BEGIN EXCLUSIVE")
            timers.append(threading.Timer(0.5, lambda: (other.rollback(), other.close())))
            timers[0].start()

    with durable.inject(hook):
        give_traffic(workspace, pair.second, SECOND, "better")
    timers[0].join()
    assert moves(workspace) == [*before, ("published", model_of(pair.second)), ("champion", model_of(pair.second))]


def test_a_database_that_is_gone_is_told_of_and_the_next_command_completes_the_rest(pair, monkeypatch):
    workspace, second = pair.workspace, model_of(pair.second)
    give_traffic(workspace, pair.first, FIRST, "start")
    before, real = moves(workspace), Database.append
    monkeypatch.setattr(database, "PATIENCE_S", (0.01, 0.01))

    def away(self, table, **values):
        if values["event"] == "champion":
            raise sa.exc.OperationalError("INSERT", {}, sqlite3.OperationalError("database is locked"))
        return real(self, table, **values)

    with monkeypatch.context() as patch, Clients(workspace) as load:
        patch.setattr(Database, "append", away)
        with pytest.raises(DatabaseError, match=r"unable to write what serves \(database is locked\); expected it to"):
            give_traffic(workspace, pair.second, SECOND, "better")
    assert (champion(workspace).model, load.failures) == (second, [])
    assert moves(workspace) == [*before, ("published", second)]
    give_traffic(workspace, pair.second, SECOND, "better")
    assert moves(workspace) == [*before, ("published", second), ("champion", second)]


@pytest.mark.postgres
def test_a_postgres_that_restarts_in_the_middle_of_a_promotion(pair, postgres_url, monkeypatch):
    """A killed server process has PostgreSQL end all others and start anew; it does so before each row in turn."""
    workspace = pair.workspace
    give_traffic(workspace, pair.first, FIRST, "start")
    one, two = model_of(pair.first), model_of(pair.second)
    monkeypatch.setenv(DATABASE_URL, postgres_url)
    monkeypatch.setattr(database, "PATIENCE_S", (0.2, 0.5, 1.0, 2.0, 4.0))
    workspace.home.server.joinpath("routing", "tiny.json").unlink()  # this database knows of nothing yet
    give_traffic(workspace, pair.first, FIRST, "start")
    killed = []

    def step(connection, cursor, statement, *_):
        if statement.startswith("INSERT"):
            cursor.execute("SELECT pg_backend_pid()")
            killed.append(cursor.fetchone()[0])
            if len(killed) % 2:  # the next try is let through
                os.kill(killed[-1], signal.SIGKILL)

    sa.event.listen(sa.Engine, "before_cursor_execute", step)
    try:
        with Clients(workspace) as load:
            give_traffic(workspace, pair.second, SECOND, "better")
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", step)
    assert (len(killed), load.failures) == (4, [])
    assert moves(workspace) == [("published", one), ("champion", one), ("published", two), ("champion", two)]
    assert list(torn(workspace)) == []
