"""The router's modules without Triton: models are functions here, and tables change at the worst moment."""

import threading
import time

import numpy as np
import pytest

from dl_pipelines.wire.log_reading import read_folder
from dl_pipelines.wire.routing import Arm, RoutingError, RoutingTable, only
from dl_pipelines.wire.summaries import BATCHES
from tests.serving.router_code import answering, asked, breaker, counters, hanging, journal
from tests.serving.routers import until


class Reply:
    def __init__(self):
        self.given, self.detached = [], False

    def detach(self):
        self.detached = True

    def give(self, one):
        if not self.given:
            self.given.append((one.outputs, one.error, one.code))


MODEL_S = 0.003
"""What each model says that it took."""


class Bench:
    """The router around functions: `models` [N, 4] -> [N, 2] by name."""

    def __init__(self, folder, table, **models):
        self.table, self.models, self.folder = table, models, folder
        self.counters = counters.Counters("p")
        self.journal = journal.Journal(folder / "log", "process", 2**20)
        self.asked: list[tuple[str, int]] = []
        self.answering = answering.Answering(
            self._ask, self._table, self.journal, asked.Content(BATCHES["tensor"]),
            breaker.Breaker(folder / "p.breaker"), self.counters, (2,), np.dtype(np.float32),
        )  # fmt: skip

    def _table(self):
        if isinstance(self.table, Exception):
            raise self.table
        return self.table

    def _ask(self, model, group):
        self.asked.append((model, sum(one.rows for one in group)))
        if model not in self.models:
            raise asked.ModelError(f"{model} is not ready")
        return asked.Answer(self.models[model](np.concatenate([one.inputs for one in group])), MODEL_S)

    def take(self, *rows, name="r"):
        ones = [self.one(np.atleast_2d(np.float32(row)), f"{name}{place}") for place, row in enumerate(rows)]
        self.answering.take(ones)
        return ones

    def one(self, inputs, name):
        return asked.Asked(name, name, inputs, None, {}, time.time(), time.perf_counter(), Reply())

    def records(self, kind):
        return [record for record in read_folder(self.folder / "log") if record["k"] == kind]


def good(factor):
    return lambda x: np.stack([x.sum(axis=1), factor * x.sum(axis=1)], axis=1)


def bad(x):
    raise asked.ModelError("broken")


def picky(x):
    return bad(x) if (x[:, 0] == 9).any() else good(5)(x)


def outputs_of(one):
    (given,) = until(lambda: one.reply.given)
    assert given[1] == "", given
    return given[0].tolist()


def error_of(one):
    (given,) = until(lambda: one.reply.given)
    assert given[0] is None
    return given[1:]


def dueling(champion="a", challenger="b", share=1.0, **fields):
    arms = (Arm("champion", champion, 1 - share), Arm("challenger", challenger, share))
    return RoutingTable("p", champion, arms, 1, **{"revision": 5, **fields})


def shadowed(**fields):
    return RoutingTable("p", "a", (Arm("champion", "a", 1.0),), 1, shadow="b", **{"revision": 5, **fields})


@pytest.fixture
def bench(tmp_path):
    made = []

    def make(table, **models):
        made.append(Bench(tmp_path, table, **models))
        return made[-1]

    yield make
    for each in made:
        each.answering.close()


def test_a_batch_is_asked_at_once_and_each_gets_its_rows(bench):
    it = bench(only("p", "a", 1), a=good(2))
    ones = it.take([1, 0, 0, 0], [[2, 0, 0, 0], [3, 0, 0, 0]], [4, 0, 0, 0])
    assert it.asked == [("a", 4)]
    assert [outputs_of(one) for one in ones] == [[[1, 2]], [[2, 4], [3, 6]], [[4, 8]]]
    assert [record["id"] for record in it.records("r")] == ["r0", "r1#0", "r1#1", "r2"]
    assert it.records("a") == [], "with one arm there is nothing to assign"


def test_a_model_that_is_gone_because_the_table_changed_is_asked_for_again_by_the_new_one(bench):
    it = bench(only("p", "old", 1), new=good(3))

    def changes(x):
        it.table = only("p", "new", 2)
        raise asked.ModelError("old is not ready")

    it.models["old"] = changes
    (one,) = it.take([1, 0, 0, 0])
    assert outputs_of(one) == [[1, 3]]
    assert [name for name, _ in it.asked] == ["old", "new"]
    assert not it.records("e")


