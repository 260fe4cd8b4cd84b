"""The label key and the inbox: without the key nothing becomes a label, whatever is written there."""

from __future__ import annotations

import hashlib
import hmac as reference
import os
import stat
import threading

import pytest
import sqlalchemy as sa

from dl_pipelines.serving import label_inbox
from dl_pipelines.serving.label_inbox import Taken, new_key, read_key, require_key, sign_label, take_labels
from dl_pipelines.serving.labels import LabelError, Stored, read_labels
from dl_pipelines.store import tables
from dl_pipelines.store.database import Database, now
from dl_pipelines.store.home import Home


def put(workspace, *rows, project="tiny"):
    """Rows of request id, label, signature, as another system writes them."""
    database = Database.of(workspace.home, workspace.project)
    names = ("request_id", "label", "signature")
    with database.begin() as connection:
        given = [{"project": project, "at": now(), **dict(zip(names, row, strict=True))} for row in rows]
        connection.execute(tables.label_inbox.insert(), given)
    database.close()


def left(workspace):
    database = Database.of(workspace.home, workspace.project)
    try:
        return [row["request_id"] for row in database.rows(tables.label_inbox)]
    finally:
        database.close()


def test_a_signature_is_what_any_other_system_computes():
    key = "k" * 64
    text = b'tiny\nr/1\n{"a":[1,null],"b":"\\u00e9"}'
    expected = reference.new(key.encode(), text, hashlib.sha256).hexdigest()
    assert sign_label(key, "tiny", "r/1", {"b": "é", "a": [1, None]}) == expected


def test_signed_labels_are_taken_once_and_the_others_stay(own):
    key = new_key(own.home)
    good = [(name, label, sign_label(key, "tiny", name, label)) for name, label in [("a", 1), ("b", [0.1, None])]]
    wrong = [
        ("c", 1, "0" * 64), ("d", 1, ""), ("e", 1, sign_label("k" * 64, "tiny", "e", 1)), ("f", 1, "é" * 64),
        ("g", 1, sign_label(key, "tiny", "a", 1)), ("h", 2, sign_label(key, "tiny", "h", 1)),
        ("i", 1, sign_label(key, "other", "i", 1)), ("", 1, sign_label(key, "tiny", "", 1)),
    ]  # fmt: skip
    put(own, *good, *wrong)
    put(own, ("z", 1, sign_label(key, "tiny", "z", 1)), project="other")
    assert take_labels(own, key) == Taken(Stored(2, 0, ()), len(wrong))
    assert read_labels(own) == {"a": 1, "b": [0.1, None]}
    assert left(own) == [name for name, *_ in wrong] + ["z"]
    put(own, good[0], ("b", [9.0], sign_label(key, "tiny", "b", [9.0])))
    assert take_labels(own, key) == Taken(Stored(0, 1, ("b",)), len(wrong)), "the first one is kept"
    assert read_labels(own)["b"] == [0.1, None]


def test_rows_that_are_no_json_are_refused_and_hold_up_nobody(own):
    """Other systems write with SQL of their own: SQLite takes anything, PostgreSQL any depth and any number."""
    key = new_key(own.home)
    put(own, ("a", 0.1 + 0.2, sign_label(key, "tiny", "a", 0.1 + 0.2)))
    wrong = ["'" + "[" * 3000 + "]" * 3000 + "'", "'" + "9" * 5000 + "'"]
    database = Database.of(own.home, own.project)
    sqlite = database.engine.dialect.name == "sqlite"
    if sqlite:
        wrong += ["'cat'", "''", "'NaN'", "x'ff'", "CAST(x'ff' AS TEXT)"]
    into = f"INSERT INTO {'' if sqlite else 'dlp.'}label_inbox (project, request_id, label, signature, at) VALUES "
    with database.begin() as connection:
        for number, label in enumerate(wrong):
            connection.execute(sa.text(f"{into} ('tiny', 'w{number}', {label}, 'none', '2026')"))
        if sqlite:
            connection.execute(sa.text(f"{into} ('tiny', CAST(x'ff' AS TEXT), '1', x'ff', '2026')"))
            wrong.append("the id")
    database.close()
    put(own, ("b", 1, sign_label(key, "tiny", "b", 1)), ("c", "x", sign_label(key, "tiny", "c", "x")))
    assert take_labels(own, key) == Taken(Stored(3, 0, ()), len(wrong))
    assert read_labels(own) == {"a": 0.1 + 0.2, "b": 1, "c": "x"}


def test_labels_of_another_kind_than_the_tasks_are_refused(own, task):
    key = new_key(own.home)
    put(own, *((str(label), label, sign_label(key, "tiny", str(label), label)) for label in (1, 7, "bright", "grey")))
    assert take_labels(own, key, task) == Taken(Stored(2, 0, ()), 2)
    assert read_labels(own) == {"1": 1, "bright": 1}


def test_takers_side_by_side_take_each_once(own, monkeypatch):
    monkeypatch.setattr(label_inbox, "BATCH", 7)
    key = new_key(own.home)
    put(own, *((f"r{number}", number, sign_label(key, "tiny", f"r{number}", number)) for number in range(60)))
    found: list[Taken] = []
    threads = [threading.Thread(target=lambda: found.append(take_labels(own, key))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken.stored.new for taken in found) == 60
    assert not any(taken.refused or taken.stored.conflicts for taken in found)
    assert read_labels(own) == {f"r{number}": number for number in range(60)}
    assert left(own) == []


def test_the_key_is_its_owners_alone(tmp_path):
    home = Home(tmp_path)
    assert read_key(home) is None
    with pytest.raises(LabelError, match=r"found no label key in .*; make one with `dlp labels --new-key`"):
        require_key(home, "anything")
    key = new_key(home)
    assert stat.S_IMODE(home.label_key.stat().st_mode) == 0o600
    assert read_key(home) == key
    require_key(home, key + "\n")
    with pytest.raises(LabelError, match=r"found a label key in .* what was signed with it would no longer") as caught:
        new_key(home)
    told = [str(caught.value)]
    none, other = "found no label key; expected that of", "found a label key that is not the home's"
    for given, message in [("k" * 64, other), ("é", other), (None, none), ("", none)]:
        with pytest.raises(LabelError, match=message) as caught:
            require_key(home, given)
        told.append(str(caught.value))
    assert not any(key in text or "k" * 64 in text for text in told), "no key is in an error"
    home.label_key.chmod(0o640)
    with pytest.raises(LabelError, match=r"found that others can read .*\(mode 640\); expected 600"):
        read_key(home)
    home.label_key.chmod(0o600)
    for content in (b"", b"short", b"\xff" * 64):
        home.label_key.write_bytes(content)
        with pytest.raises(LabelError, match="found no whole label key"):
            read_key(home)


def test_two_makers_make_one_key(tmp_path):
    home, made, refused = Home(tmp_path), [], []

    def make():
        try:
            made.append(new_key(home))
        except LabelError:
            refused.append(os.getpid())

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), len(refused)) == (1, 3)
    assert read_key(home) == made[0]
