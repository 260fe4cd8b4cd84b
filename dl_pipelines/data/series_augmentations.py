"""Transforms of a batch of forecasting rows, drawn from one key a row; what is missing (NaN) stays missing.

A transform takes frames float32 [N, history + horizon, columns] (columns: day, item, target, covariates) and targets
[N, horizon + 4] (the horizon's values, then ORIGIN, ITEM, MASE, SCALE of tasks/series.py), and gives new arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.data.keyed import normal, uniform
from dl_pipelines.tasks.series import EXTRA, MASE, SCALE

if TYPE_CHECKING:
    import numpy as np

TARGET = 2
"""The target's column in a frame, behind day and item."""
Rows = tuple["np.ndarray", "np.ndarray"]


class OfSeries:
    """Base of those of forecasting rows; whoever makes one may tell which columns are `codes` of texts."""

    kind = "series"
    moves = False
    codes: Sequence[int] = (1,)


class Range(BaseParams):
    """Base of params with a range of factors, drawn evenly on the scale of their logarithms."""

    factor: tuple[float, float] = (0.5, 2.0)

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not 0.1 <= self.factor[0] <= self.factor[1] <= 10:
            raise ValueError("factor: [low, high] with 0.1 <= low <= high <= 10")
        return self


class Jitter(OfSeries):
    """Multiplies each day of the target's history by lognormal noise of mean 1: measurement noise of that size."""

    class Params(BaseParams):
        """Standard deviation of the noise's logarithm (0.05: about 5 %)."""

        std: float = Field(default=0.05, gt=0, le=1)

    def __init__(self, params: Params):
        self.params = params

    def apply_batch(self, inputs: np.ndarray, targets: np.ndarray, keys: np.ndarray) -> Rows:
        """See Transform.apply_batch; targets are the given ones."""
        import numpy as np

        made, history, std = inputs.copy(), _history(inputs, targets), self.params.std
        made[:, :history, TARGET] *= np.exp(std * normal(keys, 0, history) - std**2 / 2)
        return made, targets


class Scaling(OfSeries):
    """Multiplies a whole row (history, horizon, its scales) by one factor: the same item at another level of demand."""

    class Params(Range):
        """Smallest and largest factor, above 0."""

    def __init__(self, params: Params):
        self.params = params

    def apply_batch(self, inputs: np.ndarray, targets: np.ndarray, keys: np.ndarray) -> Rows:
        """See Transform.apply_batch."""
        made, wanted, history = inputs.copy(), targets.copy(), _history(inputs, targets)
        factor = _factors(keys, 0, self.params.factor)
        made[:, :history, TARGET] *= factor
        wanted[:, :-EXTRA] *= factor
        wanted[:, MASE] *= factor[:, 0]
        wanted[:, SCALE] *= factor[:, 0]
        return made, wanted


class WindowWarping(OfSeries):
    """Stretches or compresses a random segment of the target's history in time (Le Guennec et al., 2016).

    What follows the segment stays where it is, so that the history still ends at the origin; what precedes it moves
    back (and leaves the window) or forth (and leaves its first days missing). Covariates keep their days.
    """

    class Params(Range):
        """The segment's share of the history, smallest and largest factor of its length."""

        segment: float = Field(default=0.3, gt=0, le=0.9)

    def __init__(self, params: Params):
        self.params = params

    def apply_batch(self, inputs: np.ndarray, targets: np.ndarray, keys: np.ndarray) -> Rows:
        """See Transform.apply_batch; targets are the given ones."""
        import numpy as np

        made, history = inputs.copy(), _history(inputs, targets)
        length = max(2, round(self.params.segment * history))
        if length >= history:
            return made, targets
        # The segment ends at the last day or before, which so keeps its value.
        start = np.floor(uniform(keys, 0, 1) * (history - length))
        factor = _factors(keys, 1, self.params.factor)
        # Where each day lies in the longer or shorter series, counted from that one's first day, [N, history].
        at = np.arange(history) + length * (factor - 1)
        inside = start + (at - start) / factor
        source = np.where(at < start, at, np.where(at < start + length * factor, inside, np.arange(history)))
        made[:, :history, TARGET] = _interpolated(inputs[:, :history, TARGET], source)
        return made, targets


class Mixup(OfSeries):
    """Mixes a row with a partner (Zhang et al., 2018) that is brought to the row's own level first.

    The share of the row itself is the larger of lambda and 1 - lambda, lambda ~ Beta(alpha, alpha), as in Berthelot et
    al. (2019): day, item and categories stay the row's. History, covariates that are numbers, the horizon's values and
    MASE are mixed; where the partner has no value, the row keeps its own. The partner depends on the batch, not on its
    order: of the batch's rows, sorted by their keys, each is mixed with the next.
    """

    class Params(BaseParams):
        """Of the Beta distribution; small values change rows little."""

        alpha: float = Field(default=0.2, gt=0, le=10)

    def __init__(self, params: Params):
        self.params = params

    def apply_batch(self, inputs: np.ndarray, targets: np.ndarray, keys: np.ndarray) -> Rows:
        """See Transform.apply_batch."""
        import numpy as np

        wanted, order = targets.copy(), np.argsort(keys, kind="stable")
        partner = np.empty(len(keys), np.int64)
        partner[order] = np.roll(order, -1)
        share = self._shares(keys).astype(inputs.dtype)
        level = (targets[:, SCALE] / targets[partner, SCALE])[:, None]
        other = inputs[partner]
        other[:, :, TARGET] *= level
        made = _mixed(inputs, other, share[:, :, None])
        for column in {0, *self.codes}:
            made[:, :, column] = inputs[:, :, column]
        wanted[:, :-EXTRA] = _mixed(targets[:, :-EXTRA], targets[partner, :-EXTRA] * level, share)
        wanted[:, MASE] = _mixed(targets[:, MASE], targets[partner, MASE] * level[:, 0], share[:, 0])
        return made, wanted

    def _shares(self, keys: np.ndarray) -> np.ndarray:
        """The row's own share, 0.5 to 1, [N, 1]; by the inverse of Beta's distribution."""
        import numpy as np
        from scipy.special import betaincinv

        drawn = betaincinv(self.params.alpha, self.params.alpha, uniform(keys, 0, 1))
        return np.maximum(drawn, 1 - drawn)


def _history(inputs: np.ndarray, targets: np.ndarray) -> int:
    """Rows of a frame before the origin."""
    return inputs.shape[1] - (targets.shape[1] - EXTRA)


def _factors(keys: np.ndarray, stream: int, factor: tuple[float, float]) -> np.ndarray:
    """One factor a row, [N, 1]."""
    import numpy as np

    low, high = np.log(factor)
    return np.exp(low + (high - low) * uniform(keys, stream, 1))


def _interpolated(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Values [N, T] at fractional places [N, T], linearly; NaN before the first, and next to NaN."""
    import numpy as np

    last = values.shape[1] - 1
    below = np.clip(np.floor(at).astype(np.int64), 0, last)
    above, part = np.minimum(below + 1, last), np.clip(at, 0, last) - below
    first = np.take_along_axis(values, below, 1)
    found = np.where(part > 0, (1 - part) * first + part * np.take_along_axis(values, above, 1), first)
    return np.where(at < 0, np.nan, found)


def _mixed(own: np.ndarray, partner: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Share of the own and the rest of the partner's, where the partner has a value."""
    import numpy as np

    return np.where(np.isnan(partner), own, share * own + (1 - share) * partner)
