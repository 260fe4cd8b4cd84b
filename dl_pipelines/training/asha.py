"""Which configuration of a study is trained next, and how far: asynchronous successive halving, as a pure function.

Rungs are shares of each configuration's own epochs, because schedules go by all epochs, and epochs may be searched: at
a rung every configuration has gone through the same part of its own training. A configuration is promoted as soon as it
is in the best 1/eta of those that reached its rung (Li et al., 2020, algorithm 2); Hyperband (Li et al., 2018) starts
some at higher rungs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

ETA = 3
MOST_RUNGS = 3
"""The first is at a ninth: after less, the order of configurations says little of that at the end (docs/log.md)."""


@dataclass(frozen=True)
class Ladder:
    """`shares` of a configuration's epochs, rising to 1; 1/`eta` of a rung go on; `brackets` begin at rung 0, 1 ..."""

    shares: tuple[float, ...]
    eta: int = ETA
    brackets: int = 1

    @property
    def top(self) -> int:
        """The last rung."""
        return len(self.shares) - 1

    def epochs(self, rung: int, epochs: int) -> int:
        """How many of `epochs` have to be done at a rung, at least 1."""
        return max(1, round(self.shares[rung] * epochs))

    def first(self, number: int) -> int:
        """The rung at which a configuration is compared first: its bracket's.

        Brackets get as many as Hyperband gives them (each about the same epochs in all), in turns.
        """
        wanted = [math.ceil(self.brackets * self.eta ** (self.top - low) / (self.top - low + 1))
                  for low in range(self.brackets)]  # fmt: skip
        given, place = [0] * self.brackets, 0
        for _ in range(number + 1):
            place = max(range(self.brackets), key=lambda low: (wanted[low] / (given[low] + 1), -low))
            given[place] += 1
        return place


def ladder(pruner: str, epochs: int, eta: int = ETA) -> Ladder:
    """For `asha`, `hyperband` or `none`; `epochs` are the brief's own, of which the first rung is at least one."""
    rungs = 1 if pruner == "none" else min(MOST_RUNGS, 1 + int(math.log(epochs, eta) + 1e-9))
    shares = tuple(eta ** -float(rungs - 1 - rung) for rung in range(rungs))
    return Ladder(shares, eta, rungs if pruner == "hyperband" else 1)


@dataclass
class Configuration:
    """How far a configuration is. `values` by rung, lower is better (a failed one's is infinite).

    `target` is the rung to which it is or was trained; `over` that it will not go on.
    """

    number: int
    first: int
    target: int
    values: dict[int, float] = field(default_factory=dict)
    over: bool = False

    @property
    def going(self) -> bool:
        """Whether it is being trained."""
        return not self.over and self.target not in self.values


@dataclass(frozen=True)
class Promote:
    """Train a configuration on, up to a rung."""

    number: int
    rung: int


@dataclass(frozen=True)
class Begin:
    """Train a new configuration."""


Move = Promote | Begin | None


def next_move(all_of: Sequence[Configuration], given: Ladder, trials: int) -> Move:
    """What a free process does; None when there is nothing (now, while others are going, or any more).

    When no new configuration is to come, the first one, the brief's own, is trained to its end, to compare with; and at
    least one of each rung goes on, so that one of them is.
    """
    if found := _promotable(all_of, given, least=0):
        return found
    if len(all_of) < trials:
        return Begin()
    own = all_of[0]
    if own.target < given.top and not own.over and not own.going:
        return Promote(own.number, given.top)
    return None if any(one.going for one in all_of) else _promotable(all_of, given, least=1)


def _promotable(all_of: Sequence[Configuration], given: Ladder, least: int) -> Promote | None:
    """The best that may be promoted, from the highest rung down."""
    for rung in range(given.top - 1, -1, -1):
        for first in range(min(rung + 1, given.brackets)):
            here = [one for one in all_of if one.first == first and rung in one.values]
            here.sort(key=lambda one: (one.values[rung], one.number))
            for one in here[: max(least, len(here) // given.eta)]:
                if one.target == rung and not one.over and math.isfinite(one.values[rung]):
                    return Promote(one.number, rung + 1)
    return None
