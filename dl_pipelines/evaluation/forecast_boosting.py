"""What a forecaster has to beat, all items together: scikit-learn's gradient boosting on lags, calendar, known columns.

Direct and global: one model for every item and step, the step being a feature. It is fitted on windows of train records
only, stopped by the loss on validation rows, and its quantiles are those of its ratios to what came on validation rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dl_pipelines.evaluation.forecast_baselines import Outputs, places
from dl_pipelines.evaluation.forecast_features import Cells, Features
from dl_pipelines.tasks.base import Rows, SplitName
from dl_pipelines.tasks.series import EXTRA, Panel

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from dl_pipelines.tasks.forecasting import Forecasting

TRAINED = 300_000
"""Item-days ahead that it is fitted on at most, drawn from all windows of train records."""
SETTINGS: Mapping[str, Any] = {
    "learning_rate": 0.08, "max_iter": 400, "max_leaf_nodes": 31, "min_samples_leaf": 50, "l2_regularization": 1.0,
    "max_features": 0.5, "early_stopping": True, "n_iter_no_change": 20, "random_state": 0,
}  # fmt: skip
"""On `demand` twice the cells at a rate of 0.06 or twice the leaves at 0.05 gain nothing for 2 and 7 times the work."""
PARALLEL = 50_000
"""With fewer cells one thread is faster: on a busy machine those of OpenMP wait for each other at every leaf."""
LEVELS = 4
"""Groups of rows by level whose quantiles are their own: small ones scatter more."""
FLOOR = 0.1
"""Share of a row's level that is added to what an error is relative to: a forecast of 0 has errors too."""


def boosting(task: Forecasting, table: pa.Table, splits: np.ndarray, rows: Mapping[SplitName, Rows]) -> Outputs:
    """Mean and quantiles [N, horizon, 1 + Q] of each split; see the module."""
    import numpy as np
    from sklearn.ensemble import HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits

    panel = task.panel(table, splits == "train")
    made = Features(panel, task)
    trained, held = _drawn(panel, task), _cells(panel, rows["validation"], task)
    parts = [(made.of(cells), made.ratio(cells), made.level(cells)) for cells in (trained, held)]
    (x, y, weight), (x_held, y_held, weight_held) = (
        tuple(part[np.isfinite(ratio)] for part in (features, ratio, level)) for features, ratio, level in parts
    )
    kept = np.flatnonzero(np.isfinite(x).any(axis=0))  # a series of less than a year has no value a year ago
    loss: Any = "squared_error" if task.params.negative else "poisson"
    categorical: Any = np.flatnonzero(np.isin(kept, made.categorical))
    model = HistGradientBoostingRegressor(loss=loss, categorical_features=categorical, **SETTINGS)
    means = {}
    with threadpool_limits(None if len(x) >= PARALLEL else 1, user_api="openmp"):
        held_back = {"X_val": x_held[:, kept], "y_val": y_held, "sample_weight_val": weight_held}
        model.fit(x[:, kept], y, sample_weight=weight, **held_back)
        for split, found in rows.items():
            cells = _cells(panel, found, task)
            answers = model.predict(made.of(cells)[:, kept]) * made.level(cells)
            means[split] = answers.reshape(len(found), task.params.horizon)
    given = (means["validation"], rows["validation"].targets, task)
    return {split: _with_quantiles(means[split], *given) for split in rows}


def _drawn(panel: Panel, task: Forecasting) -> Cells:
    """Item, place and step of up to TRAINED cells of windows whose whole horizon lies in train records."""
    import numpy as np

    horizon = task.params.horizon
    last = int(np.flatnonzero(panel.chosen)[-1])
    known = np.isfinite(panel.values[..., 0]).cumsum(axis=1) >= 2 * task.params.season
    item, before = np.nonzero(known[:, : max(last + 1 - horizon, 0)])
    count = len(item) * horizon
    rng = np.random.default_rng(0)
    chosen = np.arange(count) if count <= TRAINED else np.sort(rng.choice(count, TRAINED, replace=False))
    return item[chosen // horizon], before[chosen // horizon] + 1, chosen % horizon


def _cells(panel: Panel, rows: Rows, task: Forecasting) -> Cells:
    """Of each row every step of the horizon."""
    import numpy as np

    item, place = places(panel, rows)
    horizon = task.params.horizon
    return item.repeat(horizon), place.repeat(horizon), np.tile(np.arange(horizon), len(rows))


def _with_quantiles(mean: np.ndarray, held: np.ndarray, targets: np.ndarray, task: Forecasting) -> np.ndarray:
    """Outputs [N, horizon, 1 + Q] of means [N, horizon], by the errors of `held` forecasts of rows with these targets.

    An error is relative to what was forecast for the day and, a little, for the whole horizon; it counts for rows of
    about the same level (LEVELS groups) in the same quarter of the horizon.
    """
    import numpy as np

    given = task.params
    level, held_level = _row_level(mean), _row_level(held)
    edges = np.quantile(held_level, np.arange(1, LEVELS) / LEVELS)
    group, held_group = np.digitize(level[:, 0], edges), np.digitize(held_level[:, 0], edges)
    actual = targets[:, :-EXTRA]
    size, held_size = (np.abs(part) + FLOOR * own for part, own in ((mean, level), (held, held_level)))
    error = (actual - held) / held_size
    part = np.arange(given.horizon) * 4 // given.horizon
    outputs = np.repeat(mean[:, :, None], 1 + len(given.quantiles), axis=2)
    for one in range(LEVELS):
        for quarter in set(part.tolist()):
            seen = error[held_group == one][:, part == quarter]
            seen = seen[np.isfinite(seen)]
            if len(seen):
                where = np.ix_(group == one, part == quarter)
                outputs[(*where, slice(1, None))] += np.quantile(seen, given.quantiles) * size[where][..., None]
    return (outputs if given.negative else np.maximum(outputs, 0)).astype(np.float32)


def _row_level(mean: np.ndarray) -> np.ndarray:
    """Of each row [N, 1], above 0."""
    import numpy as np

    return np.maximum(np.abs(mean).mean(axis=1, keepdims=True), 1e-6)
