"""Labels: the first one is kept, conflicts are told; what a task's labels may be."""

from __future__ import annotations

import os
import threading

import pytest

from dl_pipelines.serving.carry import carry_log
from dl_pipelines.serving.labels import (
    LabelError,
    Stored,
    add_labels,
    canonical,
    fitting_label,
    read_labels,
    store_labels,
    unknown_requests,
)
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.tasks.registry import TASKS
from tests.logged import answer, writer_of


def test_the_first_label_is_kept_and_another_one_is_told(own):
    assert store_labels(own, [("a", 1), ("b", [1.5, None]), ("a", 1), ("b", [2.5, None])]) == Stored(2, 1, ("b",))
    assert store_labels(own, [("a", 2), ("b", [1.5, None]), ("c", {"y": 1, "x": 2})]) == Stored(1, 1, ("a",))
    assert store_labels(own, [("c", {"x": 2, "y": 1})]) == Stored(0, 1, ()), "the order of its keys means nothing"
    assert add_labels(own, {"a": 3, "d": 4}) == 1
    assert read_labels(own) == {"a": 1, "b": [1.5, None], "c": {"x": 2, "y": 1}, "d": 4}
    assert read_labels(Workspace(own.home, "other")) == {}
    assert store_labels(own, []) == Stored()


def test_many_labels_go_in_batches(own):
    many = [(f"r{number}", number) for number in range(1201)]
    assert store_labels(own, many[:700]) == Stored(700, 0, ())
    assert store_labels(own, [*many, ("r5", 6)]) == Stored(501, 700, ("r5",))
    assert read_labels(own) == dict(many)


def test_nothing_is_stored_of_what_holds_a_wrong_one(own):
    for pair, message in [
        (("", 1), "expected 1 to 80 characters"), (("x" * 81, 1), "expected 1 to 80 characters"),
        ((7, 1), 'found the request id 7; expected 1 to 80 characters of text, such as "7"$'),
        (("a\0", 1), "found the request id"),
        (("b", [float("nan")]), "found a label of b that JSON can't hold"),
        (("b", object()), "found a label of b that JSON can't hold"),
    ]:  # fmt: skip
        with pytest.raises(LabelError, match=message):
            store_labels(own, [("good", 1), pair])
    assert read_labels(own) == {}


def test_writers_side_by_side_keep_one_label_of_each(own):
    read_labels(own)  # migrated
    found: list[Stored] = []

    def write(label):
        found.append(store_labels(own, [(f"r{number}", label) for number in range(50)]))

    threads = [threading.Thread(target=write, args=[label]) for label in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(item.new for item in found) == 50
    assert sum(len(item.conflicts) for item in found) == 100
    assert len(read_labels(own)) == 50


def test_requests_that_nobody_made_are_told(own):
    writer = writer_of(own)
    answer(writer, "one")
    answer(writer, "three", rows=3)
    writer.close()
    assert unknown_requests(own, ["one", "three#1", "three", "no", "no"]) == ["one", "three#1", "three", "no"]
    carry_log(own)
    assert unknown_requests(own, ["one", "three#1", "three", "no", "no"]) == ["three", "no"]


def test_a_label_is_one_of_the_tasks(task):
    assert fitting_label(task, 1) == 1
    assert fitting_label(task, "bright") == task.signature().labels.index("bright")
    for label in (-1, 2, "grey", 0.5, None, [1], True, 10**30):
        with pytest.raises(LabelError, match=r"found the label .*; expected int.*, 0 to 1, or one of dark, bright"):
            fitting_label(task, label)


def test_a_forecasts_label_is_a_list():
    from dl_pipelines.brief.references import TaskRef

    task = TASKS.make(TaskRef(name="forecasting"))
    horizon = task.params.horizon
    assert fitting_label(task, [1] * (horizon - 1) + [None]) == [1.0] * (horizon - 1) + [None]
    for label in ([1.0] * (horizon + 1), ["x"] * horizon, 3):
        with pytest.raises(LabelError, match=r"found the label .*expected list<item: double>"):
            fitting_label(task, label)


def test_the_same_label_is_always_written_the_same():
    assert canonical({"b": [1, 2.5, None], "a": "é"}) == '{"a":"\\u00e9","b":[1,2.5,null]}'
    assert os.linesep not in canonical("a\nb")
