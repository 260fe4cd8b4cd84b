"""A model against baselines: differences and ratios by hand, their pairing, the gates and what they say."""

from __future__ import annotations

import numpy as np
import pytest

from dl_pipelines.evaluation.against import compare, gates
from dl_pipelines.evaluation.metrics import paired_difference
from dl_pipelines.tasks.base import Rows
from dl_pipelines.tasks.image_classification import ImageClassification
from tests.evaluation import forecasts

GIVEN = (200, 0.95, 0)


@pytest.fixture(scope="module")
def task():
    return forecasts.make_task()


@pytest.fixture(scope="module")
def rows(task) -> Rows:
    return forecasts.split_rows(task, forecasts.make_table(task))[1]["test"]


@pytest.fixture(scope="module")
def answers(rows: Rows) -> dict[str, np.ndarray]:
    """Outputs that are off by a tenth, two tenths and nothing; all of one width."""
    actual = np.nan_to_num(rows.targets[:, :3], nan=30.0)
    noise = np.random.default_rng(0).choice([-1, 1], actual.shape)
    found = {}
    for name, apart in (("ours", 0.1), ("seasonal_naive", 0.2), ("oracle", 0.0)):
        point = actual * (1 + apart * noise)
        found[name] = np.stack([point, 0.8 * point, point, 1.2 * point], axis=2).astype(np.float32)
    return found


@pytest.fixture(scope="module")
def against(task, rows: Rows, answers) -> dict:
    others = {name: answers[name] for name in ("seasonal_naive", "oracle")}
    return compare(task, answers["ours"], others, rows.targets, *GIVEN)


def row(against: dict, baseline: str, metric: str) -> dict:
    (found,) = [row for row in against["rows"] if (row["baseline"], row["metric"]) == (baseline, metric)]
    return found


def test_every_metric_of_every_baseline_is_compared(task, against):
    pairs = [(row["baseline"], row["metric"]) for row in against["rows"]]
    assert pairs == [(name, metric) for name in ("seasonal_naive", "oracle") for metric in task.metrics]
    assert against["metrics"] == ["wape", "mape", "pinball"]
    assert against["must_beat"] == ["seasonal_naive", "theta", "ets", "boosting"]


def test_the_ratio_is_their_error_by_ours(against):
    found = row(against, "seasonal_naive", "wape")
    assert found["ours"]["value"] == pytest.approx(0.1, abs=1e-5)
    assert found["theirs"]["value"] == pytest.approx(0.2, abs=1e-5)
    assert found["difference"]["value"] == pytest.approx(-0.1, abs=1e-5)
    for end in ("value", "low", "high"):  # twice as good in every resample
        assert found["ratio"][end] == pytest.approx(2, abs=1e-4)
    assert row(against, "oracle", "wape")["ratio"]["value"] == pytest.approx(0, abs=1e-4)


def test_where_more_is_better_the_ratio_is_ours_by_theirs(against):
    found = row(against, "oracle", "coverage")
    assert found["ratio"]["value"] == pytest.approx(found["ours"]["value"] / found["theirs"]["value"], rel=1e-4)


def test_a_difference_is_the_paired_one(task, rows: Rows, answers, against):
    expected = paired_difference(task, "pinball", answers["seasonal_naive"], answers["ours"], rows.targets, *GIVEN)
    assert row(against, "seasonal_naive", "pinball")["difference"] == expected


def test_a_perfect_model_has_no_ratio(task, rows: Rows, answers):
    others = {"seasonal_naive": answers["ours"]}
    found = compare(task, answers["oracle"].astype(np.float64), others, rows.targets, *GIVEN)
    perfect = row(found, "seasonal_naive", "wape")
    assert ("ratio" in perfect) == (task.measure(answers["oracle"], rows.targets)["wape"] > 0)


def test_gates_are_about_the_whole_interval(task, against):
    found = {gate.name: gate for gate in gates(task, against)}
    assert set(found) == {"beats_seasonal_naive", "beats_theta", "beats_ets", "beats_boosting"}  # no oracle
    gate = found["beats_seasonal_naive"]
    assert (gate.passed, gate.blocking) == (True, False)
    assert gate.summary.startswith("wape 0.1000 against 0.2000 of seasonal naive, difference -0.1000 [-0.")
    assert gate.summary.endswith("on the test rows")
    assert gate.facts == row(against, "seasonal_naive", "wape")["difference"]
    assert found["beats_theta"].passed is None
    assert found["beats_theta"].summary == "wape of theta could not be measured on these test rows"


def test_a_model_that_is_no_better_beats_nobody(task, rows: Rows, answers):
    same = compare(task, answers["ours"], {"theta": answers["ours"]}, rows.targets, *GIVEN)
    worse = compare(task, answers["seasonal_naive"], {"theta": answers["ours"]}, rows.targets, *GIVEN)
    for found in (same, worse):
        assert {gate.name: gate.passed for gate in gates(task, found)}["beats_theta"] is False


def test_what_is_not_measured_is_left_out(task, rows: Rows, answers):
    found = compare(task, answers["ours"], {"ets": answers["ours"] * np.nan}, rows.targets, *GIVEN)
    assert found["rows"] == []
    assert {gate.passed for gate in gates(task, found)} == {None}


def test_a_gate_knows_that_more_accuracy_is_better(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ImageClassification, "baselines", {"guess": "nowhere:guess"})
    task = ImageClassification(ImageClassification.Params(classes=("a", "b")))
    targets = np.arange(60) % 2
    good = np.eye(2)[targets]
    found = compare(task, good, {"guess": good[:, ::-1]}, targets, *GIVEN)
    assert [gate.passed for gate in gates(task, found)] == [True]
    found = compare(task, good[:, ::-1], {"guess": good}, targets, *GIVEN)
    assert [gate.passed for gate in gates(task, found)] == [False]
