"""The task's contract: what params it takes, how days are split, labels, answers and parity."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from dl_pipelines.brief.errors import BriefError
from dl_pipelines.brief.loading import brief_from
from dl_pipelines.brief.sections import Split, Validation
from dl_pipelines.catalog import KINDS
from dl_pipelines.tasks.forecasting import Forecasting
from tests.series import DAYS, FIRST, demand, make_table, make_task

LAST = FIRST + timedelta(days=DAYS - 1)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"history": 7}, r"history: a multiple of season \(3\)"),
        ({"known": ("value",)}, "column names that differ, none of copy, date, day"),
        ({"target": "group"}, "column names that differ, none of"),
        ({"censored_by": "price"}, r"censored_by: one of observed \(stock_out\)"),
        ({"missing": {"cost": "drop"}}, r"missing and outliers for columns of the task only \(value, price, stock_out"),
        ({"missing": {"kind": "seasonal"}}, "for the category kind, and in missing only drop"),
        ({"outliers": {"kind": "clip"}}, "nothing in outliers for the category kind"),
        ({"missing": {"value": "guess"}}, "'drop', 'seasonal', 'interpolate' or 'model'"),
        ({"quantiles": (0.9, 0.5)}, "quantiles that rise, each above 0 and below 1"),
        ({"quantiles": (0.5, 1.0)}, "quantiles that rise, each above 0 and below 1"),
        ({"quantiles": (0.1, 0.9)}, "quantiles with 0.5, the median"),
        ({"horizon": 0}, "greater than or equal to 1"),
        ({"country": "de"}, "an ISO 3166 code that the package holidays knows, such as DE or US"),
        ({"step": 1}, "Extra inputs are not permitted"),
    ],
)
def test_wrong_params(params: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        make_task(**params)


@pytest.mark.parametrize(("season", "history"), [(7, 56), (12, 96), (365, 1825), (300, 1800)])
def test_a_history_is_whole_seasons_by_default(season: int, history: int):
    assert Forecasting.Params(season=season).history == history


def test_a_brief_tells_where_an_unknown_country_is():
    plain = {"project": "p", "problem": {"task": {"name": "forecasting", "params": {"country": "XX"}}},
             "data": {"source": {"name": "demand"}}}  # fmt: skip
    with pytest.raises(BriefError) as caught:
        brief_from(plain, "b.yaml", KINDS)
    assert "problem.task.params.country" in str(caught.value)
    assert "an ISO 3166 code that the package holidays knows, such as DE or US" in str(caught.value)


@pytest.mark.parametrize("step", [1, 7])
def test_splits_are_by_time_with_gaps(step: int):
    task = make_task(step_days=step, gap=2)
    table = make_table(task, demand(100))
    splits = task.split(table, FIRST + timedelta(days=99 * step), Split(validation=0.2, test=0.1))
    place = (table["event_time"].to_numpy().astype("datetime64[D]") - np.datetime64(FIRST)).astype(int) // step
    found = {name: sorted(set(place[splits == name].tolist())) for name in ("train", "gap", "validation", "test")}
    assert found["test"] == list(range(90, 100))
    assert found["validation"] == list(range(68, 88))
    assert found["gap"] == [66, 67, 88, 89]
    assert found["train"] == list(range(66))
    assert task.split(table.slice(0, 0), LAST, Split()).tolist() == []


def test_facts_and_expectations_name_the_same_columns():
    task = make_task()
    values = demand(20)
    table = make_table(task, values)
    facts = task.facts(table)
    assert set(facts) == {"value", "stock_out", "price", *(f"has_{name}" for name in task.columns)}
    assert facts["has_value"].sum() == np.isfinite(values).sum()
    expected = task.expectations(Validation())
    assert {item.arguments["column"] for item in expected} <= {*facts, "id"}
    assert [item.name for item in expected if item.blocking] == ["item_present", "not_negative"]
    assert next(item for item in expected if item.name == "has_kind").sentence.endswith("taken as an unknown word")
    assert "not_negative" not in {item.name for item in make_task(negative=True).expectations(Validation())}


def test_labels_come_back_as_targets():
    task = make_task()
    rows = task.rows(make_table(task))
    found = task.targets_of(task.labels_of(rows.targets))
    assert found == pytest.approx(rows.targets, nan_ok=True)
    short = task.targets_of([[1.0, None, 3.0]])
    assert short[0, :3] == pytest.approx([1, np.nan, 3], nan_ok=True)
    assert np.isnan(short[0, 3:]).all()
    with pytest.raises(ValueError, match="found a label of 2 values; expected 3, one a step"):
        task.targets_of([[1.0, 2.0]])
    assert task.clusters(rows.targets).tolist() == rows.targets[:, -4].tolist()


def test_an_answer_has_a_list_for_each_quantile():
    task = make_task(quantiles=(0.005, 0.025, 0.05, 0.5, 0.975))
    answer = task.answer(np.arange(18, dtype=np.float32).reshape(3, 6))
    assert list(answer) == ["mean", "q00.5", "q02.5", "q05", "q50", "q97.5"]
    assert answer["q50"] == [4, 10, 16]
    assert task.decisions(np.arange(18, dtype=np.float32).reshape(1, 3, 6)).tolist() == [30]


def test_the_signature_fits_the_rows():
    task = make_task()
    signature, rows = task.signature(), task.rows(make_table(task))
    assert rows.inputs.shape[1:] == signature.inputs[0].shape == (9, 6)
    assert signature.outputs[0].shape == (3, 4)
    assert signature.columns == ("day", "item", "value", "stock_out", "price", "kind")
    assert signature.codes == ("item", "kind")


def test_parity_is_by_the_level_of_each_forecast():
    task, rng = make_task(), np.random.default_rng(0)
    reference = rng.uniform(500, 1500, (40, 3, 4)).astype(np.float32)
    other = reference * np.float32(1 + 1e-5)
    expected = (np.abs(other - reference.astype(float)) / np.abs(reference).mean(axis=(1, 2), keepdims=True)).max()
    found = task.parity(reference, other, 1e-4)
    assert found.passed
    assert found.max_difference == pytest.approx(expected, rel=1e-3)
    assert not task.parity(reference, other, 1e-6).passed
    rough = reference.copy()
    rough[:1] *= 1.5
    assert not task.parity(reference, rough, 1e-4).passed
    assert task.parity(reference, rough, 1e-4, exact=False).passed
    rough[:3] *= 1.5
    found = task.parity(reference, rough, 1e-4, exact=False)
    assert not found.passed
    assert found.summary.endswith("agreement 92.50% (within 5% for 95%)")
    for wrong in (np.where(reference > 1400, np.nan, reference), reference[:-1]):
        assert not task.parity(reference, wrong, 1e-4).passed
        assert not task.parity(reference, wrong, 1e-4, exact=False).passed
    assert "expected (40, 3, 4), at least one row" in task.parity(reference, reference[:-1], 1e-4).summary


def test_it_says_what_it_does():
    task = make_task()
    assert task.told()["split"] == "by time: the last days, 1 steps before the test split"
    assert "3 quantiles of each day of the horizon" in task.told()["output"]
    assert task.judged == ("id", "group", "event_time", "sha256", "value", "stock_out", "price", "kind")
