"""From the segments into the tables exactly once: two carriers, kills at each statement, restarts, damage."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from itertools import count

import numpy as np
import pytest
import sqlalchemy as sa

from dl_pipelines.serving import carried_rows, carry
from dl_pipelines.serving.carry import carry_log
from dl_pipelines.serving.client import acknowledge
from dl_pipelines.serving.expiry import expire_log
from dl_pipelines.serving.prediction_log import missing_ids
from dl_pipelines.store import tables
from dl_pipelines.store.database import Database, DatabaseError
from dl_pipelines.store.home import DATABASE_URL, Home
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.wire import records
from dl_pipelines.wire.log_format import LogError, encode
from dl_pipelines.wire.log_reading import segments
from tests.logged import MODEL, answer, answered, assign, outputs_of, writer_of

DIED = 17


@pytest.fixture
def plain(tmp_path, monkeypatch) -> Workspace:
    monkeypatch.delenv(DATABASE_URL, raising=False)
    return Workspace(Home(tmp_path / "home").prepare(), "tiny")


def rows(workspace, table):
    database = Database.of(workspace.home, workspace.project)
    try:
        return [dict(row) for row in database.rows(table)]
    finally:
        database.close()


def ids(workspace, table=tables.predictions):
    return sorted(row["request_id"] for row in rows(workspace, table))


def pieces(monkeypatch, size=300):
    """Small pieces, so that a small log takes many transactions."""
    real = carry.read_chunk
    monkeypatch.setattr(carry, "read_chunk", lambda path, at: real(path, at, size))


def test_each_kind_of_record_becomes_a_row(own):
    writer = writer_of(own)
    answer(writer, "one", at=1700000000.25)
    answer(writer, "three", rows=3)
    writer.append([answered("unseen", kept=False)])
    writer.append([answered("fell/back", arm="challenger", failure="it took too long")])
    writer.append([records.failed("lost", 5.0, "u", "challenger", MODEL, 3, "no answer")])
    writer.append([records.shadow("one", 6.0, "tiny__two", 3, 2.5, outputs_of("x"))])
    writer.append([records.shadow("two", 6.0, "tiny__two", 3, 2.5, None, "it broke")])
    writer.append([records.breaker(7.0, "challenger", "tiny__two", 3, "ten failures in a row")])
    assert carry_log(own) == 10
    assert carry_log(own) == 0
    found = {row["request_id"]: row for row in rows(own, tables.predictions)}
    assert sorted(found) == ["fell/back", "one", "three#0", "three#1", "three#2", "unseen"]
    one = found["one"]
    assert np.frombuffer(one.pop("outputs"), one["dtype"]).tolist() == outputs_of("one").tolist()
    assert one == {
        "project": "tiny", "request_id": "one", "asked_at": 1700000000.25, "unit": "u-one", "arm": "champion",
        "answered_by": "champion", "model": MODEL, "revision": 3, "latency_ms": 1.25, "failure": None, "dtype": "<f4",
        "shape": [2], "summary": {"mean": 0.5}, "columns": {"country": "DE"},
    }  # fmt: skip
    assert (found["unseen"]["outputs"], found["unseen"]["summary"]) == (None, {})
    fell = found["fell/back"]
    assert (fell["arm"], fell["answered_by"], fell["failure"]) == ("challenger", "champion", "it took too long")
    shadows = {row["request_id"]: row for row in rows(own, tables.shadow_predictions)}
    assert (shadows["one"]["outputs"], shadows["one"]["failure"]) == (outputs_of("x").tobytes(), None)
    assert (shadows["two"]["outputs"], shadows["two"]["failure"]) == (None, "it broke")
    assert [(row["kind"], row["request_id"], row["arm"], row["detail"]) for row in rows(own, tables.router_events)] == [
        ("failed", "lost", "challenger", "no answer"), ("breaker", "", "challenger", "ten failures in a row"),
    ]  # fmt: skip
    writer.close()


def test_a_second_answer_to_the_same_id_does_not_count(own):
    writer = writer_of(own)
    answer(writer, "again", at=1.0)
    answer(writer, "again", at=2.0, outputs=np.zeros(2, np.float32))
    writer.close()
    assert carry_log(own) == 1
    second = writer_of(own)
    answer(second, "again", at=3.0)
    second.close()
    assert carry_log(own) == 0
    (row,) = rows(own, tables.predictions)
    assert (row["asked_at"], row["outputs"]) == (1.0, outputs_of("again").tobytes())


def test_what_is_written_meanwhile_comes_the_next_time(own, monkeypatch):
    pieces(monkeypatch)
    writer, added = writer_of(own), 0
    for number in range(30):
        answer(writer, f"r{number}")
        if number % 7 == 0:
            added += carry_log(own)
    added += carry_log(own)
    assert added == 30
    assert ids(own) == sorted(f"r{number}" for number in range(30))
    places = {row["segment"]: row for row in rows(own, tables.carried_segments)}
    assert {name: row["offset"] for name, row in places.items()} == {
        path.name: path.stat().st_size for path in segments(own.home.predictions / "tiny")
    }
    assert not any(row["finished"] for row in places.values()), "its router lives"
    writer.close()
    assert carry_log(own) == 0
    assert all(row["finished"] for row in rows(own, tables.carried_segments))


def test_a_request_that_its_router_died_over_is_told_of_once(own):
    writer = writer_of(own, segment_bytes=100)  # what follows is in later segments
    assign(writer, "dies/one", arm="challenger", at=9.5)
    assign(writer, "dies/three", rows=3)
    assign(writer, "fails")
    assign(writer, "fails/three", rows=3)
    answer(writer, "answers", rows=3)
    for name in ("fails", "fails/three"):
        writer.append([records.failed(name, 1.0, "u", "champion", MODEL, 3, "no")])
    assert carry_log(own) == 5
    assert len(rows(own, tables.router_events)) == 2, "a living router may still answer"
    writer.close()
    assert carry_log(own) == 2
    assert carry_log(own) == 0
    found = [row for row in rows(own, tables.router_events) if row["kind"] == "unanswered"]
    assert [row["request_id"] for row in found] == ["dies/one", "dies/three"]
    assert (found[0]["arm"], found[0]["asked_at"], found[0]["unit"]) == ("challenger", 9.5, "u-dies/one")
    assert found[0]["detail"] == carried_rows.UNANSWERED


def test_a_living_routers_old_segment_is_settled_too(plain):
    writer = writer_of(plain, segment_bytes=100)
    assign(writer, "stuck")
    answer(writer, "later")
    first, *rest = segments(plain.home.predictions / "tiny")
    os.utime(first, (time.time() - carry.SETTLED_S - 60,) * 2)
    assert carry_log(plain) == 2
    assert [row["request_id"] for row in rows(plain, tables.router_events)] == ["stuck"]
    finished = {row["segment"]: row["finished"] for row in rows(plain, tables.carried_segments)}
    assert finished == {first.name: True} | {path.name: False for path in rest}
    writer.close()


def test_an_id_that_no_table_can_hold_stops_nothing(own):
    writer = writer_of(own)
    wild = ["nul\0in it", "half \ud83d of a pair", "x" * 300, "x" * 301, "\n\t'\";--"]
    for name in wild:
        writer.append([answered(name, columns={"country": "\0\udc00"}, failure="\0", unit="u")])
    writer.append([records.failed(wild[0], 1.0, "u", "champion", MODEL, 3, "\0")])
    writer.close()
    assert carry_log(own) == 6
    found = ids(own)
    assert len(set(found)) == len(wild)
    assert all(len(name) <= records.LONGEST_ID for name in found)
    assert carried_rows.fitting("plain id") == "plain id"


def test_records_of_version_0_are_carried(own):
    """As routers wrote them before there were arms, into files that nobody locks."""
    folder = own.home.predictions / "tiny"
    folder.mkdir(parents=True)
    old = {
        "id": "old/1", "at": 5.5, "model": MODEL, "arm": "champion", "ms": 1.5, "out": [0.25, None], "sum": {"mean": 1},
    }  # fmt: skip
    (folder / "01767225600000000000-77-0a1b2c.log").write_bytes(encode(old) + b"0a1b2c3d {")
    assert carry_log(own) == 1
    (row,) = rows(own, tables.predictions)
    values = np.frombuffer(row["outputs"], row["dtype"])
    assert values[0] == 0.25
    assert np.isnan(values[1])
    assert row["unit"] == records.hashed_unit("tiny", "old/1")
    assert (row["arm"], row["answered_by"], row["revision"], row["shape"]) == ("champion", "champion", 0, [2])
    (place,) = rows(own, tables.carried_segments)
    assert place["finished"]
    with (folder / place["segment"]).open("ab") as file:  # one that went on all the same
        file.write(encode({**old, "id": "old/2"}))
    assert carry_log(own) == 1


def damage(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_segment_is_named_after_the_others_are_carried(plain):
    for name in "abc":
        writer = writer_of(plain, segment_bytes=10**6)
        for number in range(9):
            answer(writer, f"{name}{number}")
        writer.close()
    middle = segments(plain.home.predictions / "tiny")[1]
    damage(middle)
    for _ in range(2):
        with pytest.raises(LogError, match=rf"found the line at byte \d+ of .*{middle.name} damaged") as caught:
            carry_log(plain)
        found = ids(plain)
        assert {f"{name}{number}" for name in "ac" for number in range(9)} <= set(found)
        assert "b0" in found and "b8" not in found, "what was before the damage is there too"
    assert "move the file away to go on without its records" in str(caught.value)
    middle.unlink()
    assert carry_log(plain) == 0


@pytest.mark.parametrize("record", [{"k": "z", "id": "x"}, {"k": "r", "id": "x"}, {"id": 7}])
def test_a_record_that_this_version_does_not_know_is_named(plain, record):
    writer = writer_of(plain)
    writer.append([record])
    writer.close()
    with pytest.raises(LogError, match=r"found a record in .*that this version can't read .*use the version that"):
        carry_log(plain)
    assert rows(plain, tables.carried_segments) == []


def carrier_that_dies(workspace, number):
    """Carry in a process that ends, as by `kill -9`, before its SQL statement or commit of this number."""
    child = os.fork()
    if child == 0:
        code, seen = 1, count()

        def step(*_):
            if next(seen) == number:
                os._exit(DIED)

        try:
            sa.event.listen(sa.Engine, "before_cursor_execute", step)
            sa.event.listen(sa.Engine, "commit", step)
            carry_log(workspace)
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, DIED)
    return code == DIED


def test_a_carrier_killed_at_any_statement_loses_and_doubles_nothing(own, monkeypatch):
    pieces(monkeypatch, 500)
    rows(own, tables.predictions)  # migrated
    seen, number = 0, 0
    while True:
        # Each time something is new, so that each statement is met: a segment that is finished, one that is written.
        for closed in (True, False):
            writer = writer_of(own, 10**6)
            answer(writer, f"r{number}/{closed}")
            assign(writer, f"d{number}/{closed}")
            if closed:
                writer.close()
        died = carrier_that_dies(own, 3 + 2 * number)
        writer.close()
        seen += died
        if not died:
            break
        number += 1
    assert seen > 4
    carry_log(own)
    both = [f"{place}/{closed}" for place in range(number + 1) for closed in (True, False)]
    assert ids(own) == sorted(f"r{name}" for name in both)
    assert ids(own, tables.router_events) == sorted(f"d{name}" for name in both)
    assert carry_log(own) == 0


def test_carriers_side_by_side_do_not_double(own, monkeypatch):
    pieces(monkeypatch)
    rows(own, tables.predictions)
    writer = writer_of(own)
    for number in range(20):
        answer(writer, f"before/{number}")
        assign(writer, f"never/{number}")
    writer.close()
    children = []
    for _ in range(3):
        if (child := os.fork()) == 0:
            code = 1
            try:
                for _ in range(3):
                    carry_log(own)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    second = writer_of(own)
    for number in range(20):
        answer(second, f"meanwhile/{number}")
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
    carry_log(own)
    second.close()
    assert ids(own) == sorted(f"{when}/{number}" for when in ("before", "meanwhile") for number in range(20))
    assert ids(own, tables.router_events) == sorted(f"never/{number}" for number in range(20))


@pytest.mark.postgres
def test_a_database_that_restarts_in_the_middle_loses_nothing(tmp_path, monkeypatch, postgres_url):
    """A killed server process has PostgreSQL end all others and start anew, as it does after a crash."""
    monkeypatch.setenv(DATABASE_URL, postgres_url)
    monkeypatch.setattr("dl_pipelines.store.database.PATIENCE_S", (0.2, 0.5, 1.0, 2.0, 4.0, 8.0))
    own = Workspace(Home(tmp_path / "home").prepare(), "tiny")
    pieces(monkeypatch)
    writer = writer_of(own)
    for number in range(20):
        answer(writer, f"r{number}")
        assign(writer, f"d{number}")
    writer.close()
    rows(own, tables.predictions)  # migrated
    seen, killed = count(), []

    def step(connection, *_):
        if next(seen) in (20, 45):
            killed.append(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar())
            os.kill(killed[-1], signal.SIGKILL)

    sa.event.listen(sa.Engine, "before_cursor_execute", step)
    try:
        carry_log(own)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", step)
    assert len(set(killed)) == 2
    assert ids(own) == sorted(f"r{number}" for number in range(20))
    assert ids(own, tables.router_events) == sorted(f"d{number}" for number in range(20))


def test_a_database_that_another_writes_to_is_waited_for(plain):
    rows(plain, tables.predictions)
    writer = writer_of(plain)
    answer(writer, "waits")
    other = sqlite3.connect(plain.home.root / "dlp.sqlite", check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    thread = threading.Timer(0.5, other.rollback)
    thread.start()
    assert carry_log(plain) == 1
    thread.join()
    other.close()
    writer.close()


def test_a_database_that_never_answers_is_told_of_and_nothing_is_lost(plain, monkeypatch):
    rows(plain, tables.predictions)
    writer = writer_of(plain)
    answer(writer, "waits")
    writer.close()
    monkeypatch.setattr("dl_pipelines.store.database.PATIENCE_S", (0.01, 0.01))
    tries = []

    def refuse(*_):
        tries.append(1)
        raise sa.exc.OperationalError("INSERT", {}, sqlite3.OperationalError("database is locked"))

    with monkeypatch.context() as patch:
        patch.setattr(carry, "insert_new", refuse)
        with pytest.raises(DatabaseError, match=r"unable to take what was logged \(database is locked\); .*again"):
            carry_log(plain)
    assert len(tries) == 3
    assert carry_log(plain) == 1


def test_a_second_home_can_not_make_what_the_first_acknowledged_go_missing(tmp_path, monkeypatch):
    monkeypatch.setenv(DATABASE_URL, f"sqlite:///{tmp_path / 'shared.sqlite'}")
    first, second = (Workspace(Home(tmp_path / name).prepare(), "tiny") for name in ("first", "second"))
    writer = writer_of(first)
    answer(writer, "old", at=time.time() - 90 * 86_400)
    writer.close()
    acknowledge(first.home, "tiny", ["old"])
    assert carry_log(first) == 1 and missing_ids(first) == []
    with pytest.raises(DatabaseError, match="found the project tiny in the database as that of another home"):
        expire_log(second, 30)
    assert missing_ids(first) == [] and ids(first) == ["old"]
