"""From which value on a statistic of drift alarms, at a known rate of false alarms over all features together.

Pure functions of arrays. The statistics are Evidently's (`wasserstein`, normed, and `jensenshannon`); their thresholds
come from resampling the reference, because a fixed one fires the more often the fewer records a window has. How rows
that depend on each other are drawn is in clusters.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dl_pipelines.monitoring.clusters import draw_clusters, members, some_of_each, widened

if TYPE_CHECKING:
    import numpy as np

WASSERSTEIN = "wasserstein"
JENSEN_SHANNON = "jensenshannon"
LEAST_SPREAD = 0.001
"""Evidently divides by at least this standard deviation of the reference."""

FULL = 0.9
"""A window's clusters are taken for whole ones when they have this share of the rows of a reference's."""

_CELLS = 2_000_000
"""Numbers of a resampling that are in memory at once."""


@dataclass(frozen=True)
class Size:
    """Of a live window: its rows, and how many clusters they are where rows depend on each other."""

    rows: int
    clusters: int | None = None


@dataclass(frozen=True)
class Sample:
    """Features of the same rows: `values` by name, each [N]; numbers for `wasserstein`, else any kind of categories.

    `clusters` [N]: rows with equal numbers depend on each other, and near numbers more than distant ones; None where
    every row is by itself.
    """

    values: Mapping[str, np.ndarray]
    statistics: Mapping[str, str]
    clusters: np.ndarray | None = None

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
    samples: Sequence[Sample], sizes: Sequence[Size], false_alarms: float, resamples: int, seed: int
) -> dict[str, float]:
    """For windows of these sizes, one a sample: the threshold of each feature of the references `samples`.

    If nothing has changed, any feature of a window reaches its own with a probability of at most about `false_alarms`,
    over all features together. Each resample draws a window and a reference of their sizes, both with replacement:
    parts of one reference without replacement would differ less than two samples of its population do. Each
    feature's statistic is standardised by its resamples; the largest of a resample are compared (Westfall and Young,
    1993), and the conservative order statistic of these is the critical value. Features of one sample are drawn
    together, samples apart; a sample with clusters is drawn by clusters, a window as many as it has, and its critical
    value is widened where they are few. Raises ValueError for features that are constant, and for too few resamples.
    """
    import numpy as np

    place = critical_place(resamples, false_alarms)
    drawn, critical_of = dict[str, np.ndarray](), dict[str, float]()
    for number, (sample, size) in enumerate(zip(samples, sizes, strict=True)):
        drawn |= _resampled(sample, size, resamples, np.random.default_rng([seed, number, size.rows]))
    centres = {name: (float(values.mean()), float(values.std(ddof=1))) for name, values in drawn.items()}
    if flat := [name for name, (_, spread) in centres.items() if spread == 0]:
        raise ValueError(f"found the constant features {', '.join(flat)}; expected only features that vary")
    scores = [(values - centres[name][0]) / centres[name][1] for name, values in drawn.items()]
    critical = float(np.sort(np.max(scores, axis=0))[place - 1])
    for sample, size in zip(samples, sizes, strict=True):
        critical_of |= dict.fromkeys(sample.values, _critical(critical, sample, size))
    return {name: centre + critical_of[name] * spread for name, (centre, spread) in centres.items()}


def _critical(critical: float, sample: Sample, size: Size) -> float:
    if sample.clusters is None:
        return critical
    return widened(critical, int(members(sample.clusters).max()) + 1, size.clusters or 1)


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


def _resampled(sample: Sample, size: Size, resamples: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Each feature's statistic between a drawn reference and a drawn window, [resamples]."""
    import numpy as np

    member = None if sample.clusters is None else members(sample.clusters)
    each = _rows_of_each(member, size)
    units = np.arange(sample.rows) if member is None or each else member
    measures = {name: _measure(sample.values[name], statistic, units) for name, statistic in sample.statistics.items()}
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in measures}
    for some in _parts(resamples, sample.rows):
        if member is None:
            even = np.full(sample.rows, 1 / sample.rows)
            reference, current = rng.multinomial(sample.rows, even, some), rng.multinomial(size.rows, even, some)
        else:
            reference, current = draw_clusters(int(member.max()) + 1, size.clusters or 1, some, rng)
        if member is not None and each:
            reference, current = reference[:, member], some_of_each(current, member, each, rng)
        for name, measure in measures.items():
            drawn[name].append(measure(reference, current))
    return {name: np.concatenate(parts) for name, parts in drawn.items()}


def _rows_of_each(member: np.ndarray | None, size: Size) -> int | None:
    """How many rows of a cluster a window has, where they are fewer than the reference's clusters have; else None."""
    if member is None:
        return None
    each = size.rows / (size.clusters or 1)
    return max(1, round(each)) if each < FULL * len(member) / (int(member.max()) + 1) else None


def _parts(resamples: int, rows: int) -> Iterator[int]:
    """Resamples that are in memory at once."""
    step = max(1, _CELLS // rows)
    for start in range(0, resamples, step):
        yield min(step, resamples - start)


def _measure(
    values: np.ndarray, statistic: str, units: np.ndarray
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:  # fmt: skip
    """A function of counts [B, U] of a reference and of a window: the statistic, [B].

    Counts say how often each unit was drawn: a row, or a cluster with all its rows. `units` [N] are those of the
    `values` [N]. Counts in place of drawn rows: what a resample costs does not grow with the window.
    """
    import numpy as np

    total = int(units.max()) + 1
    if statistic == JENSEN_SHANNON:
        names, codes = np.unique(values, return_inverse=True)
        kinds = np.zeros((total, len(names)))
        np.add.at(kinds, (units, codes), 1.0)
        return lambda reference, current: _distances(reference @ kinds, current @ kinds)
    assert statistic == WASSERSTEIN, statistic
    order = np.argsort(values, kind="stable")
    points = values[order].astype(np.float64)
    points = points - points.mean()  # the standard deviation below is a difference of squares
    gaps, owners = np.diff(points), units[order]
    rows, firsts, seconds = (np.bincount(owners, points**power, total) for power in (0, 1, 2))
    below = None
    if total < len(points):
        below = np.zeros((total, len(points)))
        below[owners, np.arange(len(points))] = 1
        below = below.cumsum(axis=1)

    def distances(reference: np.ndarray, current: np.ndarray) -> np.ndarray:
        shares = reference / (reference @ rows)[:, None]
        moved = shares - current / (current @ rows)[:, None]
        apart = moved[:, owners].cumsum(axis=1) if below is None else moved @ below
        spread = np.sqrt(np.maximum(shares @ seconds - (shares @ firsts) ** 2, 0))
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
