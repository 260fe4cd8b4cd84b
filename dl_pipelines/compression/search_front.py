"""Which networks of a space are looked at, which of them nothing beats, which are worth a training of their own.

Pure functions of scores (higher is better) and costs (lower is): nothing is trained, exported or timed here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dl_pipelines.models.elastic import Point, Space

GENERATION, DRAWN = 16, 0.25
"""Networks of a generation, and the share of them that is drawn anew: from mutants alone there may be none left."""
T = TypeVar("T")


@dataclass(frozen=True)
class Looked:
    """A network with its score by shared weights, and its cost."""

    point: Point
    score: float
    cost: float


def explore(space: Space, look: Callable[[Point], Looked], most: int, seed: int) -> list[Looked]:
    """All networks of a space that has no more than `most`; else `most` of them, found by evolution.

    Evolution starts with the largest, the smallest and drawn ones; mutants are of those that nothing beats so far (as
    in NSGA-II's first front: Deb et al., 2002), each with one width or depth changed, or one block more or less.
    """
    if len(space) <= most:
        return [look(space[place]) for place in range(len(space))]
    draw, found = random.Random(seed), dict[Point, Looked]()
    waiting = [space.largest, space.smallest, *(_drawn(space, draw) for _ in range(most // 4))]
    while len(found) < most:
        for point in waiting:
            if point not in found and len(found) < most:
                found[point] = look(point)
        best = front(list(found.values()))
        waiting = [
            _drawn(space, draw) if draw.random() < DRAWN else draw.choice(mutants(space, draw.choice(best).point))
            for _ in range(GENERATION)
        ]
    return list(found.values())


def mutants(space: Space, point: Point) -> list[Point]:
    """Every network of the space that differs in one width or depth, or by its last block."""
    blocks, found = len(point.widths), list[Point]()
    for block in range(blocks):
        found += [Point(_with(point.widths, block, width), point.depths) for width in space.widths[block]]
        found += [Point(point.widths, _with(point.depths, block, depth)) for depth in space.depths[block]]
    if blocks < len(space.widths):
        found += [
            Point((*point.widths, width), (*point.depths, depth))
            for width in space.widths[blocks]
            for depth in space.depths[blocks]
        ]
    if blocks > space.shortest:
        found.append(Point(point.widths[:-1], point.depths[:-1]))
    return [other for other in found if other != point] or [point]


def front(looked: Sequence[Looked]) -> list[Looked]:
    """Those that no other beats, cheapest first: each scores more than all that are as cheap."""
    found: list[Looked] = []
    for one in sorted(looked, key=lambda one: (one.cost, -one.score, one.point.name)):
        if not found or one.score > found[-1].score:
            found.append(one)
    return found


def shortlist(
    looked: Sequence[Looked], best: float, budget: float, slack: float, below: float, count: int
) -> list[Looked]:  # fmt: skip
    """At most `count` of the front that cost less than `below`, cheapest first, evenly spread.

    From the cheapest that scores at most `budget + slack` less than `best` to the cheapest that is within the budget:
    shared weights rank well, but say little of what a network reaches when it is trained alone.
    """
    cheaper = [one for one in front(looked) if one.cost < below and best - one.score <= budget + slack]
    safe = next((place for place, one in enumerate(cheaper) if best - one.score <= budget), len(cheaper) - 1)
    return evenly(cheaper[: safe + 1], count)


def evenly(items: Sequence[T], count: int) -> list[T]:
    """At most `count`, spread evenly over all, both ends among them; of one, the last."""
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[-1]]
    return [items[round(place * (len(items) - 1) / (count - 1))] for place in range(count)]


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's, between -1 and 1; None where it isn't defined: fewer than three, or all alike."""
    import numpy as np
    from scipy.stats import rankdata

    if len(first) < 3 or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def _drawn(space: Space, draw: random.Random) -> Point:
    return space[draw.randrange(len(space))]


def _with(values: tuple[int, ...], place: int, value: int) -> tuple[int, ...]:
    return (*values[:place], value, *values[place + 1 :])
