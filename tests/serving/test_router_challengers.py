import os
import signal
import threading
import time

import pytest
from tritonclient.utils import InferenceServerException

from dl_pipelines.serving.process import birth
from dl_pipelines.serving.server import running
from dl_pipelines.wire import records
from tests.serving.routers import SETTINGS, Client, Routed, until

WHY = {
    "raise": "this model is broken",
    "nan": "found 1 of 2 values not finite; expected a number",
    "shape": "found float32 [1, 1]; expected float32 [1, 2]",
    "dtype": "found float16 [1, 2]; expected float32 [1, 2]",
    "hang": "no answer within 150 ms",
}


@pytest.fixture(scope="module")
def routed(line):
    """A router with a champion (factor 2), and another model (factor 5) that does what a test says."""
    with running(line.home) as server:
        routed = Routed(server, "duelled")
        routed.add("steady", 2)
        routed.add("daring", 5)
        routed.route("steady")
        routed.load()
        yield routed


@pytest.fixture
def client(routed):
    client = Client(routed)
    yield client
    routed.mode("daring", "ok")
    client.close()


revisions = iter(range(100, 1000))


def logged(routed, table, kind):
    return [record for record in routed.records(kind) if record["rev"] == table.revision]


def recovered(routed):
    """Ask the challenger itself until it answers again."""
    routed.mode("daring", "ok")
    client = Client(routed, "daring")
    until(lambda: client([1, 0, 0, 0])[0, 1] == 5)
    client.close()


@pytest.mark.parametrize("mode", list(WHY))
def test_the_champion_answers_what_a_challenger_does_not_and_a_breaker_opens(routed, client, mode):
    table = routed.route("steady", "daring", 1, revision=next(revisions), timeout_ms=5000)
    assert client([1, 0, 0, 0], f"{mode}/before")[0, 1] == 5
    routed.mode("daring", mode)
    if mode == "hang":
        table = routed.route("steady", "daring", 1, revision=next(revisions), timeout_ms=150, breaker=2)
    before, limit = routed.calls("daring"), table.breaker
    for number in range(limit + 5):
        assert client([1, 0, 0, 0], f"{mode}/{number}").tolist() == [[1, 2]]
    recovered(routed)
    assert routed.calls("daring") - before <= limit + 1  # the one is recovered's
    found = {record["id"]: record for record in logged(routed, table, "r") if record["id"] != f"{mode}/before"}
    assert len(found) == limit + 5
    for number in range(limit + 5):
        record = found[f"{mode}/{number}"]
        assert (record["arm"], record["by"], record["model"]) == ("challenger", "champion", "steady")
        assert WHY[mode] in record["fail"] if number < limit else record["fail"] == "not asked: its breaker is open"
    (opened,) = until(lambda: logged(routed, table, "b"))
    assert (opened["arm"], opened["model"]) == ("challenger", "daring")
    assert opened["fail"].startswith(f"{limit} failures in a row, the last: ") and WHY[mode] in opened["fail"]


def test_failures_in_a_row_are_counted_and_an_answer_ends_the_row(routed, client):
    table = routed.route("steady", "daring", 1, revision=next(revisions))
    for turn in range(3):
        routed.mode("daring", "raise")
        for number in range(9):
            assert client([1, 0, 0, 0], f"row/{turn}/{number}")[0, 1] == 2
        routed.mode("daring", "ok")
        assert client([1, 0, 0, 0], f"row/{turn}/good")[0, 1] == 5
    assert not logged(routed, table, "b")