def test_a_challenger_that_is_gone_because_the_experiment_ended_did_not_fail(bench):
    it = bench(dueling(breaker=1), a=good(2))

    def changes(x):
        it.table = only("p", "a", 1)
        raise asked.ModelError("b is not ready")

    it.models["b"] = changes
    (one,) = it.take([1, 0, 0, 0])
    assert outputs_of(one) == [[1, 2]] and one.reply.detached
    (record,) = it.records("r")
    assert (record["arm"], record["by"], "fail" in record) == ("champion", "champion", False)
    assert not it.records("b")


def test_a_table_that_changes_again_and_again_is_followed_once(bench):
    it = bench(only("p", "m0", 1))
    count = iter(range(1, 100))

    def changes(model, group):
        it.asked.append((model, 1))
        it.table = only("p", f"m{next(count)}", 1)
        raise asked.ModelError(f"{model} is not ready")

    it.answering._ask = changes
    (one,) = it.take([1, 0, 0, 0])
    assert error_of(one) == ("m1 could not answer: m1 is not ready", asked.INTERNAL)
    assert len(it.asked) == 2


def test_one_bad_request_of_a_challengers_batch_fails_alone(bench):
    it = bench(dueling(), a=good(2), b=picky)
    ones = it.take([1, 0, 0, 0], [9, 0, 0, 0], [3, 0, 0, 0])
    assert [outputs_of(one) for one in ones] == [[[1, 5]], [[9, 18]], [[3, 15]]]
    failed = {record["id"]: record["fail"] for record in it.records("r") if "fail" in record}
    assert failed == {"r1": "broken"}


def test_of_a_batch_only_what_is_not_finite_falls_back(bench):
    def nan_at_nine(x):
        return np.where(x[:, :1] == 9, np.float32(np.nan), good(5)(x))

    it = bench(dueling(breaker=1), a=good(2), b=nan_at_nine)
    ones = it.take([1, 0, 0, 0], [9, 0, 0, 0], [3, 0, 0, 0])
    assert [outputs_of(one) for one in ones] == [[[1, 5]], [[9, 18]], [[3, 15]]]
    found = {record["id"]: (record["by"], record["model"], record.get("fail", "")) for record in it.records("r")}
    said = "found 2 of 2 values not finite; expected a number"
    assert found == {
        "r0": ("challenger", "b", ""), "r1": ("champion", "a", said), "r2": ("challenger", "b", ""),
    }  # fmt: skip
    assert it.asked == [("b", 3), ("a", 1)]
    assert len(it.records("b")) == 1


def test_one_bad_request_of_the_champions_batch_fails_alone(bench):
    it = bench(only("p", "a", 1), a=lambda x: bad(x) if (x[:, 0] == 9).any() else good(2)(x))
    ones = it.take([1, 0, 0, 0], [9, 0, 0, 0], [3, 0, 0, 0])
    assert [outputs_of(ones[place]) for place in (0, 2)] == [[[1, 2]], [[3, 6]]]
    assert error_of(ones[1]) == ("a could not answer: broken", asked.INTERNAL)
    assert [record["id"] for record in it.records("e")] == ["r1"]


def test_an_error_that_is_no_text_fails_its_request_alone(bench):
    def unreadable(x):
        if (x[:, 0] == 9).any():
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
        return good(2)(x)

    it = bench(only("p", "a", 1), a=unreadable)
    ones = it.take([1, 0, 0, 0], [9, 0, 0, 0])
    assert outputs_of(ones[0]) == [[1, 2]]
    assert "a could not answer: 'utf-8' codec can't decode" in error_of(ones[1])[0]


def test_both_failing_is_an_error_and_a_record(bench):
    it = bench(dueling(), a=bad, b=bad)
    (one,) = it.take([1, 0, 0, 0])
    assert error_of(one) == ("a could not answer: broken", asked.INTERNAL)
    (record,) = it.records("e")
    assert (record["id"], record["arm"], record["fail"]) == ("r0", "challenger", "a could not answer: broken")


def test_the_time_in_the_models_is_by_their_own_clocks(bench):
    """How long a thread of the router waits for its turn is no arm's latency: arms have threads of their own."""

    def kept_waiting(x):
        time.sleep(0.05)
        return good(2)(x)

    it = bench(dueling(share=0.5, shadow="c"), a=kept_waiting, b=kept_waiting, c=kept_waiting)
    ones = it.take(*[[1, 0, 0, 0]] * 8)
    for one in ones:
        outputs_of(one)
    shown = until(lambda: len(found := it.records("s")) == 8 and found)
    assert {record["arm"] for record in it.records("r")} == {"champion", "challenger"}
    assert {record["ms"] for record in (*it.records("r"), *shown)} == {1000 * MODEL_S}


