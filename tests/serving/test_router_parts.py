"""The router's modules one by one, without Triton."""

import json
import math
import threading
import time

import numpy as np
import pytest

from dl_pipelines.wire.log_format import LogError
from dl_pipelines.wire.routing import only
from dl_pipelines.wire.summaries import BATCHES
from tests.serving.router_code import asked, breaker, calls, checks, counters
from tests.serving.routers import until


def test_what_a_breaker_has_to_tell_waits_for_the_log(tmp_path):
    it, told, full = breaker.Breaker(tmp_path / "p.breaker"), [], True

    def tell(*what):
        if full:
            raise LogError("full")
        told.append(what)

    assert [it.failed(1, "challenger", "b", 2, "why") for _ in range(4)] == [False, True, False, False]
    assert it.is_open(1, "b") and not it.is_open(2, "b") and not it.is_open(1, "c")
    with pytest.raises(LogError):
        it.settle(tell)
    assert not (tmp_path / "p.breaker").exists()
    full = False
    it.settle(tell)
    it.settle(tell)
    assert told == [(1, "challenger", "b", "2 failures in a row, the last: why")]
    assert breaker.Breaker(tmp_path / "p.breaker").is_open(1, "b")


def test_a_marker_that_can_not_be_written_does_not_make_it_be_told_twice(tmp_path):
    (tmp_path / "gone").mkdir()
    it, told = breaker.Breaker(tmp_path / "gone" / "p.breaker"), []
    (tmp_path / "gone").rmdir()
    it.failed(1, "shadow", "b", 1, "why")
    for _ in range(3):
        with pytest.raises(OSError, match=r"p\.breaker"):
            it.settle(lambda *what: told.append(what))
    (tmp_path / "gone").mkdir()
    it.settle(lambda *what: told.append(what))
    assert len(told) == 1
    assert json.loads((tmp_path / "gone" / "p.breaker").read_text()) == {"open": [[1, "b"]]}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"open": 1}', '{"open": [[1]]}'])
def test_a_damaged_marker_opens_nothing(tmp_path, text):
    (tmp_path / "p.breaker").write_text(text)
    assert not breaker.Breaker(tmp_path / "p.breaker").is_open(1, "b")


def test_the_marker_keeps_to_the_present_revision(tmp_path):
    it = breaker.Breaker(tmp_path / "p.breaker")
    for revision, model in ((1, "b"), (1, "c"), (2, "d")):
        it.failed(revision, "challenger", model, 1, "why")
        it.settle(lambda *_: None)
    assert json.loads((tmp_path / "p.breaker").read_text()) == {"open": [[2, "d"]]}


def test_a_late_failure_of_an_older_revision_does_not_close_a_newer_breaker(tmp_path):
    it = breaker.Breaker(tmp_path / "p.breaker")
    for revision, model in ((7, "new"), (6, "old")):
        it.failed(revision, "challenger", model, 1, "why")
        it.settle(lambda *_: None)
    again = breaker.Breaker(tmp_path / "p.breaker")
    assert again.is_open(7, "new") and again.is_open(6, "old")


def test_calls_end_once_and_threads_that_hang_are_replaced():
    made, ended, release = calls.Calls("test", 2), [], threading.Event()

    def start(work, seconds, deadline=None):
        made.start(calls.Call(work, lambda *end: ended.append(end), seconds, deadline))

    for _ in range(10):
        start(lambda: release.wait(20), 0.05)
    until(lambda: len(ended) == 10)
    assert all(isinstance(error, calls.Overdue) and spent == 0.05 for _, error, spent in ended)
    assert str(ended[0][1]) == "no answer within 50 ms"
    start(lambda: "quick", 5)
    until(lambda: len(ended) == 11)
    assert ended[-1][0] == "quick"
    release.set()
    time.sleep(0.1)
    assert len(ended) == 11
    start(lambda: 1 / 0, 5)
    until(lambda: len(ended) == 12)
    assert isinstance(ended[-1][1], ZeroDivisionError)
    made.close()


@pytest.fixture
def refuse(monkeypatch):
    """Have the system refuse threads: none but the first so many."""
    start, left = threading.Thread.start, []

    def limited(thread):
        if left and not left[0]:
            raise RuntimeError("can't start new thread")
        if left:
            left[0] -= 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    return lambda *granted: left.__setitem__(slice(None), granted)


def test_threads_that_were_refused_are_started_with_the_next_call(refuse):
    made, ended = calls.Calls("test", 2), []

    def call(work, seconds=5):
        return calls.Call(work, lambda *end: ended.append(end), seconds)

    for granted in (0, 1, 2):
        refuse(granted)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            made.start(call(lambda: "refused"))
    refuse()
    made.start(call(lambda: time.sleep(20), 0.05))
    made.start(call(lambda: "made"))
    until(lambda: len(ended) == 2)
    assert {str(error) for _, error, _ in ended} == {"None", "no answer within 50 ms"}
    made.close()


