"""Great Expectations about the facts of one day or many, judged in one run; each day's results are as if it were alone.

GX judges rows; what counts of a day (the share of its rows, the sum of a column) is put together from them, so that a
day has the same results whichever days are judged beside it. Data Docs have one page a run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dl_pipelines.tasks.base import BETWEEN, NOT_NULL, Expectation

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.core import ExpectationValidationResult

SUM, UNIQUE = "ExpectColumnSumToBeBetween", "ExpectColumnValuesToBeUnique"
"""About a day as a whole; every other kind is one of GX's about the rows of a column."""


class _Rows(NamedTuple):
    """All days in one table. `day` and `place` [N]: where each row comes from; a place of -1 holds only sums."""

    frame: pd.DataFrame
    day: list[str]
    place: list[int]


def validate_days(
    frames: Mapping[str, pd.DataFrame], suite: Sequence[Expectation], docs: Path, name: str
) -> dict[str, list[dict[str, Any]]]:
    """Run Great Expectations once on the facts of days and render its page `name` below `docs`.

    For each day one plain dict an expectation, in the order of the suite.
    """
    rows = _together(frames, suite)
    checked = _run(rows.frame, suite, docs, name)
    found: dict[str, list[dict[str, Any]]] = {day: [] for day in frames}
    for item in suite:
        unexpected: dict[str, list[int]] = {day: [] for day in frames}
        for index in checked[item.name].result.get("unexpected_index_list") or ():
            unexpected[rows.day[index]].append(rows.place[index])
        fault = _fault(checked[item.name])
        for day, frame in frames.items():
            passed, observed = (False, fault) if fault else _judge(item, frame, unexpected[day])
            found[day].append({
                "name": item.name, "expectation": item.kind, "sentence": item.sentence,
                "column": item.arguments.get("column"), "kwargs": dict(item.arguments),
                "success": passed, "blocking": item.blocking, "observed": observed,
            })  # fmt: skip
    return found


def _column(item: Expectation) -> str:
    """The column that rows are judged by: what is about a day as a whole has one of its own."""
    extra = {SUM: " of the day", UNIQUE: " within the day"}.get(item.kind, "")
    return item.arguments["column"] + extra


def _together(frames: Mapping[str, pd.DataFrame], suite: Sequence[Expectation]) -> _Rows:
    import pandas as pd

    days, places = [], []
    for day, frame in frames.items():
        places += range(len(frame)) if len(frame) else [-1]  # a day without a row still has its sums
        days += [day] * max(len(frame), 1)
    given = next(iter(frames.values()))
    # Plain values, so that a column has the type of all its days' values, whatever each day's own is.
    columns: dict[str, list[Any]] = {name: list(chain.from_iterable(frame[name].tolist() if len(frame) else [None]
                                              for frame in frames.values())) for name in given.columns}  # fmt: skip
    for item in suite:
        name = item.arguments["column"]
        if name in columns and item.kind == SUM:
            sums = ([frame[name].sum(), *[None] * (len(frame) - 1)] for frame in frames.values())
            columns[_column(item)] = list(chain.from_iterable(sums))
        elif name in columns and item.kind == UNIQUE:
            pairs = zip(days, columns[name], strict=True)
            columns[_column(item)] = [None if value is None else f"{value} on {day}" for day, value in pairs]
    return _Rows(pd.DataFrame(columns), days, places)


def _run(
    frame: pd.DataFrame, suite: Sequence[Expectation], docs: Path, name: str
) -> dict[str, ExpectationValidationResult]:
    """GX's results by our names."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx
    from great_expectations.checkpoint.actions import UpdateDataDocsAction
    from great_expectations.data_context.types.base import ProgressBarsConfig

    docs.mkdir(parents=True, exist_ok=True)
    context = gx.get_context(mode="file", project_root_dir=docs)
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    rules = [
        getattr(gx.expectations, BETWEEN if item.kind == SUM else item.kind)(
            **{**item.arguments, "column": _column(item)}, notes=item.sentence, meta={"name": item.name}
        )
        for item in suite
    ]
    expected = context.suites.add_or_update(gx.ExpectationSuite(name=name, expectations=rules))
    source = context.data_sources.add_or_update_pandas("records")
    batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("days")
    definition = gx.ValidationDefinition(name=name, data=batch, suite=expected)
    checkpoint = gx.Checkpoint(
        name=name,
        validation_definitions=[context.validation_definitions.add_or_update(definition)],
        actions=[UpdateDataDocsAction(name="data_docs")],
        result_format="COMPLETE",
    )
    run = context.checkpoints.add_or_update(checkpoint).run(batch_parameters={"dataframe": frame})
    found = {}
    for result in next(iter(run.run_results.values())).results:
        assert result.expectation_config and result.expectation_config.meta
        found[result.expectation_config.meta["name"]] = result
    return found


def _fault(checked: ExpectationValidationResult) -> str:
    """Why there is no result, or nothing."""
    faults = (checked.exception_info or {}).values()
    raised = [fault["exception_message"] for fault in faults if isinstance(fault, dict) and fault["raised_exception"]]
    return f"no result: {raised[0]}" if raised else ""


def _judge(item: Expectation, frame: pd.DataFrame, unexpected: Sequence[int]) -> tuple[bool, str]:
    """Whether a day satisfies an expectation, and what was found, of the places of the rows that don't."""
    values = frame[item.arguments["column"]]
    if item.kind == SUM:
        return not unexpected, str(values.sum())
    places = sorted(place for place in unexpected if place >= 0)
    counted = len(frame) if item.kind == NOT_NULL else int(values.notna().sum())
    share = (counted - len(places)) / counted if counted else 1.0
    examples = ", ".join(str(values.iloc[place])[:40] for place in places[:3])
    observed = f"{len(places)} of {len(frame)} otherwise" + (f" ({examples})" if examples else "")
    return share >= item.arguments.get("mostly", 1.0), observed
