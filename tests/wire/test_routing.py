import itertools
import json
import threading

import pytest

from dl_pipelines.wire.routing import Arm, RoutingError, RoutingTable, Watched, only, read_table


def test_a_table_survives_json():
    table = RoutingTable("digits", "a", (Arm("champion", "a", 0.9), Arm("challenger", "b", 0.1)), 7)
    assert RoutingTable.parse(json.dumps(table.plain())) == table


def test_one_arm_gets_everything():
    table = only("digits", "digits__1", 3)
    assert {table.arm(f"r{number}").model for number in range(100)} == {"digits__1"}
    assert (table.champion, table.version) == ("digits__1", 3)


def test_shares_follow_the_weights_and_an_id_keeps_its_arm():
    table = RoutingTable("digits", "a", (Arm("champion", "a", 3), Arm("challenger", "b", 1)), 1)
    first = [table.arm(f"r{number}").name for number in range(200_000)]
    assert first[:10_000] == [table.arm(f"r{number}").name for number in range(10_000)]
    assert abs(first.count("challenger") / 200_000 - 0.25) < 3 * (0.25 * 0.75 / 200_000) ** 0.5


def test_a_growing_share_takes_units_from_the_champion_only():
    def challenged(weight: float) -> set[int]:
        table = RoutingTable("p", "a", (Arm("champion", "a", 1 - weight), Arm("challenger", "b", weight)), 1, salt="s")
        return {number for number in range(5_000) if table.arm(str(number)).name == "challenger"}

    grown = [challenged(weight) for weight in (0, 0.01, 0.1, 0.5)]
    assert [len(before - after) for before, after in itertools.pairwise(grown)] == [0, 0, 0]
    assert not grown[0] and len(grown[1]) < len(grown[2]) < len(grown[3])


def test_another_salt_assigns_anew():
    tables = [
        RoutingTable("p", "a", (Arm("champion", "a", 1), Arm("challenger", "b", 1)), 1, salt=salt) for salt in "st"
    ]
    same = sum(tables[0].arm(str(number)) == tables[1].arm(str(number)) for number in range(20_000))
    assert abs(same / 20_000 - 0.5) < 3 * (0.25 / 20_000) ** 0.5


def test_an_arm_without_weight_gets_nothing():
    table = RoutingTable("digits", "a", (Arm("champion", "a", 1), Arm("challenger", "b", 0)), 1)
    assert {table.arm(f"r{number}").name for number in range(1000)} == {"champion"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "found a routing table that can't be read"),
        ('{"project": "p", "champion": "a", "version": 1}', "KeyError: 'arms'"),
        ('{"project": "p", "champion": "a", "version": 1, "arms": []}', "at least one arm with a weight above zero"),
        (
            '{"project": "p", "champion": "a", "version": 1, "arms": [{"name": "x", "model": "a", "weight": -1}]}',
            r"found the weights \[-1.0\]",
        ),
    ],
)
def test_a_wrong_table_is_refused(text, message):
    with pytest.raises(RoutingError, match=message):
        RoutingTable.parse(text)


def test_a_missing_table_says_what_to_do(tmp_path):
    with pytest.raises(RoutingError, match=r"found no routing table at routing\.json .*promote a model"):
        read_table(tmp_path / "routing.json")


def test_a_replaced_table_is_read_again_and_only_then(tmp_path, monkeypatch):
    path = tmp_path / "routing.json"
    watched = Watched(path)
    with pytest.raises(RoutingError):
        watched.table()
    for version in (1, 2):
        fresh = tmp_path / "fresh"
        fresh.write_text(json.dumps(only("p", f"m{version}", version).plain()))
        fresh.replace(path)
        assert watched.table().champion == f"m{version}"
    monkeypatch.setattr("dl_pipelines.wire.routing.read_table", lambda _: pytest.fail("read again"))
    assert watched.table().version == 2


def test_many_threads_may_watch_a_table_that_changes(tmp_path):
    path = tmp_path / "routing.json"
    watched, wrong, stop = Watched(path), [], threading.Event()

    def put(version: int) -> None:
        fresh = tmp_path / "fresh"
        fresh.write_text(json.dumps(only("p", f"m{version}", version).plain()))
        fresh.replace(path)

    def look() -> None:
        last = 0
        while not stop.is_set():
            version = watched.table().version
            if version < last - 1:  # two may have begun to read, and the slower one is overtaken
                wrong.append((last, version))
            last = version

    put(1)
    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for version in range(2, 60):
        put(version)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert watched.table().version == 59