def test_deadlines_are_kept_when_no_thread_can_replace_one_that_hangs(refuse):
    made, ended, release = calls.Calls("test", 1), [], threading.Event()
    made.start(calls.Call(lambda: "first", lambda *end: ended.append(end), 5))
    until(lambda: ended)
    refuse(0)
    for _ in range(2):
        late = time.monotonic() + 0.05
        made.start(calls.Call(lambda: release.wait(20), lambda *end: ended.append(end), 0.05, late))
    until(lambda: len(ended) == 3, 5)
    assert all(isinstance(error, calls.Overdue) for _, error, _ in ended[1:])
    refuse()
    release.set()
    made.start(calls.Call(lambda: "last", lambda *end: ended.append(end), 5))
    until(lambda: len(ended) == 4)
    assert ended[-1][0] == "last", "the thread that hung goes on"
    made.close()


def test_a_call_out_of_time_before_its_turn_is_not_made():
    made, ended, made_calls, release = calls.Calls("test", 1), [], [], threading.Event()
    made.start(calls.Call(lambda: release.wait(20), lambda *end: ended.append(end), 20))
    late = calls.Call(lambda: made_calls.append(1), lambda *end: ended.append(end), 0.05, time.monotonic() - 1)
    made.start(late)
    time.sleep(0.2)
    release.set()
    until(lambda: len(ended) == 2)
    assert made_calls == []
    made.close()


def test_counts_are_cumulative_by_bucket_and_apart_by_arm():
    it = counters.Counters("p")
    for milliseconds in (0.2, 0.5, 0.6, 3, 9000):
        it.request("champion", "answered", milliseconds)
    it.request("challenger", "failed")
    it.breakers({"b": True})
    it.breakers({"c": False})
    found = it.totals()

    def value(name, **labels):
        return found[name, (("project", "p"), *labels.items())]

    assert value("dlp_requests_total", arm="champion", outcome="answered") == 5
    buckets = [value("dlp_latency_ms_bucket", arm="champion", le=le) for le in ("0.5", "1", "2", "5", "5000", "+Inf")]
    assert buckets == [2, 3, 3, 4, 4, 5]
    assert value("dlp_breaker_open", model="b") == 0, "its revision is over"
    assert value("dlp_breaker_open", model="c") == 0


def test_only_what_grew_is_sent_and_all_of_it_at_the_end():
    sent, families = [], []

    class Metric:
        def __init__(self, name, labels):
            self.name, self.labels = name, labels

        def increment(self, value):
            sent.append((self.name, self.labels.get("outcome"), value))

        def set(self, value):
            sent.append((self.name, self.labels.get("model"), value))

    class Family:
        def __init__(self, name, text, gauge):
            families.append((name, gauge))
            self.name = name

        def metric(self, labels):
            return Metric(self.name, labels)

    it = counters.Counters("p")
    publisher = counters.Publisher(it, Family, lambda: None)
    it.request("champion", "answered")
    it.breakers({"b": True})
    publisher.publish()
    publisher.publish()
    it.request("champion", "answered")
    it.request("champion", "answered")
    publisher.close()
    requests = [value for name, outcome, value in sent if outcome == "answered"]
    assert sum(requests) == 3 and all(value > 0 for value in requests)
    assert [value for name, model, value in sent if model == "b"] == [1, 1, 0], "as it is, each time; at the end none"
    assert ("dlp_breaker_open", True) in families and ("dlp_requests_total", False) in families


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((0, 4), np.float32), "found 0 rows in the input x; expected at least 1"),
        (np.zeros((3, 4), np.float32), "found 48 bytes in the input x; expected at most 40 a request"),
        (np.array([[1, np.nan]], np.float16), "found nan at [0, 1] of the input x; expected finite values"),
        (np.array([[-np.inf]]), "found -inf at [0, 0] of the input x"),
    ],
)
def test_rows_are_checked(array, said):
    with pytest.raises(checks.Refused) as caught:
        checks.require_rows("x", array, True, 40)
    assert str(caught.value).startswith(said)


def test_whatever_is_wrong_with_a_request_is_said_without_its_content_or_our_code():
    found = [
        checks.Refused("found a; expected b"),
        UnicodeDecodeError("utf-8", b"ab\xff", 2, 3, "bad"),
        ValueError("/x"),
    ]
    assert [checks.refusal(error) for error in found] == [
        "found a; expected b",
        "found the byte 0xff in the request's id or parameters; expected UTF-8",
        "found a request that can't be read (ValueError); expected id, parameters and rows as documented",
    ]


