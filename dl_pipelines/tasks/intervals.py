"""A value with the percentile interval of its bootstrap resamples (Efron and Tibshirani, 1993), as it is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

Estimate = dict[str, float]


def estimate(value: float, drawn: np.ndarray | None, confidence: float) -> Estimate:
    """`value`, `low`, `high` of a value and its resamples [draws]; NaN among them is left out."""
    import numpy as np

    tail = 100 * (1 - confidence) / 2
    found = drawn[np.isfinite(drawn)] if drawn is not None else np.zeros(0)
    low, high = np.percentile(found, [tail, 100 - tail]) if len(found) else (value, value)
    return {"value": round(float(value), 6), "low": round(float(low), 6), "high": round(float(high), 6)}
