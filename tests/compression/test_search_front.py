"""Exploring against the whole space, fronts against their definition, correlation against SciPy's."""

from __future__ import annotations

import random

import pytest
from scipy.stats import spearmanr

from dl_pipelines.compression.search_front import (
    Looked,
    evenly,
    explore,
    front,
    mutants,
    rank_correlation,
    shortlist,
)
from dl_pipelines.models.elastic import Point, Space

SPACE = Space(((1, 2, 3, 4),) * 3, ((1, 2, 3),) * 3, 1)
POINTS = {SPACE[place] for place in range(len(SPACE))}


def look(point: Point) -> Looked:
    """Cost by size; a score that favours what is wide late and deep early."""
    cost = sum(width * depth for width, depth in zip(point.widths, point.depths, strict=True))
    score = sum((block + 1) * width for block, width in enumerate(point.widths)) + 2 * point.depths[0]
    return Looked(point, float(score), float(cost))


def everything() -> list[Looked]:
    return [look(SPACE[place]) for place in range(len(SPACE))]


def draws(count: int) -> list[Looked]:
    draw = random.Random(1)
    return [Looked(Point((place + 1,), (1,)), draw.randrange(20), draw.randrange(20)) for place in range(count)]


def test_a_small_space_is_looked_at_whole():
    space = Space(((1, 2), (3, 4)), ((1,), (1, 2)), 2)
    found = explore(space, look, len(space), seed=0)
    assert [one.point for one in found] == [space[place] for place in range(8)]


def test_evolution_comes_close_to_the_front_of_all():
    assert len(SPACE) == 12 + 144 + 1728
    found = explore(SPACE, look, 300, seed=0)
    assert len({one.point for one in found}) == len(found) == 300
    assert {one.point for one in found} < POINTS and SPACE.largest in {one.point for one in found}
    assert found == explore(SPACE, look, 300, seed=0) != explore(SPACE, look, 300, seed=1)

    def volume(looked):
        """What lies below the front, for every cost."""
        return sum(max((one.score for one in looked if one.cost <= cost), default=0.0) for cost in range(37))

    drawn = [look(SPACE[place]) for place in random.Random(0).sample(range(len(SPACE)), 300)]
    best = volume(everything())
    assert volume(found) >= 0.99 * best > volume(drawn)


def test_mutants_differ_in_one_thing():
    found = mutants(SPACE, Point((1, 2), (1, 3)))
    assert len(found) == len(set(found)) == 3 + 2 + 3 + 2 + 12 + 1
    assert Point((1,), (1,)) in found and Point((1, 2, 4), (1, 3, 2)) in found and Point((3, 2), (1, 3)) in found
    assert set(found) < POINTS
    assert mutants(Space(((2,),), ((1,),), 1), Point((2,), (1,))) == [Point((2,), (1,))]


def test_nothing_beats_what_is_on_the_front():
    looked = draws(60)
    found = front(looked)
    wanted = {
        (one.cost, one.score)
        for one in looked
        if not any(
            (other.cost <= one.cost and other.score > one.score) or (other.cost < one.cost and other.score == one.score)
            for other in looked
        )
    }
    assert [(one.cost, one.score) for one in found] == sorted(wanted)


def made(score: float, cost: float) -> Looked:
    return Looked(Point((int(cost * 10),), (1,)), score, cost)


@pytest.mark.parametrize(
    ("count", "costs"), [(9, [2, 3, 4]), (2, [2, 4]), (1, [4])], ids=["all", "the ends", "the safe one"]
)
def test_what_is_worth_a_training_is_from_bold_to_safe(count: int, costs: list[float]):
    looked = [made(0.8, 1), made(0.93, 2), made(0.94, 3), made(0.96, 4), made(0.99, 5), made(0.985, 6), made(1.0, 9)]
    found = shortlist(looked, 1.0, 0.045, 0.03, 8, count)
    assert [one.cost for one in found] == costs


def test_what_is_not_cheaper_is_not_worth_it():
    looked = [made(0.9, 3), made(0.95, 4), made(1.0, 9)]
    assert shortlist(looked, 1.0, 0.2, 0.0, 3, 2) == []
    assert [one.cost for one in shortlist(looked, 1.0, 0.01, 0.06, 9, 3)] == [4], "none is safe: all that are bold"


def test_evenly():
    assert evenly(range(10), 4) == [0, 3, 6, 9]
    assert evenly([1, 2], 5) == [1, 2]
    assert evenly([1, 2, 3], 1) == [3]


def test_ranks_are_compared_as_scipy_does():
    draw = random.Random(2)
    first = [draw.randrange(8) for _ in range(30)]
    second = [value + draw.randrange(8) for value in first]
    assert rank_correlation(first, second) == pytest.approx(spearmanr(first, second).statistic)
    assert rank_correlation([1, 2], [1, 2]) is None
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None