def test_rows_have_the_shape_of_the_signature():
    for shape, dims in (((2, 4), (4,)), ((1, 7, 3), (-1, 3)), ((5,), ())):
        checks.require_shape("x", np.zeros(shape), dims)
    for shape, dims in (((4,), (4,)), ((), (4,)), ((2, 5), (4,)), ((2, 4, 1), (4,)), ((1, 7, 3), (-1, 4))):
        with pytest.raises(checks.Refused) as caught:
            checks.require_shape("x", np.zeros(shape), dims)
        assert str(caught.value).startswith(f"found the shape {list(shape)} of the input x")


def test_what_may_hold_gaps_or_nothing_but_numbers_passes():
    checks.require_rows("x", np.array([[np.nan]]), finite=False)
    for dtype in (np.uint8, np.int64, np.bool_, object):
        checks.require_rows("x", np.zeros((1, 2), dtype), finite=True)


def test_ids_and_units_are_text_of_some_length():
    checks.require_id("ü" * 80, 1)
    checks.require_id("i" * 78, 8)
    checks.require_id("i" * 77, 11)
    for name, rows in (("i" * 79, 8), ("i" * 78, 11), ("i" * 81, 1)):
        with pytest.raises(checks.Refused, match=f"of {len(name)} characters for {rows} rows; expected at most"):
            checks.require_id(name, rows)
    for name in ("a\nb", "\x00", "a\x7f", "\ud800"):
        with pytest.raises(checks.Refused, match="found a request id with a control character"):
            checks.require_id(name, 1)
    assert checks.unit_of({}, "own") == "own"
    assert checks.unit_of({"unit_id": "x" * 200}, "own") == "x" * 200
    for unit, said in (
        (5, "type int"),
        (True, "type bool"),
        ("", "of 0 char"),
        ("x" * 201, "of 201"),
        ("\udc00", "half"),
    ):
        with pytest.raises(checks.Refused, match=said):
            checks.unit_of({"unit_id": unit}, "own")


def test_answers_are_checked_by_shape_type_and_the_champions():
    rows = np.zeros((2, 3), np.float32)
    assert checks.fault(rows, 2, (3,), np.dtype(np.float32)) == ""
    assert checks.fault(rows, 2, (-1,), np.dtype(np.float32)) == ""
    assert checks.fault(rows, 3, (3,), np.dtype(np.float32)) == "found float32 [2, 3]; expected float32 [3, 3]"
    assert checks.fault(rows, 2, (3, 1), np.dtype(np.float32)) != ""
    assert checks.fault(rows.astype(np.float64), 2, (3,), np.dtype(np.float32)) != ""
    mine, other = np.array([1, np.nan, np.inf]), np.array([1, np.nan, 2])
    assert checks.worse(mine, other) == "found 1 of 3 values not finite; expected a number"
    assert checks.worse(mine, np.zeros(2)) == "found 2 of 3 values not finite; expected a number", "a free dimension"
    assert checks.worse(other, mine) == "" and checks.worse(np.array([1]), np.array([2])) == ""


def test_kept_values_are_plain():
    content = asked.Content(BATCHES["tensor"], columns=("a", "b", "c", "d"))
    given = {"a": math.inf, "b": "x" * 500, "c": "\ud800", "e": "secret", "d": True}
    one = asked.Asked("i", "u", np.ones((1, 4), np.float32), None, given, 0.0, 0.0, None)
    one.outputs = np.zeros((1, 2), np.float32)
    content.mark(one, "p")
    (record,) = content.answered([one], only("p", "m", 1))
    assert record["col"] == {"a": None, "b": "x" * 200, "c": "?", "d": True}


def test_a_summary_that_fails_while_the_model_works_fails_when_it_is_written():
    content = asked.Content(lambda _: 1 / 0)
    one = asked.Asked("i", "u", np.ones((1, 4), np.float32), None, {}, 0.0, 0.0, None)
    one.outputs = np.zeros((1, 2), np.float32)
    content.mark(one, "p")
    content.begin([one])
    assert one.summaries is None
    with pytest.raises(ZeroDivisionError):
        content.answered([one], only("p", "m", 1))


def test_each_row_is_summarised_once_and_gets_its_own():
    sizes = []

    def summarize(inputs):
        sizes.append(len(inputs))
        return BATCHES["tensor"](inputs)

    content = asked.Content(summarize, sample=0.5)
    inputs = np.arange(24, dtype=np.float32).reshape(6, 4)
    given = [inputs[:1], inputs[1:3], inputs[3:]]
    group = [asked.Asked(f"{place}", "u", rows, None, {}, 0.0, 0.0, None) for place, rows in enumerate(given)]
    for one in group:
        content.mark(one, "p")
        one.kept = one.id != "1"
        one.outputs = np.zeros((one.rows, 2), np.float32)
    content.begin(group[:1])
    content.begin(group)
    found = content.answered(group, only("p", "m", 1))
    assert sizes == [1, 3] and group[1].summaries is None
    means = inputs.mean(axis=1)
    wanted = [means[0], None, None, *means[3:]]
    assert [record["sum"].get("mean") for record in found] == wanted
