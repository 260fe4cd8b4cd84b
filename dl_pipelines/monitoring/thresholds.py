"""From which value on a statistic of drift alarms, at a known rate of false alarms over all features together.

Pure functions of arrays. The statistics are Evidently's (`wasserstein`, normed, and `jensenshannon`); their thresholds
come from resampling the reference, because a fixed one fires the more often the fewer records a window has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

WASSERSTEIN = "wasserstein"
JENSEN_SHANNON = "jensenshannon"
LEAST_SPREAD = 0.001
"""Evidently divides by at least this standard deviation of the reference."""

_CELLS = 2_000_000
"""Numbers of a resampling that are in memory at once."""


@dataclass(frozen=True)
class Sample:
    """Features of the same rows: `values` by name, each [N]; numbers for `wasserstein`, else any kind of categories."""

    values: Mapping[str, np.ndarray]
    statistics: Mapping[str, str]

    @property
    def rows(self) -> int:
        """N."""
        return len(next(iter(self.values.values()))) if self.values else 0


def wasserstein(reference: np.ndarray, current: np.ndarray) -> float:
    """First Wasserstein distance of two samples over the standard deviation of the reference, at least 0.001.

    The area between the two distribution functions (Ramdas, Garcia and Cuturi, 2017); as Evidently's `wasserstein`.
    """
    import numpy as np

    points = np.sort(np.concatenate([reference, current]))
    below = [np.sort(sample).searchsorted(points[:-1], "right") / len(sample) for sample in (reference, current)]
    return float((np.abs(below[0] - below[1]) * np.diff(points)).sum() / max(float(np.std(reference)), LEAST_SPREAD))


def jensen_shannon(reference: np.ndarray, current: np.ndarray) -> float:
    """Jensen-Shannon distance (natural logarithm, 0 to sqrt(log 2)) of the shares of categories; as Evidently's."""
    import numpy as np

    names, codes = np.unique(np.concatenate([reference, current]), return_inverse=True)
    counts = [
        np.bincount(part, minlength=len(names))[None] for part in (codes[: len(reference)], codes[len(reference) :])
    ]
    return float(_distances(*counts)[0])


def thresholds(
    samples: tuple[Sample, ...], count: int, false_alarms: float, resamples: int, seed: int
) -> dict[str, float]:
    """For windows of `count` records: the threshold of each feature of the references `samples`.

    If nothing has changed, any feature of a window reaches its own with a probability of at most about `false_alarms`,
    over all features together. Each resample draws a window and a reference of their sizes, both with replacement:
    parts of one reference without replacement would differ less than two samples of its population do. Each
    feature's statistic is standardised by its resamples; the largest of a resample are compared (Westfall and Young,
    1993), and the conservative order statistic of these is the critical value. Features of one sample are drawn
    together, samples apart. Raises ValueError for features that are constant, and for too few resamples.
    """
    import numpy as np

    place = critical_place(resamples, false_alarms)
    drawn: dict[str, np.ndarray] = {}
    for number, sample in enumerate(samples):
        drawn |= _resampled(sample, count, resamples, np.random.default_rng([seed, number, count]))
    centres = {name: (float(values.mean()), float(values.std(ddof=1))) for name, values in drawn.items()}
    if flat := [name for name, (_, spread) in centres.items() if spread == 0]:
        raise ValueError(f"found the constant features {', '.join(flat)}; expected only features that vary")
    scores = [(values - centres[name][0]) / centres[name][1] for name, values in drawn.items()]
    critical = float(np.sort(np.max(scores, axis=0))[place - 1])
    return {name: centre + critical * spread for name, (centre, spread) in centres.items()}


def critical_place(resamples: int, false_alarms: float) -> int:
    """Which of so many ordered resamples, counted from 1, is reached with at most this probability.

    Raises ValueError when none is.
    """
    if resamples < least_resamples(false_alarms):
        raise ValueError(
            f"found {resamples} resamples for a rate of {false_alarms:g} false alarms; expected at least "
            f"{least_resamples(false_alarms)}; raise monitoring.resamples"
        )
    return math.ceil(round((resamples + 1) * (1 - false_alarms), 9))


def least_resamples(false_alarms: float) -> int:
    """The fewest resamples of which the largest is reached with at most this probability by one more."""
    return math.ceil(round(1 / false_alarms, 9)) - 1


def _resampled(sample: Sample, count: int, resamples: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Each feature's statistic between a drawn reference and a drawn window, [resamples]."""
    import numpy as np

    measures = {name: _measure(sample.values[name], statistic) for name, statistic in sample.statistics.items()}
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in measures}
    for reference, current in _draws(sample.rows, count, resamples, rng):
        for name, measure in measures.items():
            drawn[name].append(measure(reference, current))
    return {name: np.concatenate(parts) for name, parts in drawn.items()}


def _draws(rows: int, count: int, resamples: int, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """How often each of `rows` was drawn for a reference of `rows` and a window of `count`: int [B, N] each.

    Counts in place of drawn rows: what a resample costs does not grow with the window.
    """
    import numpy as np

    even, size = np.full(rows, 1 / rows), max(1, _CELLS // rows)
    for start in range(0, resamples, size):
        some = min(size, resamples - start)
        yield rng.multinomial(rows, even, some), rng.multinomial(count, even, some)


def _measure(values: np.ndarray, statistic: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A function of counts [B, N] of a reference and of a window over `values` [N]: the statistic, [B]."""
    import numpy as np

    if statistic == JENSEN_SHANNON:
        names, codes = np.unique(values, return_inverse=True)
        kinds = np.eye(len(names))[codes]
        return lambda reference, current: _distances(reference @ kinds, current @ kinds)
    assert statistic == WASSERSTEIN, statistic
    order = np.argsort(values, kind="stable")
    points = values[order].astype(np.float64)
    points = points - points.mean()  # the standard deviation below is a difference of squares
    gaps = np.diff(points)

    def distances(reference: np.ndarray, current: np.ndarray) -> np.ndarray:
        first, second = reference[:, order], current[:, order]
        shares = first / first.sum(axis=1, keepdims=True)
        apart = np.cumsum(shares - second / second.sum(axis=1, keepdims=True), axis=1)
        spread = np.sqrt(np.maximum(shares @ points**2 - (shares @ points) ** 2, 0))
        return np.abs(apart[:, :-1]) @ gaps / np.maximum(spread, LEAST_SPREAD)

    return distances


def _distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Jensen-Shannon distance of counts [B, K] and [B, K], row by row: [B]."""
    import numpy as np

    p, q = (counts / counts.sum(axis=1, keepdims=True) for counts in (first, second))
    middle = (p + q) / 2

    def divergence(share: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(share > 0, share * np.log(share / middle), 0)
        return terms.sum(axis=1)

    return np.sqrt(np.maximum(divergence(p) + divergence(q), 0) / 2)
