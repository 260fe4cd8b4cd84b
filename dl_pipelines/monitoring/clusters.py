"""Rows that depend on each other: how many clusters a window has, and drawing a reference and a window by clusters.

A block bootstrap (Kuensch, 1989; circular: Politis and Romano, 1992) of whole clusters: forecasts of one day share what
happened in it, and those of neighbouring days do too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

LEAST = 10
"""A reference with fewer clusters says nothing about how much they differ."""


def count_like(reference: np.ndarray, live: np.ndarray) -> int:
    """How many clusters the `live` rows [M] are, counted at the distances that clusters of the `reference` [N] have.

    Forecasts of three days in a row are not three clusters where those of the reference are a week apart.
    """
    import numpy as np

    known = np.unique(reference)
    spacing = float(np.median(np.diff(known))) if len(known) > 1 else 1.0
    return len(np.unique((live - live.min()) // spacing)) if len(live) else 0


def widened(critical: float, total: int, count: int) -> float:
    """A critical value, in standard deviations, for a spread that was estimated from few blocks of clusters.

    The value of Student's t with as many degrees of freedom, less one, that is reached as rarely as `critical` is by a
    normal variable (Fisher and Cornish's expansion, 1960): for 240 weeks next to nothing, for 35 a third.
    """
    free = max(total / block_length(total, count) - 1, 1)
    first = (critical**3 + critical) / 4
    second = (5 * critical**5 + 16 * critical**3 + 3 * critical) / 96
    return critical + first / free + second / free**2


def members(clusters: np.ndarray) -> np.ndarray:
    """The position of each row's cluster among all, in their order: int [N]."""
    import numpy as np

    return np.unique(clusters, return_inverse=True)[1]


def draw_clusters(total: int, count: int, times: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """How often each of `total` clusters is drawn for a reference of them all and for a window of `count`: [times, K].

    Both are blocks of neighbouring clusters.
    """
    block = block_length(total, count)
    first = _drawn_blocks(total, total, block, times, rng)
    return first, _drawn_blocks(total, count, min(block, count), times, rng)


def some_of_each(drawn: np.ndarray, member: np.ndarray, each: int, rng: np.random.Generator) -> np.ndarray:
    """`each` rows of every drawn cluster, with replacement: from clusters [times, K] to rows, int [times, N]."""
    import numpy as np

    found = np.zeros((len(drawn), len(member)), np.int64)
    for place in range(drawn.shape[1]):
        mine = np.flatnonzero(member == place)
        found[:, mine] = rng.multinomial(each * drawn[:, place], np.full(len(mine), 1 / len(mine)))
    return found


def block_length(total: int, count: int) -> int:
    """Neighbouring clusters that are drawn together."""
    return max(1, min(count, total // LEAST))


def _drawn_blocks(total: int, count: int, block: int, times: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of `total` clusters is in `count` of them, drawn as blocks (they may run over the end): [B, K]."""
    import numpy as np

    starts = rng.integers(0, total, (times, -(-count // block)))
    places = ((starts[:, :, None] + np.arange(block)) % total).reshape(times, -1)[:, :count]
    flat = (places + total * np.arange(times)[:, None]).ravel()
    return np.bincount(flat, minlength=times * total).reshape(times, total)
