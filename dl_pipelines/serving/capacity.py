"""The highest rate that keeps a limit, searched on fixed rates, so that what two settings carry can be compared.

Rates lie a quarter of a factor 1.5 apart, 10.7 %: what is measured in a second is not known finer. Pure: what a rate
does is asked of a function.
"""

from __future__ import annotations

import math
from collections.abc import Callable

FACTOR, PARTS = 1.5, 4
LOWEST = 0
"""The place of one request a second."""


def rate_at(place: int) -> float:
    """Requests a second at a place of the grid."""
    return FACTOR ** (place / PARTS)


def place_of(rate: float) -> int:
    """The highest place that is not above a rate (requests a second)."""
    return max(LOWEST, math.floor(PARTS * math.log(max(rate, 1.0)) / math.log(FACTOR) + 1e-9))


def highest(keeps: Callable[[int], bool], start: int) -> int | None:
    """The highest place that keeps the limit, None when not even one request a second does.

    By factors of 1.5 up from `start` until one breaks (or down until one keeps), then halved twice. `keeps` is asked
    once for each place.
    """
    low: int | None = None
    high: int | None = None
    at = max(start, LOWEST)
    while low is None or high is None:
        if keeps(at):
            low, at = at, at + PARTS
        elif at == LOWEST:
            return None
        else:
            high, at = at, max(at - PARTS, LOWEST)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low
