"""Successive halving against its definition: rungs, promotions, brackets, the last ones."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from dl_pipelines.training.asha import Begin, Configuration, Ladder, Promote, ladder, next_move

THREE = Ladder((1 / 9, 1 / 3, 1.0))


def at(number: int, *values: float, target: int | None = None, over: bool = False, first: int = 0) -> Configuration:
    reached = {first + rung: value for rung, value in enumerate(values)}
    return Configuration(number, first, target if target is not None else max(reached, default=0), reached, over)


def test_rungs_are_shares_of_each_configurations_own_epochs():
    given = ladder("asha", 10)
    assert given.shares == (1 / 9, 1 / 3, 1.0) and given.top == 2 and given.brackets == 1
    assert [given.epochs(rung, 18) for rung in range(3)] == [2, 6, 18]
    assert [given.epochs(rung, 2) for rung in range(3)] == [1, 1, 2]
    assert ladder("none", 10).shares == (1.0,)
    assert ladder("asha", 2).shares == (1.0,), "nothing can be given up after less than an epoch"
    assert len(ladder("asha", 10_000).shares) == 3
    assert ladder("hyperband", 9).brackets == 3


def test_the_best_third_of_a_rung_goes_on_the_highest_first():
    assert next_move([at(0, 0.5), at(1, 0.4)], THREE, 9) == Begin()
    assert next_move([at(0, 0.5), at(1, 0.4), at(2, 0.6)], THREE, 9) == Promote(1, 1)
    going = [at(0, 0.5), at(1, 0.4, target=1), at(2, 0.6)]
    assert next_move(going, THREE, 9) == Begin(), "the best third is on its way"
    six = [at(0, 0.5), at(1, 0.4, 0.3), at(2, 0.6), at(3, 0.1, 0.2), at(4, 0.2, 0.25), at(5, 0.9)]
    assert next_move(six, THREE, 9) == Promote(3, 2)


def test_at_the_end_one_of_each_rung_goes_on_and_nobody_is_waited_for_in_vain():
    assert next_move([at(0, 0.5), at(1, 0.4)], THREE, 2) == Promote(0, 2), "the brief's own, to compare with"
    own = at(0, 0.5, 0.5, 0.45, over=True)
    assert next_move([own, at(1, target=0)], THREE, 2) is None, "who is the best of the rung is not known yet"
    assert next_move([own, at(1, 0.4)], THREE, 2) == Promote(1, 1)
    assert next_move([own, at(1, 0.4, 0.3)], THREE, 2) == Promote(1, 2)
    assert next_move([own, at(1, 0.4, 0.3, 0.2, over=True)], THREE, 2) is None
    failed = [at(0, math.inf, over=True), at(1, math.inf, over=True), at(2, math.inf, over=True)]
    assert next_move(failed, THREE, 3) is None


@pytest.mark.parametrize("side", [1, 3])
@pytest.mark.parametrize("pruner", ["asha", "hyperband", "none"])
def test_a_whole_study(pruner, side):
    """Side by side, in any order of ends: all are begun, a few end, and the best is one of them."""
    given, rng, trials = ladder(pruner, 27), np.random.default_rng(3), 81
    worth = rng.random(trials)
    states: list[Configuration] = []
    while True:
        while sum(one.going for one in states) < side and (move := next_move(states, given, trials)):
            if isinstance(move, Begin):
                first = given.first(len(states))
                states.append(Configuration(len(states), first, first))
            else:
                assert move.rung == states[move.number].target + 1 or move == Promote(0, given.top)
                states[move.number].target = move.rung
        going = [one for one in states if one.going]
        if not going:
            break
        one = going[rng.integers(len(going))]
        one.values[one.target] = worth[one.number]
        one.over = one.target == given.top
    assert len(states) == trials
    ended = [one.number for one in states if one.over]
    assert int(worth.argmin()) in ended
    reached = [sum(rung in one.values for one in states) for rung in range(given.top + 1)]
    if pruner == "asha":
        assert reached[0] == 81 and 27 <= reached[1] <= 40 and 9 <= reached[2] <= 20
    if pruner == "none":
        assert reached == [81]
    if pruner == "hyperband":
        brackets = Counter(one.first for one in states)
        assert set(brackets) == {0, 1, 2} and brackets[0] > brackets[1] > brackets[2] and len(ended) < 60
