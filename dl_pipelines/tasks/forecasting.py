"""How much of each item is asked for on each of the next days: quantiles of a series, from its raw recent history.

The served model is stateless: `frame` float32 [history + horizon, columns] in, `forecast` float32 [horizon,
1 + quantiles] out (the mean, then the quantiles), in units of the target. The frame's last `horizon` rows are the
future: what is known of it is given, the rest is NaN. Missing values, outliers, encodings, scales are the model's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field as ParamField
from pydantic import field_validator, model_validator

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.brief.sections import Split, Validation
from dl_pipelines.tasks import forecast_details, forecast_fit, forecast_metrics, forecast_windows
from dl_pipelines.tasks.base import BETWEEN, NOT_NULL, Expectation, Field, Parity, Rows, Signature, Task, Tensor
from dl_pipelines.tasks.series import EXTRA, Panel, days_of, make_panel

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

Missing = Literal["drop", "seasonal", "interpolate", "model"]
Outliers = Literal["keep", "flag", "clip", "winsorise"]
MOST_HISTORY = 2000
"""Steps."""
CLOSE = 0.05
"""A compressed model's forecast agrees with the original's within this share of the original's level."""
AGREEMENT = 0.95


class Forecasting(Task):
    """A record is one item on one day; a row is one forecast: an item, an origin and the days behind it."""

    name = "forecasting"
    kind = "series"
    family = "lstm_attention"
    primary = "wape"
    metrics = forecast_metrics.METRICS
    baselines: ClassVar[Mapping[str, str]] = forecast_metrics.BASELINES
    not_applicable: ClassVar[Mapping[str, str]] = {
        "augmented_dataset": "windows of series overlap, so that their variants are drawn while training, never stored"
    }

    class Params(BaseParams):
        """Columns and days. Lengths count steps of `step_days` days."""

        target: str = ParamField(default="value", min_length=1, description="the column that is forecast")
        horizon: int = ParamField(default=28, ge=1, le=366)
        history: int = ParamField(
            default=56,
            ge=2,
            le=MOST_HISTORY,
            description="steps before the origin that a model sees; default eight seasons",
        )
        season: int = ParamField(default=7, ge=1, le=366, description="steps of the shortest season")
        step_days: int = ParamField(default=1, ge=1, le=31)
        known: tuple[str, ...] = ParamField(default=(), description="columns whose future is known: prices, promotions")
        observed: tuple[str, ...] = ParamField(default=(), description="columns that are known up to the origin only")
        categories: tuple[str, ...] = ParamField(default=(), description="text columns, known in the future as well")
        censored_by: str | None = ParamField(
            default=None, description="an observed column that is 1 where the target was cut off, as by a stock-out"
        )
        country: str | None = ParamField(default=None, description="ISO code whose public holidays are a feature")
        negative: bool = ParamField(default=False, description="whether the target may be below zero")
        quantiles: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
        stride: int = ParamField(default=7, ge=1, description="steps between the origins that are measured")
        train_stride: int = ParamField(default=1, ge=1, description="steps between the origins that are trained on")
        gap: int = ParamField(default=7, ge=0, description="steps between two splits that are in none")
        missing: dict[str, Missing] = ParamField(
            default_factory=dict, description="by column; default: seasonal for the target, interpolate for the others"
        )
        outliers: dict[str, Outliers] = ParamField(
            default_factory=dict, description="by column; default: winsorise for the target, keep for the others"
        )

        @model_validator(mode="before")
        @classmethod
        def _whole_seasons(cls, value: Any) -> Any:
            if isinstance(value, dict) and "history" not in value and isinstance(value.get("season"), int):
                season = max(1, value["season"])
                return {**value, "history": season * max(1, min(8, MOST_HISTORY // season))}
            return value

        @field_validator("country")
        @classmethod
        def _has_holidays(cls, value: str | None) -> str | None:
            if value is not None:
                try:
                    forecast_fit.public_holidays(value, 2025, 2025)
                except ValueError as error:
                    raise ValueError("an ISO 3166 code that the package holidays knows, such as DE or US") from error
            return value

        @model_validator(mode="after")
        def _consistent(self) -> Forecasting.Params:
            names = [self.target, *self.known, *self.observed, *self.categories]
            taken = {"id", "date", "event_time", "group", "sha256", "uri", "day", "item", "parent", "copy"}
            if len(set(names)) != len(names) or taken & set(names):
                raise ValueError(f"column names that differ, none of {', '.join(sorted(taken))}")
            if self.censored_by is not None and self.censored_by not in self.observed:
                raise ValueError(f"censored_by: one of observed ({', '.join(self.observed) or 'none'})")
            if self.history % self.season:
                raise ValueError(f"history: a multiple of season ({self.season})")
            unknown = sorted((set(self.missing) | set(self.outliers)) - set(names))
            if unknown:
                raise ValueError(f"missing and outliers for columns of the task only ({', '.join(names)})")
            for name in self.categories:
                if self.missing.get(name, "drop") != "drop" or name in self.outliers:
                    raise ValueError(f"nothing in outliers for the category {name}, and in missing only drop")
            levels = self.quantiles
            if list(levels) != sorted(set(levels)) or not levels or not 0 < levels[0] <= levels[-1] < 1:
                raise ValueError("quantiles that rise, each above 0 and below 1")
            if 0.5 not in levels:
                raise ValueError("quantiles with 0.5, the median: it is the forecast that errors are measured of")
            return self

    def __init__(self, params: Params):
        self.params = params

    @property
    def columns(self) -> tuple[str, ...]:
        """Of a frame behind `day` and `item`: the target, observed, known, categories."""
        given = self.params
        return (given.target, *given.observed, *given.known, *given.categories)

    def missing(self, column: str) -> Missing | Literal["unknown"]:
        """What happens to missing values of a column; those of a category are a category of their own, `unknown`."""
        if column in self.params.categories:
            return self.params.missing.get(column, "unknown")
        return self.params.missing.get(column, "seasonal" if column == self.params.target else "interpolate")

    def outliers(self, column: str) -> Outliers:
        """What happens to outliers of a column."""
        return self.params.outliers.get(column, "winsorise" if column == self.params.target else "keep")

    def fields(self) -> tuple[Field, ...]:
        """See Task.fields."""
        given, low = self.params, None if self.params.negative else 0.0
        numbers = [Field(name, "float64", "input", optional=True, description="known up to the origin")
                   for name in given.observed]  # fmt: skip
        numbers += [Field(name, "float64", "input", optional=True, description="known of the future too")
                    for name in given.known]  # fmt: skip
        words = [Field(name, "string", "input", optional=True, description="known of the future too")
                 for name in given.categories]  # fmt: skip
        return (
            Field("id", "string", "id", description="item|day: one record an item and day"),
            Field("date", "date32", "date", description="the day it arrived"),
            Field("event_time", "timestamp", "event_time", description="the day it is about, 00:00 UTC"),
            Field("group", "string", "group", description="the item"),
            Field(given.target, "float64", "target", (), low, None, "units", "what is forecast", optional=True),
            *numbers,
            *words,
            Field("sha256", "string", "about", description="of item, day and values"),
            Field("uri", "string", "about", description="where it came from"),
        )

    def arrow_schema(self) -> pa.Schema:
        """See Task.arrow_schema."""
        import pyarrow as pa

        types = {"string": pa.string(), "date32": pa.date32(), "timestamp": pa.timestamp("us", tz="UTC"),
                 "float64": pa.float64()}  # fmt: skip
        return pa.schema([pa.field(field.name, types[field.dtype]) for field in self.fields()])

    def facts(self, table: pa.Table) -> dict[str, Any]:
        """Each number column as it is, and for each column whether it is there (1 or 0). See Task.facts."""
        import numpy as np

        found: dict[str, Any] = {}
        for name in self.columns:
            found[f"has_{name}"] = table[name].is_valid().to_numpy().astype(np.int8)
            if name not in self.params.categories:
                found[name] = table[name].to_numpy(zero_copy_only=False).astype(np.float64)
        return found

    def expectations(self, validation: Validation) -> tuple[Expectation, ...]:
        """The target in range; warnings where values are missing beyond `max_quarantined`. See Task.expectations."""
        most = {"mostly": round(1 - validation.max_quarantined, 9)}
        target, low = self.params.target, None if self.params.negative else 0
        found = [
            Expectation(f"has_{name}", BETWEEN, {"column": f"has_{name}", "min_value": 1, "max_value": 1, **most},
                        f"{name} is there; what is missing: {forecast_fit.FILLED[self.missing(name)]}", blocking=False)
            for name in self.columns
        ]  # fmt: skip
        if low is not None:
            found.append(Expectation("not_negative", BETWEEN, {"column": target, "min_value": low, **most},
                                     f"{target} is not below zero"))  # fmt: skip
        return (Expectation("item_present", NOT_NULL, {"column": "id", **most}, "each record has an item"), *found)

    def split(self, table: pa.Table, as_of: date, shares: Split) -> np.ndarray:
        """By time, `gap` steps apart: the last days test, those before validate. See Task.split."""
        import numpy as np

        days = days_of(table)
        if not len(days):
            return np.zeros(0, "U10")
        last = (as_of - date(1970, 1, 1)).days
        span, step, gap = last - int(days.min()) + 1, self.params.step_days, self.params.gap * self.params.step_days
        test = last + 1 - round(span * shares.test / step) * step
        until = test - gap
        validation = until - round(span * shares.validation / step) * step
        names = np.full(len(days), "gap", "U10")
        names[days >= test] = "test"
        names[(days >= validation) & (days < until)] = "validation"
        names[days < validation - gap] = "train"
        return names

    @property
    def judged(self) -> tuple[str, ...]:
        """See Task.judged: every column, since any may tell of the future."""
        return ("id", "group", "event_time", "sha256", *self.columns)

    def leaks(self, table: pa.Table, splits: np.ndarray) -> list[str]:
        """Columns that tell of the target's future, and days in more than one split. See Task.leaks."""
        return forecast_windows.leaks(self.panel(table, splits == "train"), table, splits, self)

    def untrainable(self, table: pa.Table, splits: np.ndarray) -> str | None:
        """See Task.untrainable: each split needs room for a horizon, train for a history before it."""
        return forecast_windows.too_short(days_of(table), splits, self)

    def panel(self, table: pa.Table, chosen: np.ndarray | None = None) -> Panel:
        """Records as a dense array; see series.make_panel."""
        return make_panel(table, chosen, self.columns, self.params.categories, self.params.step_days)

    def rows(self, table: pa.Table, chosen: np.ndarray | None = None, training: bool = False) -> Rows:
        """Frames [N, history + horizon, columns], targets [N, horizon + 4] (see series.EXTRA). See Task.rows.

        Each origin of an item whose whole horizon lies in the chosen days; the history may begin before the first day.
        """
        return forecast_windows.windows(self.panel(table, chosen), self, training)

    def fit(self, table: pa.Table, chosen: np.ndarray) -> dict[str, Any]:
        """See forecast_fit.fit and Task.fit."""
        import pyarrow as pa

        return forecast_fit.fit(self.panel(table.filter(pa.array(chosen))), self)

    def described(self, statistics: Mapping[str, Any]) -> dict[str, str]:
        """See Task.described."""
        return forecast_fit.described(statistics, self)

    def told(self) -> dict[str, str]:
        """See Task.told."""
        given, step = self.params, "day" if self.params.step_days == 1 else f"step of {self.params.step_days} days"
        return {
            "split": f"by time: the last days, {given.gap} steps before the test split",
            "output": f"the mean and {len(given.quantiles)} quantiles of each {step} of the horizon, in units",
            "activation": "what keeps quantiles in order",
            "features": "the calendar, public holidays, lags and rolling figures are made inside the served model",
        }

    def measure(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """See forecast_metrics.measure."""
        return forecast_metrics.measure(outputs, targets, self.params.quantiles)

    def resampled(self, outputs: np.ndarray, targets: np.ndarray, draws: int, seed: int) -> dict[str, np.ndarray]:
        """Blocks of origins are drawn: their errors depend on each other. See Task.resampled."""
        given = self.params
        return forecast_metrics.resampled(outputs, targets, given.quantiles, draws, seed, given.step_days)

    def details(
        self, outputs: np.ndarray, rows: Rows, resamples: int, confidence: float, seed: int
    ) -> dict[str, Any]:  # fmt: skip
        """By horizon, the backtest over time, forecasts of some items. See Task.details."""
        return forecast_details.details(outputs, rows, self.params.quantiles, resamples, confidence, seed)

    def clusters(self, targets: np.ndarray) -> np.ndarray:
        """Forecasts from one origin share what happened in these days. See Task.clusters."""
        from dl_pipelines.tasks.series import ORIGIN

        return targets[:, ORIGIN]

    def residuals(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
        """See forecast_metrics.residuals."""
        return forecast_metrics.residuals(outputs, targets, self.params.quantiles)

    score = "1 - absolute error by the level of the history, at least 0"

    def scores(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """See forecast_metrics.scores."""
        return forecast_metrics.scores(outputs, targets)

    def decisions(self, outputs: np.ndarray) -> np.ndarray:
        """The total of the median over the horizon, rounded to units, [N]."""
        import numpy as np

        return np.round(outputs[:, :, 1 + self.params.quantiles.index(0.5)].sum(axis=1))

    def answer(self, output: np.ndarray) -> dict[str, Any]:
        """Lists over the horizon: `mean` and each quantile, as `q05` (or `q02.5`)."""
        names = ("mean", *(f"q{_percent(level)}" for level in self.params.quantiles))
        return {
            name: [round(float(value), 4) for value in column] for name, column in zip(names, output.T, strict=True)
        }

    def answer_features(self, outputs: np.ndarray) -> dict[str, np.ndarray]:
        """See forecast_metrics.answer_features."""
        return forecast_metrics.answer_features(outputs, self.params.quantiles)

    def label_type(self) -> pa.DataType:
        """What came to pass on each step of the horizon, and the four numbers of EXTRA where they are known."""
        import pyarrow as pa

        return pa.list_(pa.float64())

    def labels_of(self, targets: np.ndarray) -> list[Any]:
        """See Task.labels_of."""
        return [[float(value) if value == value else None for value in row] for row in targets]

    def targets_of(self, labels: list[Any]) -> np.ndarray:
        """See Task.targets_of: a label is the horizon's values, or these and the four numbers of EXTRA."""
        import numpy as np

        found = np.full((len(labels), self.params.horizon + EXTRA), np.nan)
        for row, label in enumerate(labels):
            if len(label) not in (self.params.horizon, self.params.horizon + EXTRA):
                raise ValueError(f"found a label of {len(label)} values; expected {self.params.horizon}, one a step")
            found[row, : len(label)] = [np.nan if value is None else value for value in label]
        return found

    def signature(self) -> Signature:
        """`frame` float32 [history + horizon, columns] -> `forecast` float32 [horizon, 1 + quantiles]."""
        given, names = self.params, ("day", "item", *self.columns)
        return Signature(
            inputs=(Tensor("frame", "float32", (given.history + given.horizon, len(names))),),
            outputs=(Tensor("forecast", "float32", (given.horizon, 1 + len(given.quantiles))),),
            summary="series",
            columns=names,
            codes=("item", *given.categories),
        )

    def parity(self, reference: np.ndarray, other: np.ndarray, tolerance: float, exact: bool = True) -> Parity:
        """Differences are shares of each forecast's own level (its mean, at least one unit). See Task.parity."""
        import numpy as np

        if reference.shape != other.shape or not len(reference):
            told = f"found outputs of shape {other.shape}; expected {reference.shape}, at least one row"
            return Parity(False, len(reference), float("inf"), 0.0, tolerance, told)
        level = np.maximum(np.abs(reference).mean(axis=(1, 2), keepdims=True), 1.0)
        with np.errstate(invalid="ignore"):
            apart = np.abs(reference.astype(np.float64) - other) / level
        difference, agreement = float(apart.max()), float((apart.mean(axis=(1, 2)) <= CLOSE).mean())
        finite = bool(np.isfinite(reference).all() and np.isfinite(other).all())
        passed = finite and (difference <= tolerance if exact else agreement >= AGREEMENT)
        rule = f"largest difference <= {tolerance:g}" if exact else f"within {CLOSE:.0%} for {AGREEMENT:.0%}"
        told = f"{len(reference)} rows: largest difference {difference:.2e} of the level, agreement {agreement:.2%}"
        return Parity(passed, len(reference), difference, agreement, tolerance, f"{told} ({rule})")

    def read_input(self, path: str) -> np.ndarray:
        """A CSV with the days of one item as a frame. See forecast_windows.read_frame. Raises ValueError."""
        return forecast_windows.read_frame(Path(path), self)


def _percent(level: float) -> str:
    """A share as percent with two digits before the point, the others as far as there are any."""
    whole, point, rest = f"{100 * level:.6g}".partition(".")
    return f"{whole:0>2}{point}{rest}"