def test_an_open_breaker_outlives_the_router_and_a_new_revision_closes_it(routed, client):
    table = routed.route("steady", "daring", 1, revision=next(revisions))
    routed.mode("daring", "raise")
    for _ in range(10):
        client([1, 0, 0, 0])
    gauge = 'dlp_breaker_open{model="daring",project="duelled"}'
    until(lambda: routed.metrics().get(gauge) == 1)
    routed.mode("daring", "ok")
    stub = routed.stub()
    os.kill(stub, signal.SIGKILL)
    until(lambda: birth(stub) is None)
    routed.server.control.unload("duelled")  # what the server's supervisor does: this Triton itself never starts a
    routed.load()  # process again
    before = routed.calls("daring")
    for number in range(3):
        assert until(lambda number=number: _answered(client, f"after/{number}")) == 2
    assert routed.calls("daring") == before
    assert len(logged(routed, table, "b")) == 1
    routed.route("steady", "daring", 1, revision=next(revisions))
    assert client([1, 0, 0, 0])[0, 1] == 5
    until(lambda: routed.metrics().get(gauge) == 0)


def _answered(client, name):
    try:
        return client([1, 0, 0, 0], name)[0, 1]
    except InferenceServerException:
        return None


def test_what_is_not_finite_in_the_champions_answer_either_is_no_failure(routed, client):
    table = routed.route("steady", "daring", 1, revision=next(revisions))
    y = client([-1, 5, 0, 0], "both/1")
    assert y[0, 0] == 4 and y[0, 1] != y[0, 1]
    (record,) = logged(routed, table, "r")
    assert (record["by"], record["model"], "fail" in record) == ("challenger", "daring", False)


def test_a_slow_challenger_slows_nobody_else(routed, client):
    table = routed.route("steady", "daring", 0.5, revision=next(revisions), timeout_ms=5000)
    units = [f"u{number}" for number in range(60)]
    slow = [unit for unit in units if table.arm(unit).name == "challenger"][:4]
    routed.mode("daring", "slow")
    answers = {}

    def wait(unit: str) -> None:
        mine = Client(routed)
        answers[unit] = mine([1, 0, 0, 0], f"slow/{unit}", unit_id=unit)[0, 1]
        mine.close()

    threads = [threading.Thread(target=wait, args=(unit,)) for unit in slow]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    fast = [unit for unit in units if table.arm(unit).name == "champion"]
    for unit in fast:
        assert client([1, 0, 0, 0], unit_id=unit)[0, 1] == 2
    early = dict(answers)
    for thread in threads:
        thread.join()
    assert answers == dict.fromkeys(slow, 5)
    assert not early, "the champion's answers came while the challenger was at work"


def test_a_challenger_that_is_gone_is_a_failure_not_an_error(routed, client):
    table = routed.route("steady", "nowhere", 1, revision=next(revisions))
    assert client([1, 0, 0, 0], "gone/1")[0, 1] == 2
    (record,) = logged(routed, table, "r")
    assert "nowhere" in record["fail"] and record["by"] == "champion"


def test_a_shadow_sees_all_is_logged_and_answers_nobody(routed, client):
    table = routed.route("steady", shadow="daring", revision=next(revisions))
    for number in range(20):
        assert client([[1, number, 0, 0]] * (1 + number % 2), f"shadow/{number}")[:, 1].max() == 2 * (1 + number)
    shown = until(lambda: len(found := logged(routed, table, records.SHADOW)) == 30 and found)
    answers = {record["id"]: records.unpacked(record).tolist() for record in shown}
    assert answers["shadow/4"] == [5, 25] and answers["shadow/5#0"] == answers["shadow/5#1"] == [6, 30]
    given = {record["id"]: record["by"] for record in logged(routed, table, "r")}
    assert set(given) == set(answers) and set(given.values()) == {"champion"}


def test_a_slow_shadow_does_not_slow_the_client_and_what_it_misses_is_counted(routed, client):
    routed.mode("daring", "slow")
    routed.route("steady", shadow="daring", revision=next(revisions), timeout_ms=5000)
    left_out = 'dlp_shadow_requests_total{outcome="left_out",project="duelled"}'
    before, started = routed.metrics().get(left_out, 0), time.monotonic()
    for _ in range(100):
        assert client([1, 0, 0, 0])[0, 1] == 2
    assert time.monotonic() - started < 100 * 0.4 / 4
    assert until(lambda: routed.metrics().get(left_out, 0) > before)
    routed.mode("daring", "ok")
    table = routed.route("steady", shadow="daring", revision=next(revisions))
    names = iter(range(10_000))

    def keeps_up() -> bool:
        client([1, 0, 0, 0], name := f"keeps up/{next(names)}")
        time.sleep(0.1)
        return name in {record["id"] for record in logged(routed, table, records.SHADOW)}

    until(keeps_up)