def test_the_time_of_a_model_that_fails_is_that_of_its_call(bench):
    def late(x):
        time.sleep(0.05)
        return bad(x)

    it = bench(dueling(), a=good(2), b=late)
    (one,) = it.take([1, 0, 0, 0])
    outputs_of(one)
    assert 50 + 1000 * MODEL_S <= it.records("r")[0]["ms"] < 1000


def test_what_comes_after_the_deadline_is_not_given(bench):
    come = threading.Event()

    def hangs(x):
        come.wait(10)
        return good(5)(x)

    it = bench(dueling(timeout_ms=60), a=good(2), b=hangs)
    (one,) = it.take([1, 0, 0, 0])
    assert outputs_of(one) == [[1, 2]]
    come.set()
    time.sleep(0.1)
    assert len(one.reply.given) == 1
    (record,) = it.records("r")
    assert record["fail"] == "no answer within 60 ms" and record["ms"] >= 60


def test_without_a_table_or_a_log_each_gets_that_error(bench, tmp_path):
    it = bench(RoutingError("no table"), a=good(2))
    (one,) = it.take([1, 0, 0, 0])
    assert error_of(one) == ("no table", asked.UNAVAILABLE)
    it.table = only("p", "a", 1)
    (tmp_path / "log").write_text("in the way")
    (one,) = it.take([1, 0, 0, 0])
    said, code = error_of(one)
    assert code == asked.UNAVAILABLE and "can't be written" in said
    (tmp_path / "log").unlink()
    (one,) = it.take([1, 0, 0, 0])
    assert outputs_of(one) == [[1, 2]]
    assert it.counters.totals()["dlp_log_errors_total", (("project", "p"),)] == 1


def test_an_assignment_that_can_not_be_logged_asks_nobody(bench, tmp_path):
    it = bench(dueling(), a=good(2), b=good(5))
    (tmp_path / "log").write_text("in the way")
    (one,) = it.take([1, 0, 0, 0])
    assert "can't be written" in error_of(one)[0]
    assert it.asked == []


def test_a_defect_leaves_nobody_waiting(bench):
    it = bench(dueling(), a=good(2), b=bad)
    it.answering._breaker.failed = lambda *_: 1 / 0
    (one,) = it.take([1, 0, 0, 0])
    assert error_of(one) == ("the router failed: ZeroDivisionError: division by zero", asked.INTERNAL)
    it.table = only("p", "a", 1)
    it.answering._content.answered = lambda *_: 1 / 0
    (one,) = it.take([1, 0, 0, 0])
    assert error_of(one) == ("the router failed: ZeroDivisionError: division by zero", asked.INTERNAL)


def test_without_threads_the_champion_answers_and_the_challenger_comes_again(bench, monkeypatch):
    it = bench(dueling(shadow="c"), a=good(2), b=good(5), c=good(7))
    with monkeypatch.context() as patch:
        patch.setattr(
            threading.Thread, "start", lambda _: (_ for _ in ()).throw(RuntimeError("can't start new thread"))
        )
        ones = it.take([1, 0, 0, 0], [2, 0, 0, 0])
        assert [outputs_of(one) for one in ones] == [[[1, 2]], [[2, 4]]]
    assert {record["fail"] for record in it.records("r")} == {"not asked: can't start new thread"}
    assert not it.records("b")
    (one,) = it.take([1, 0, 0, 0], name="later")
    assert outputs_of(one) == [[1, 5]]
    shown = until(lambda: it.records("s"))
    assert [record["id"] for record in shown] == ["later0"]
    assert it.counters.totals()["dlp_shadow_requests_total", (("project", "p"), ("outcome", "left_out"))] == 2


def test_what_can_not_be_handed_over_is_told_and_the_others_are_answered(bench):
    it = bench(dueling(share=0.5), a=good(2), b=good(5))
    names = [f"r{number}" for number in range(20)]
    there = {name for name in names if it.table.arm(name).name == "challenger"}
    ones = [it.one(np.float32([[1, 0, 0, 0]]), name) for name in names]
    last = next(one for one in reversed(ones) if one.id in there)
    last.reply.detach = lambda: 1 / 0
    it.answering.take(ones)
    for one in ones:
        if one.id in there:
            assert error_of(one) == ("the router failed: ZeroDivisionError: division by zero", asked.INTERNAL)
        else:
            assert outputs_of(one) == [[1, 2]]
    assert 0 < len(there) < 20


