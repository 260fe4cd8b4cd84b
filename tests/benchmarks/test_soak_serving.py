"""The soak of serving in numbers for every day: the same rounds, with few kills and few requests."""

import time

import pytest

from benchmarks import soak_carrier, soak_line, soak_requests, soak_serving
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Workspace


def each_after_some_answers(work):
    """Every target once, each after eleven answers more."""
    for target in ("router", "database", "carrier", "model", "server"):
        before = len(work.clients.acknowledged)
        while len(work.clients.acknowledged) <= before + 10:
            time.sleep(0.01)
        yield target


@pytest.mark.slow
def test_kills_lose_no_answer_and_what_is_missing_would_be_seen(tmp_path):
    found = soak_serving.one(tmp_path, 1, each_after_some_answers)
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
    assert set(found["p99"]) == {"mutated", "slow", "huge", "elsewhere"}


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


def test_the_carrier_ends_with_the_soak_that_started_it(tmp_path, monkeypatch):
    """Were the soak killed, it would carry for ever."""
    parents, carried = iter([7, 7, 7, 1]), []
    monkeypatch.setattr(soak_carrier.os, "getppid", lambda: next(parents))
    monkeypatch.setattr(soak_carrier.sys, "argv", ["carrier", str(tmp_path), "soak"])
    monkeypatch.setattr(soak_carrier.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(soak_carrier, "carry_log", lambda workspace: carried.append(workspace.project))
    soak_carrier.main()
    assert carried == ["soak", "soak"]


@pytest.mark.parametrize(("crashes", "faults", "kept"), [(0, [], 0), (1, [], 1), (0, ["slow"], 1)])
def test_the_log_of_a_round_in_which_something_went_wrong_is_kept(tmp_path, monkeypatch, crashes, faults, kept):
    def one(folder, number, targets):
        (folder / "home" / "server").mkdir(parents=True)
        (folder / "home" / "server" / "server.log").write_text("Signal (11) received.")
        ended.append(number)
        return {"kills": {"server": 2}, "slowest": 1.0, "acknowledged": 5, "failed": 1, "lost": 0, "doubled": 0,
                "crashes": crashes, "faults": faults}  # fmt: skip

    ended = []
    monkeypatch.setattr(soak_serving, "one", one)
    monkeypatch.setattr(soak_serving.time, "monotonic", lambda: 100.0 * len(ended))
    found = soak_serving.soak(tmp_path, 1)
    assert (found["killed"], found["crashes"], len(found["faults"]), ended) == (2, crashes, len(faults), [0])
    logs = list(tmp_path.glob("serving-0-logs/*"))
    assert [path.read_text() for path in logs] == ["Signal (11) received."] * kept