def test_a_failing_shadow_is_logged_and_its_breaker_opens(routed, client):
    routed.mode("daring", "nan")
    table = routed.route("steady", shadow="daring", revision=next(revisions), breaker=3)
    for number in range(8):
        assert client([1, 0, 0, 0], f"fails/{number}").tolist() == [[1, 2]]
        until(lambda number=number: len(logged(routed, table, records.SHADOW)) >= min(number + 1, 3))
    found = logged(routed, table, records.SHADOW)
    assert [record["fail"] for record in found] == [WHY["nan"]] * 3
    (opened,) = until(lambda: logged(routed, table, "b"))
    assert (opened["arm"], opened["model"]) == ("shadow", "daring")


@pytest.mark.parametrize("arm", ["challenger", "shadow"])
def test_one_bad_request_among_many_fails_alone_whatever_batch_it_is_in(routed, arm):
    gathered = Routed(routed.server, f"gathered_{arm}", SETTINGS.model_copy(update={"queue_delay_ms": 100}))
    share, shadow = (1, "") if arm == "challenger" else (0, "daring")
    table = gathered.route(
        "steady", "daring" if share else "", share, shadow=shadow, revision=next(revisions), breaker=4, timeout_ms=5000
    )
    gathered.load()
    routed.mode("daring", "picky")
    answers, begin = {}, threading.Barrier(6)

    def work(number: int) -> None:
        mine = Client(gathered)
        begin.wait()
        for turn in range(3):
            name = f"{number}/{turn}"
            answers[name] = mine([-7 if number == 4 else number + 10 * turn, 0, 0, 0], name).tolist()
        mine.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kind = "r" if arm == "challenger" else records.SHADOW
    found = until(lambda: len(found := logged(gathered, table, kind)) == 18 and found)
    failed = {record["id"]: record["fail"] for record in found if "fail" in record}
    assert set(failed) == {f"4/{turn}" for turn in range(3)}
    assert all("this model is broken" in why for why in failed.values())
    for number in (0, 1, 2, 3, 5):
        for turn in range(3):
            value = number + 10 * turn
            assert answers[f"{number}/{turn}"] == [[value, (5 if share else 2) * value]]
    seen = {record["id"]: records.unpacked(record).tolist() for record in found if record["id"] not in failed}
    assert all(outputs == [answers[name][0][0], 5 * answers[name][0][0]] for name, outputs in seen.items())
    assert not logged(gathered, table, "b")
    routed.mode("daring", "ok")
    routed.server.control.unload(gathered.name)


def test_the_router_is_unloaded_while_a_challenger_hangs(routed, client):
    routed.mode("daring", "hang")
    routed.route("steady", "daring", 1, revision=next(revisions), timeout_ms=100)
    assert client([1, 0, 0, 0])[0, 1] == 2
    routed.load()
    routed.mode("daring", "ok")
    routed.route("steady")
    assert client([1, 0, 0, 0])[0, 1] == 2


def test_a_router_that_is_loaded_anew_still_answers_what_a_challenger_is_at(routed, client):
    routed.mode("daring", "slow")
    table = routed.route("steady", "daring", 1, revision=next(revisions), timeout_ms=5000)
    answers = {}

    def wait(number: int) -> None:
        mine = Client(routed)
        answers[number] = mine([number, 0, 0, 0], f"reload/{number}").tolist()
        mine.close()

    threads = [threading.Thread(target=wait, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    until(lambda: len(logged(routed, table, "a")) == 2)
    config = routed.home.repository / "duelled" / "config.pbtxt"
    config.write_text(config.read_text() + "\n# changed\n")
    routed.load()
    for thread in threads:
        thread.join()
    assert answers == {1: [[1, 5]], 2: [[2, 10]]}
