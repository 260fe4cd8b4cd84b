"""Sides in turn, and what the contract makes of their times."""

import numpy as np
import pytest

from benchmarks import rounds
from benchmarks.contract import added, paired


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


def test_nothing_is_added_only_where_something_else_ran():
    with pytest.raises(RuntimeError, match=r"found x of -1 ms; expected more than 0: is something else running\?"):
        added("x", [2.0, 2.0, 2.0], [3.0, 3.5, 3.0], 0.5, "ms")


def test_rates_are_ours_by_the_peers():
    found = paired("x", [3.0, 3.0], [2.0, 1.0], "rows/s", higher=True, limit=2)
    assert (found.ours, found.peer, found.ratio, found.conditions) == (3.0, 1.5, 2.25, {"limit": 2})
