"""Against fake servers whose service times are known: what a queue of one server must show, worked out without it."""

import threading
import time

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from dl_pipelines.serving import open_loop
from dl_pipelines.serving.load_test import load_test
from dl_pipelines.serving.open_loop import OpenLoop, due_times

ROWS = np.zeros((4, 2), np.float32)


class Server:
    """One server, a fixed service time, a queue; the request that comes after `stall_at` requests takes 0.5 s."""

    def __init__(self, seconds, stall_at=None, refuse_every=0):
        self.seconds, self.stall_at, self.refuse_every = seconds, stall_at, refuse_every
        self.lock, self.asked, self.closed = threading.Lock(), 0, 0

    def __call__(self, inputs, request_id=""):
        assert inputs.shape == (1, 2)
        with self.lock:
            self.asked += 1
            time.sleep(0.5 if self.asked == self.stall_at else self.seconds)
            if self.refuse_every and self.asked % self.refuse_every == 0:
                raise InferenceServerException("made by a test")
        return inputs

    def close(self):
        self.closed += 1


def lindley(due, seconds, stall_at):
    """Milliseconds from the due times through one server with a queue: the recursion of queueing theory."""
    free, times = 0.0, []
    for place, at in enumerate(due):
        free = max(free, at) + (0.5 if place == stall_at else seconds)
        times.append(1000 * (free - at))
    return np.array(times)


def test_a_stall_is_seen_as_users_see_it_and_a_closed_loop_hides_it():
    server = Server(0.001, stall_at=8 + 60)  # each connection has sent one before
    with OpenLoop(lambda: server, ROWS, connections=8) as loop:
        step = loop.step(100, 1.5, "constant")
    expected = lindley(due_times(100, 1.5, "constant"), 0.001, stall_at=59)
    assert 440 < np.quantile(expected, 0.99) < 500
    assert step.p99_ms >= np.quantile(expected, 0.98)
    assert step.p95_ms >= 0.9 * np.quantile(expected, 0.95) > 300, "a third of them were due while it stood still"
    assert step.p50_ms < 100
    assert (step.requests, step.failed, step.unsent, step.p999_ms) == (150, 0, 0, None)
    assert step.waited > 30, "more were due than there are connections"
    assert not step.keeps(400)
    closed = load_test(lambda: Server(0.001, stall_at=60), ROWS, 1, 1.5)
    assert closed.requests > 150
    assert closed.p99_ms < 0.5 * step.p99_ms, "of the requests of a closed loop only one met the stall"


def test_arrivals_are_of_the_rate_and_the_same_for_a_seed():
    even = due_times(50, 2, "constant")
    np.testing.assert_allclose(np.diff(even), 0.02)
    assert (len(even), even[0]) == (100, 0)
    drawn = due_times(500, 4, seed=1)
    assert len(drawn) == 2000
    assert (drawn == due_times(500, 4, seed=1)).all()
    assert (drawn != due_times(500, 4, seed=2)).any()
    assert 0 <= drawn[0] <= drawn[-1] < 4
    gaps = np.diff(drawn)
    assert (gaps >= 0).all()
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1), "exponential gaps, as those of independent users"
    assert len(due_times(0.1, 1)) == 1


def test_what_failed_and_what_was_never_sent_is_no_latency(monkeypatch):
    monkeypatch.setattr(open_loop, "GRACE_SECONDS", 0.1)
    server = Server(0, refuse_every=50)
    with OpenLoop(lambda: server, ROWS, connections=2) as loop:
        step = loop.step(500, 0.3)
    assert step.failed in (3, 4)
    assert step.failure == "made by a test"
    assert step.p95_ms is not None
    assert step.p99_ms is None, "more than one in a hundred was not answered"
    assert not step.keeps(1e9)
    assert server.closed == 2

    slow = Server(0.05)
    with OpenLoop(lambda: slow, ROWS, connections=2) as loop:
        step = loop.step(200, 0.5)
    assert 0 < slow.asked - 2 <= 20, "no more than it could take until the end of the grace"
    assert step.unsent == 100 - (slow.asked - 2)
    assert (step.failed, step.failure, step.p95_ms) == (0, None, None)
    assert step.answered_rps < 25


def test_a_client_at_its_limit_says_so():
    assert open_loop._saturated(1.0, 0.5, 0.1) is None
    assert open_loop._saturated(7.0, 0.5, 0) == (
        "this machine had no core for the client, which sent 7.0 ms late (p99) over free connections"
    )
    assert open_loop._saturated(1.0, 0.97, 0) == "the client took 97% of a core"
    assert open_loop._saturated(1.0, 0.22, 0.8) == (
        "the client had 22% of a core, and its threads waited 0.8 s a second for more"
    )

    def spin(row, request_id=""):
        until = time.thread_time() + 0.005  # holds the interpreter: a client that has too much to do
        while time.thread_time() < until:
            pass
        return row

    spin.close = lambda: None
    with OpenLoop(lambda: spin, ROWS, connections=4) as loop:
        step = loop.step(400, 0.5, "constant")
    assert step.saturated
    assert step.client_cores + step.client_waits > open_loop.BUSY, "also on a machine that has no core for it"


def test_connections_are_closed_when_one_cannot_be_made():
    made = []

    def make():
        if len(made) == 2:
            raise InferenceServerException("no third one")
        made.append(Server(0))
        return made[-1]

    with pytest.raises(InferenceServerException, match="no third one"):
        OpenLoop(make, ROWS, connections=3)
    assert [server.closed for server in made] == [1, 1]
