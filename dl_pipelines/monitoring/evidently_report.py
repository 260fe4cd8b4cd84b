"""One live window against its reference by Evidently: the values, a page and its JSON; it decides nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dl_pipelines.monitoring.thresholds import WASSERSTEIN
from dl_pipelines.store import durable

if TYPE_CHECKING:
    import numpy as np

NO_TELEMETRY = "DO_NOT_TRACK"


@dataclass(frozen=True)
class Compared:
    """One feature: its statistic (Evidently's name), its threshold, its `reference` [N] and `live` [M] values."""

    name: str
    statistic: str
    threshold: float
    reference: np.ndarray
    live: np.ndarray


def measure_drift(features: Sequence[Compared], page: Path) -> dict[str, float]:
    """Evidently's value of each feature; writes the `page` (HTML) and the same as JSON beside it.

    Evidently's own defaults change with the size of the reference: method and threshold are always given. The page
    has random identifiers in it, so that its bytes differ from run to run.
    """
    os.environ.setdefault(NO_TELEMETRY, "1")  # read when Evidently is imported
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    numbers = [item.name for item in features if item.statistic == WASSERSTEIN]
    columns = DataDefinition(
        numerical_columns=numbers,
        categorical_columns=[item.name for item in features if item.name not in numbers],
    )
    live = pd.DataFrame({item.name: pd.Series(item.live) for item in features})
    # References of inputs and of outputs have different lengths; what is not there is dropped feature by feature.
    reference = pd.DataFrame({item.name: pd.Series(item.reference) for item in features})
    metrics: list[Any] = [
        ValueDrift(column=item.name, method=item.statistic, threshold=item.threshold) for item in features
    ]
    result = Report(metrics, include_tests=True).run(
        Dataset.from_pandas(live, data_definition=columns), Dataset.from_pandas(reference, data_definition=columns)
    )
    durable.write_text(page, result.get_html_str(as_iframe=False))
    durable.write_text(page.with_suffix(".json"), result.json())
    found = result.dict()["metrics"]
    return {item.name: float(metric["value"]) for item, metric in zip(features, found, strict=True)}
