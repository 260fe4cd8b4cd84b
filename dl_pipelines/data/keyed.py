"""Random numbers that are functions of a record's key alone: the same in any batch, order and process, and vectorised.

SplitMix64 (Steele, Lea and Flood, 2014) used by position instead of by state. Not for secrets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

GOLDEN = 0x9E3779B97F4A7C15
"""2**64 divided by the golden ratio, odd: SplitMix64's step."""


def keys_of(ids: np.ndarray, seed: int) -> np.ndarray:
    """One key a record, uint64 [N], of (seed, id); `ids` [N] are texts without NUL."""
    import numpy as np

    text = np.ascontiguousarray(np.asarray(ids).astype(str))
    letters = text.view(np.uint32).reshape(len(text), -1) if len(text) else np.zeros((0, 0), np.uint32)
    found = _mixed(np.full(len(text), seed, np.uint64))
    for column in letters.T:
        # The padding of shorter ids is skipped, so that a key doesn't depend on the longest id beside it.
        found = np.where(column != 0, _mixed(found ^ column), found)
    return found


def derived(keys: np.ndarray, draw: int) -> np.ndarray:
    """Other keys uint64 [N] of the same records, for the draw (any integer) that is named."""
    import numpy as np

    return _mixed(keys ^ np.uint64((draw * GOLDEN) % 2**64))


def uniform(keys: np.ndarray, stream: int, count: int) -> np.ndarray:
    """Evenly from [0, 1): float64 [N, count]; streams (0 or more) of a key are independent of each other."""
    import numpy as np

    return (_drawn(keys, stream, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def bits(keys: np.ndarray, stream: int, count: int) -> np.ndarray:
    """Sixteen random bits each: uint16 [N, count]. Many times faster than `uniform`, for an answer a pixel."""
    import numpy as np

    words = _drawn(keys, stream, (count + 3) // 4)
    return words.astype("<u8", copy=False).view("<u2").astype(np.uint16, copy=False)[:, :count]


def normal(keys: np.ndarray, stream: int, count: int) -> np.ndarray:
    """Standard normal, float64 [N, count], by Box and Muller (1958)."""
    import numpy as np

    half = (count + 1) // 2
    drawn = uniform(keys, stream, 2 * half)
    radius, angle = np.sqrt(-2 * np.log1p(-drawn[:, :half])), 2 * np.pi * drawn[:, half:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :count]


def _drawn(keys: np.ndarray, stream: int, count: int) -> np.ndarray:
    """Of each key `count` words of a stream: uint64 [N, count]."""
    import numpy as np

    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN)
    return _mixed(derived(keys, stream + 1)[:, None] + steps)


def _mixed(values: np.ndarray) -> np.ndarray:
    """SplitMix64's output function on uint64, a bijection."""
    import numpy as np

    values = values ^ (values >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values