def test_one_bad_request_of_a_shadows_batch_fails_alone_and_the_breaker_stays_closed(bench):
    it = bench(shadowed(breaker=3), a=good(2), b=picky)
    ones = it.take(*[[9 if number == 4 else 1, 0, 0, 0] for number in range(12)])
    assert [outputs_of(one)[0][1] for one in ones] == [2.0] * 4 + [18.0] + [2.0] * 7
    shown = until(lambda: len(found := it.records("s")) == 12 and found)
    assert {record["id"]: record["fail"] for record in shown if "fail" in record} == {"r4": "broken"}
    assert all(record["out"] for record in shown if record["id"] != "r4")
    assert sorted(it.asked) == [("a", 12), *[("b", 1)] * 12, ("b", 12)]
    assert not it.records("b")
    until(lambda: it.answering._shadowing._count == it.answering._shadowing._bytes == 0)


def test_a_shadow_that_always_fails_is_ended_by_its_limit_of_failures(bench):
    it = bench(shadowed(breaker=3), a=good(2), b=bad)
    it.take(*[[1, 0, 0, 0]] * 12)
    (opened,) = until(lambda: it.records("b"))
    assert opened["fail"] == "3 failures in a row, the last: broken"
    until(lambda: it.answering._shadowing._count == 0)
    assert len(it.asked) <= 1 + 1 + 3 + 1, "the champion, the batch, three, and what the other thread had begun"


@pytest.mark.parametrize("arm", ["challenger", "shadow"])
def test_one_overdue_call_is_one_failure_however_many_wait_for_it(bench, arm):
    stalls = iter([0.25])

    def stalling(x):
        time.sleep(next(stalls, 0))
        return good(5)(x)

    fields = {"timeout_ms": 100, "breaker": 2}
    table = dueling(**fields) if arm == "challenger" else shadowed(**fields)
    it, kind = bench(table, a=good(2), b=stalling), "r" if arm == "challenger" else "s"
    ones = it.take(*[[1, 0, 0, 0]] * 10)
    assert [outputs_of(one) for one in ones] == [[[1, 2]]] * 10
    late = until(lambda: len(found := it.records(kind)) == 10 and found)
    assert {record["fail"] for record in late} == {"no answer within 100 ms"}
    (one,) = it.take([1, 0, 0, 0], name="later")
    assert outputs_of(one) == [[1, 5 if arm == "challenger" else 2]]
    until(lambda: len(it.records(kind)) == 11)
    assert not it.records("b")
    stalls = iter([0.25, 0.25])
    for name in ("once", "twice"):
        for one in it.take(*[[1, 0, 0, 0]] * 5, name=name):
            outputs_of(one)
    (opened,) = until(lambda: it.records("b"))
    assert opened["fail"] == "2 failures in a row, the last: no answer within 100 ms"


def test_a_batch_of_any_size_reaches_a_shadow_that_is_not_busy(bench, monkeypatch):
    it = bench(shadowed(), a=good(2), b=good(5))
    it.take(*[[1, 0, 0, 0]] * 65)
    until(lambda: len(it.records("s")) == 65)
    assert ("b", 65) in it.asked
    until(lambda: it.answering._shadowing._count == 0)
    monkeypatch.setattr("shadowing.MOST_BYTES", 20)
    it.take(*[[1, 0, 0, 0]] * 3, name="wide")
    until(lambda: len(it.records("s")) == 68)


def test_what_a_busy_shadow_has_no_room_for_is_left_out(bench):
    release = threading.Event()

    def waits(x):
        release.wait(10)
        return good(5)(x)

    it = bench(shadowed(timeout_ms=20000), a=good(2), b=waits)
    it.take(*[[1, 0, 0, 0]] * 63)
    it.take([1, 0, 0, 0], [2, 0, 0, 0], name="beyond")
    it.take([1, 0, 0, 0], name="fits")
    release.set()
    until(lambda: len(it.records("s")) == 64)
    assert {record["id"] for record in it.records("s")} >= {"r0", "r62", "fits0"}
    left_out = it.counters.totals()["dlp_shadow_requests_total", (("project", "p"), ("outcome", "left_out"))]
    assert left_out == 2


def test_a_batch_that_hung_is_not_asked_again(bench):
    def stuck(_):
        raise hanging.Hung("no answer for 9 s")

    made = bench(only("p", "a", 3), a=stuck)
    ones = made.take([1, 2, 3, 4], [2, 2, 2, 2], [9, 0, 0, 0])
    assert [error_of(one) for one in ones] == [("a could not answer: no answer for 9 s", asked.INTERNAL)] * 3
    assert made.asked == [("a", 3)] and len(made.records("e")) == 3
