"""The soak of serving in numbers for every day: the same rounds, with few kills and few requests."""

import numpy as np
import pytest

from benchmarks import rounds, soak_line, soak_requests, soak_serving
from benchmarks.contract import added, paired
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Workspace


@pytest.mark.slow
def test_kills_lose_no_answer_and_what_is_missing_would_be_seen(tmp_path):
    found = soak_serving.one(tmp_path, 1, lambda work: ["router", "database", "carrier", "model", "server"])
    assert found["kills"] == {"router": 1, "model": 1, "server": 1, "carrier": 1, "database": 1}
    assert (found["faults"], found["lost"], found["crashes"]) == ([], 0, 0)
    assert found["rows"] >= found["acknowledged"] > 50 and found["failed"] > 0 and found["slowest"] > 0
    workspace = Workspace(Home(tmp_path / "home"), soak_line.PROJECT)
    seen = soak_line.missing(workspace, {"1/0/0": b"other", "never": b""})
    assert (seen["lost"], seen["changed"], seen["rows"]) == (["never"], 1, found["rows"])


@pytest.mark.slow
def test_requests_that_no_good_client_sends_are_survived(tmp_path):
    found = soak_requests.one(tmp_path, 0, mutations=40, slows=20, size=2**24, seconds=0.7)
    assert (found["faults"], found["lost"]) == ([], 0)
    assert (found["answered"] + found["refused"], found["slow"], found["huge"]) == (40, 20, 1)
    assert min(found["answered"], found["refused"]) > 0 and found["acknowledged"] > 50
    assert set(found["p99"]) == {"mutated", "slow", "huge"}


def test_targets_come_at_random_times_and_never_one_too_often(monkeypatch):
    class Work:
        kills = dict.fromkeys(("a", "b"), 0)
        left = dict[str, int]()

        def allowed(self, target):
            return self.left[target] > 0

    now = [0.0]
    monkeypatch.setattr(soak_serving.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    monkeypatch.setattr(soak_serving.time, "monotonic", lambda: now[0])
    for end, left in ((100.0, {"a": 2, "b": 3}), (3.0, {"a": 0, "b": 99})):
        work, now[0], drawn = Work(), 0.0, list[str]()
        work.left = dict(left)
        for target in soak_serving.at_random(7, 100, end)(work):
            drawn.append(target)
            work.left[target] -= 1
        assert end <= now[0] <= end + 2
        assert drawn.count("a") == left["a"] and 0 < drawn.count("b") <= left["b"]
    assert len(drawn) < 99, "the time is over before"


def test_sides_are_asked_in_turn_with_the_same_rows():
    asked: list[tuple[str, int]] = []
    rows = np.arange(6)[:, None]

    def side(name):
        return lambda row: asked.append((name, int(row[0, 0]))) or row

    found = rounds.latencies({"a": side("a"), "b": side("b")}, rows, rounds=2, calls=3)
    turns = [name for place, (name, _) in enumerate(asked) if place == 0 or asked[place - 1][0] != name]
    assert turns == ["a", "b", "a"], "in every second round in reverse"
    assert {name: len(times) for name, times in found.items()} == {"a": 2, "b": 2}
    assert [row for name, row in asked if name == "a"] == [row for name, row in asked if name == "b"]


def test_a_client_that_fails_ends_a_measurement():
    def broken(row):
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        rounds.throughput([lambda row: row, broken], np.zeros((2, 1)), 0.05)


def test_outputs_that_differ_are_not_timed():
    rows = np.zeros((3, 2))
    assert rounds.require_same({"a": lambda row: row, "b": lambda row: row + 0.01}, rows, 0.1) == pytest.approx(0.01)
    with pytest.raises(RuntimeError, match=r"found outputs of a, b nan apart; expected at most 0.1"):
        rounds.require_same({"a": lambda row: row, "b": lambda row: row * np.nan}, rows, 0.1)


def test_what_is_added_is_held_against_a_limit():
    found = added("x", [3.0, 3.5, 3.2], [2.0, 2.0, 2.2], 0.5, "ms", clients=1)
    assert (found.ours, found.peer, found.ratio, found.pairs) == (1.0, None, 0.5, 3)
    assert found.interval == (0.333, 0.5)
    assert found.conditions == {"limit": 0.5, "with": 3.2, "without": 2.0, "clients": 1}


def test_rates_are_ours_by_the_peers():
    found = paired("x", [3.0, 3.0], [2.0, 1.0], "rows/s", higher=True, limit=2)
    assert (found.ours, found.peer, found.ratio, found.conditions) == (3.0, 1.5, 2.25, {"limit": 2})
