"""Bounds that may be looked at after every request: of means, of quantiles, of a split. Counts in, numbers out.

A bound with `alpha` is crossed by the truth at any look, ever, with at most that chance. What is decided on them is in
rollout.py. Howard, Ramdas, McAuliffe and Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences",
Annals of Statistics 2021, is the theory of all of it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Moments:
    """Of values between -1 and 1, one a unit: how many, their sum, their sum of squares."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, values: np.ndarray) -> Moments:
        """Of values [N]. Raises ValueError for one that is not a number from -1 to 1."""
        worst = next((value for value in values.ravel().tolist() if not -1 <= value <= 1), None)
        if worst is not None:
            raise ValueError(f"found the score {worst}; expected numbers from -1 to 1; leave out rows without a label")
        exact = values.astype("float64")
        return cls(int(values.size), float(exact.sum()), float((exact * exact).sum()))

    def plus(self, other: Moments) -> Moments:
        """Of both together."""
        return Moments(self.count + other.count, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> float:
        """The mean; 0 of nothing."""
        return self.total / self.count if self.count else 0.0


@dataclass(frozen=True)
class Side:
    """One side of an interval: the chance that the truth is ever beyond it, and the sample where it is tightest."""

    alpha: float
    tuned: float


def standard_errors(count: float, side: Side) -> float:
    """How many standard errors a one-sided bound on a mean of `count` values is away, valid at every count at once.

    Normal mixture, one-sided: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and
    asymptotic confidence sequences", Annals of Statistics 2024, proposition B.1 with rho^2 = 1 / tuned. It inverts the
    mixture SPRT of Johari, Koomen, Pekelis and Walsh, "Always valid inference", Operations Research 2022.
    """
    ratio = (count + side.tuned) / side.tuned
    return math.sqrt(2 * (count + side.tuned) / count * math.log1p(math.sqrt(ratio) / (2 * side.alpha)))


def difference_of_means(first: Moments, second: Moments, low: Side, high: Side) -> tuple[float, float]:
    """Bounds of the mean of `first` minus that of `second`: two arms of values in [0, 1], each with a unit or more.

    The arms' own limits, joined as Newcombe, "Interval estimation for the difference between independent proportions",
    Statistics in Medicine 1998 (method 10). Simulated at 50 units and more, with 1 % of them in one arm and rates up to
    0.999: neither side was crossed more often than its alpha.
    """
    lower, upper = (standard_errors(first.count + second.count, side) for side in (low, high))
    between = first.mean - second.mean
    down = math.hypot(_reach(first, lower)[0], _reach(second, lower)[1])
    up = math.hypot(_reach(first, upper)[1], _reach(second, upper)[0])
    return max(-1.0, between - down), min(1.0, between + up)


def _reach(arm: Moments, errors: float) -> tuple[float, float]:
    """How far below and above an arm's mean its limits at so many standard errors are.

    The wider of two that fail on opposite sides where an outcome is rare: Wald's with one value more at 0 and one at 1
    (Agresti and Caffo, American Statistician 2000), and Wilson's, whose variance is that at the limit itself.
    """
    count, total, mean = arm.count + 2, arm.total + 1, arm.mean
    spread, widest = arm.squares + 1 - total * total / count, total - total * total / count
    wald = errors * math.sqrt(max(spread, 0.0)) / arm.count
    square = errors * errors * min(1.0, max(spread, 0.0) / widest)  # values in between spread less than 0 and 1 do
    scale = 1 + square / arm.count
    middle = (mean + square / arm.count / 2) / scale
    half = math.sqrt(max(square * mean * (1 - mean) / arm.count + (square / arm.count / 2) ** 2, 0.0)) / scale
    return max(wald, mean - middle + half), max(wald, middle + half - mean)


def mean_of_pairs(pairs: Moments, low: Side, high: Side) -> tuple[float, float]:
    """Bounds of the mean of paired differences in [-1, 1], of a pair or more.

    One pair more with -1 and one with 1 (Agresti and Min, "Simple improved confidence intervals for comparing matched
    proportions", Statistics in Medicine 2005). Below, Bernstein's term is for losses too rare to have been seen. Above
    it is left out: `high` is there to show a loss, and holds for every true mean of 0 or less. Where the pairs are
    symmetric around 0, as those of two equal models are, the sums are sub-Gaussian in their own squares at every count.
    """
    spread = max(pairs.squares + 2 - pairs.total * pairs.total / (pairs.count + 2), 0.0)
    lower, upper = (standard_errors(pairs.count, side) for side in (low, high))
    half = lower * lower / 2
    down = half + lower * math.sqrt(spread + half / 2)
    return max(-1.0, pairs.mean - down / pairs.count), min(1.0, pairs.mean + upper * math.sqrt(spread) / pairs.count)


def log_evidence(hits: int, count: int, share: float) -> float:
    """Logarithm of the evidence that not `share` (0 to 1) of all are hits; above log(1 / alpha): rejected, at any look.

    The likelihood of a Beta mixture around `share`, about worth the count in which one hit (or miss) is expected, over
    that of `share`. For a split in two arms it is the test of Lindon and Malek, "Anytime-valid inference for
    multinomial count data", NeurIPS 2022. Exact at every count; it needs no order of arrival.
    """
    a, b, before, hit, miss = _prior(share)
    mixture = math.lgamma(a + hits) + math.lgamma(b + count - hits) - math.lgamma(a + b + count)
    return mixture - before - hits * hit - (count - hits) * miss


@lru_cache
def _prior(share: float) -> tuple[float, float, float, float, float]:
    """The mixture's two parameters and the logarithm of its weight; the logarithms of a hit's chance and a miss's."""
    weight = 1 / min(share, 1 - share)
    a, b = weight * share, weight * (1 - share)
    return a, b, math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b), math.log(share), math.log1p(-share)


