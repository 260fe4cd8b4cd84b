"""What an oracle answers about simulated demand: the best that any model could.

It knows every parameter, the calendar, prices and promotions to come, and the state of the world on the day before the
origin; not the noise, the stock-outs and the recording errors to come.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING

from dl_pipelines.data.sources import demand_generator as made
from dl_pipelines.data.sources.base import SourceError

if TYPE_CHECKING:
    import numpy as np

DRAWS, CHUNK = 399, 64
"""Draws of each day's demand for its quantiles; rows at once."""
LATTICE = (0.7548776662466927, 0.5698402909980532)
"""Steps that spread points evenly in the square: powers of the root of x**3 = x + 1 (Roberts' R2 sequence)."""


def foretell(truth: made.Truth, ids: np.ndarray, horizon: int, levels: Sequence[float]) -> np.ndarray:
    """Mean and quantiles, float32 [rows, horizon, 1 + levels], of the rows `item|YYYY-MM-DD` (the first day foretold).

    The mean is exact: stock-outs and recording errors are in it by their chances. The quantiles are those of DRAWS
    evenly spread draws; recording errors, one day in 2,000, are not in them. Raises SourceError for a row of elsewhere.
    """
    import numpy as np

    item, day = _places(truth, ids, horizon)
    answers = np.empty((len(ids), horizon, 1 + len(levels)), np.float32)
    for start in range(0, len(ids), CHUNK):
        part = slice(start, start + CHUNK)
        log, spread, out = _known(truth, item[part], day[part], horizon)
        left = 1 - out * (1 - made.STOCK_OUT_LEFT)
        errors = 1 + made.OUTLIERS * (made.OUTLIER_FACTOR - 1)
        answers[part, :, 0] = np.exp(log + spread**2 / 2) * left * errors
        if len(levels):
            draws = _draws(log, spread, out)
            answers[part, :, 1:] = draws[:, :, np.round(np.multiply(levels, DRAWS) - 0.5).astype(int)]
    return answers


def _places(truth: made.Truth, ids: np.ndarray, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """Item and day of the origin of each row, as places in the truth's arrays."""
    import numpy as np

    known = {name: place for place, name in enumerate(truth.items)}
    item, day, total = np.empty(len(ids), int), np.empty(len(ids), int), len(truth.expected)
    for row, name in enumerate(ids.tolist()):
        group, _, text = str(name).rpartition("|")
        place = (date.fromisoformat(text) - truth.first).days if group in known else 0
        if not 1 <= place <= total - horizon:
            raise SourceError(
                f"found the row {name}; expected one of the {len(known)} simulated items, from the second day to "
                f"{horizon} days before the last: the oracle knows no other"
            )
        item[row], day[row] = known[group], place
    return item, day


def _known(
    truth: made.Truth, item: np.ndarray, day: np.ndarray, horizon: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Expected log demand, its standard deviation and the chance of a stock-out, [rows, horizon] each."""
    import numpy as np

    ahead = np.arange(1, horizon + 1)
    log = truth.expected[day[:, None] + ahead - 1, item[:, None]]
    variance = np.full(horizon, made.COMMON_SHOCK**2 + made.ITEM_NOISE**2)
    before = (truth.item_regime[day - 1, item], truth.common_regime[day - 1])
    for state, (spread, memory) in zip(before, (made.ITEM_REGIME, made.COMMON_REGIME), strict=True):
        log = log + state[:, None] * np.exp(-ahead / memory)
        variance = variance + spread**2 * (1 - np.exp(-2 * ahead / memory))
    keep = made.STOCK_OUT_STAYS - made.STOCK_OUT_STARTS
    usual = made.STOCK_OUT_STARTS / (1 - keep)
    out = usual + (truth.stock_out[day - 1, item][:, None] - usual) * keep**ahead
    return log, np.broadcast_to(np.sqrt(variance), log.shape), out


def _draws(log: np.ndarray, spread: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Demand as it may come, sorted [rows, horizon, DRAWS]: noise, sales and stock-outs are spread evenly together."""
    import numpy as np
    from scipy.special import ndtri

    place = np.arange(1, DRAWS + 1)
    even, sold, chance = (place - 0.5) / DRAWS, place * LATTICE[0] % 1, place * LATTICE[1] % 1
    rate = np.exp(log[..., None] + spread[..., None] * ndtri(even))
    rate *= np.where(chance < out[..., None], made.STOCK_OUT_LEFT, 1.0)
    return np.sort(_poisson(rate, np.broadcast_to(sold, rate.shape)), axis=-1)


def _poisson(rate: np.ndarray, level: np.ndarray) -> np.ndarray:
    """The quantile `level` of a Poisson of each rate: exact below 12, else by Cornish and Fisher (1938)."""
    import numpy as np
    from scipy.special import ndtri

    normal = ndtri(level)
    found = np.ceil(rate + np.sqrt(rate) * normal + (normal**2 - 1) / 6 - 0.5)
    few = rate < 12
    small, wanted = rate[few], level[few]
    chance = np.exp(-small)
    upto, count = chance.copy(), np.zeros(len(small))
    for number in range(1, 45):
        count += upto < wanted
        chance *= small / number
        upto += chance
    found[few] = count
    return np.maximum(found, 0)