@lru_cache(maxsize=1 << 18)
def quantile_rank(count: int, quantile: float, alpha: float, upper: bool) -> int:
    """The rank (1 to `count`) of the value that bounds the quantile from below or above; 0 or `count` + 1: no bound.

    It holds for every distribution, ties included: the values up to the quantile are hits with at least its chance,
    those below it with at most its chance. Howard and Ramdas, "Sequential estimation of quantiles with applications to
    A/B testing and best-arm identification", Bernoulli 2022, with the mixture of `log_evidence`.
    """
    needed, middle = -math.log(alpha), quantile * count
    errors = math.sqrt(2 * needed + math.log1p(count * min(quantile, 1 - quantile)))
    away = round(errors * math.sqrt(middle * (1 - quantile)))
    if upper:
        end = count + 1
        return _first(
            lambda rank: log_evidence(rank, count, quantile) >= needed, math.ceil(middle), end, round(middle) + away
        )
    return _first(
        lambda rank: log_evidence(rank, count, quantile) < needed, 0, math.floor(middle) + 1, round(middle) - away
    )


def _first(holds: Callable[[int], bool], start: int, end: int, guess: int) -> int:
    """The least number in [start, end) for which it `holds`, as it then does for all above; `end` where for none."""
    step, seen = 1, set[bool]()
    while start < end:
        at = (start + end) // 2 if len(seen) == 2 else min(max(guess, start), end - 1)
        if found := holds(at):
            end, guess = at, at - step
        else:
            start, guess = at + 1, at + step
        step, seen = 2 * step, seen | {found}
    return start


def quantile_bins(
    histogram: Mapping[int, int], quantile: float, low_alpha: float, high_alpha: float, independent: int | None = None
) -> tuple[int | None, int, int | None]:
    """The bins that hold the lower bound of the quantile, its estimate and its upper bound; None: no such bound yet.

    `histogram` counts one value or more by rising bins. Of these `independent` (default: all) count as evidence, as
    where each stands for several values alike.
    """
    bins = sorted(histogram)
    totals = list(accumulate([histogram[place] for place in bins]))
    total = totals[-1]
    count = total if independent is None else max(1, min(independent, total))
    low, high = quantile_rank(count, quantile, low_alpha, False), quantile_rank(count, quantile, high_alpha, True)
    at = bins[bisect_left(totals, max(1, math.ceil(quantile * total)))]
    least = bins[bisect_left(totals, (low - 1) * total // count + 1)] if low else None
    return least, at, bins[bisect_left(totals, -(-high * total // count))] if high <= count else None
