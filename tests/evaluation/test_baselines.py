"""The stage on a task of three steps: its files, what is recorded, what it is made from; evaluation against it."""

from __future__ import annotations

import importlib
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from dl_pipelines.brief.references import SourceRef
from dl_pipelines.brief.sections import Data, Evaluation
from dl_pipelines.data.batches import window_rows
from dl_pipelines.data.sources.digits import Digits
from dl_pipelines.evaluation import evaluate
from dl_pipelines.evaluation.baselines import load_outputs, make_baselines
from dl_pipelines.evaluation.evaluate import make_evaluation
from dl_pipelines.evaluation.test_reads import count_test_reads
from dl_pipelines.store.artifacts import Artifact, ArtifactError, Draft, Gate
from dl_pipelines.store.home import Home
from dl_pipelines.store.records import write_records
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.forecasting import Forecasting
from dl_pipelines.tasks.registry import TASKS
from tests.evaluation import forecasts

PARTITION = Partition(forecasts.LAST, "base")
DATA, EVALUATION = Data(source=SourceRef(name="digits")), Evaluation(resamples=100)


def shape_of(rows) -> tuple[int, int, int]:
    return len(rows), forecasts.HORIZON, 4


@pytest.fixture(scope="module")
def task():
    """Two baselines are enough: each is tested on its own."""
    with pytest.MonkeyPatch.context() as patch:
        kept = {name: Forecasting.baselines[name] for name in ("seasonal_naive", "theta")}
        patch.setattr(Forecasting, "baselines", kept)
        # An oracle that knows the targets, where they are not missing.
        patch.setattr(Digits, "oracle", lambda self, rows, task: np.nan_to_num(
            rows.targets[:, :3, None] * np.array([1, 0.9, 1, 1.1]), nan=1.0).astype(np.float32))  # fmt: skip
        yield forecasts.make_task()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, task) -> Workspace:
    made = Workspace(Home(tmp_path_factory.mktemp("home")).prepare(), "demand")
    put_window(made, task)
    return made


def put_window(workspace: Workspace, task: Forecasting) -> None:
    """The records as one day's dataset, and a window of it."""

    def dataset(draft: Draft) -> None:
        write_records(draft, forecasts.make_table(task))
        draft.gate(Gate("suite", True, "made by a test", blocking=True))

    day = workspace.make("validated_data", PARTITION.daily, dataset, settings={}, parents={})

    def window(draft: Draft) -> None:
        days = [{"day": forecasts.LAST.isoformat(), "digest": day.digest, "records": 1}]
        draft.write_json("window.json", {"days": days, "as_of": forecasts.LAST.isoformat()})
        draft.gate(Gate("no_leak", True, "made by a test", blocking=True))

    workspace.make("training_window", PARTITION.daily, window, settings={}, parents={"validated_data": day})


@pytest.fixture(scope="module")
def baselines(workspace: Workspace, task) -> Artifact:
    return make_baselines(workspace, PARTITION, EVALUATION, DATA, task)


@pytest.fixture(scope="module")
def evaluation(baselines: Artifact, workspace: Workspace, task) -> Artifact:
    """Of a model that knows the last season and nothing else."""
    import torch

    class Repeats(torch.nn.Module):
        def forward(self, frame: torch.Tensor) -> torch.Tensor:
            return torch.nan_to_num(frame[:, 3:6, 2:3], nan=1.0) * torch.tensor([1, 0.7, 1, 1.4])

    def trained(draft: Draft) -> None:
        draft.gate(Gate("finite", True, "made by a test", blocking=True))

    workspace.make("trained_model", PARTITION, trained, settings={}, parents={})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "load_served", lambda artifact, task: Repeats())
        return make_evaluation(workspace, PARTITION, EVALUATION, DATA, task)


def test_files_and_parents(baselines: Artifact):
    assert set(baselines.files) == {
        "metrics.json",
        *[f"{name}/outputs_{split}.npy" for name in ("seasonal_naive", "theta", "oracle")
          for split in ("validation", "test")],
    }  # fmt: skip
    assert set(baselines.parents) == {"training_window"}
    assert [(gate.name, gate.passed, gate.blocking) for gate in baselines.gates] == [("finite_outputs", True, True)]


def test_metrics_are_those_of_the_outputs(baselines: Artifact, workspace: Workspace, task):
    window = workspace.get("training_window", PARTITION.daily)
    rows = window_rows(workspace, window, "test", DATA, task)
    metrics, outputs = baselines.read_json("metrics.json"), load_outputs(baselines, "test")
    assert set(metrics) == set(outputs) == {"seasonal_naive", "theta", "oracle"}
    for name, found in outputs.items():
        assert found.shape == shape_of(rows)
        expected = task.measure(found, rows.targets)
        assert {metric: one["value"] for metric, one in metrics[name]["test"].items()} == pytest.approx(
            expected, abs=1e-6
        )
        assert set(metrics[name]) == {"validation", "test"}
    assert metrics["oracle"]["test"]["wape"]["value"] < 1e-6 < metrics["theta"]["test"]["wape"]["value"]


def test_seconds_and_a_table_are_shown(baselines: Artifact, task):
    assert set(baselines.measured["seconds"]) == {"seasonal_naive", "theta", "oracle"}
    table = baselines.show["test_metrics"]["md"]
    assert "| seasonal naive | " in table and "| oracle | " in table
    assert all(metric.label in table for metric in task.metrics.values())
    assert baselines.show["theta_wape"] == baselines.read_json("metrics.json")["theta"]["test"]["wape"]["value"]


def test_it_is_made_once_for_the_data(baselines: Artifact, workspace: Workspace, task):
    before = count_test_reads(workspace)
    other = Partition(PARTITION.day, "wider")
    assert make_baselines(workspace, other, EVALUATION, DATA, task) == baselines
    assert count_test_reads(workspace) == before
    assert count_test_reads(workspace, PARTITION) >= 1


def test_a_source_without_an_oracle_has_none(
    workspace: Workspace, baselines: Artifact, task, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Digits, "oracle", lambda self, rows, task: None)
    made = make_baselines(workspace, PARTITION, EVALUATION.model_copy(update={"seed": 7}), DATA, task)
    workspace.point("baselines", PARTITION, baselines)
    assert set(made.read_json("metrics.json")) == {"seasonal_naive", "theta"}
    assert set(made.measured["seconds"]) == {"seasonal_naive", "theta"}


def test_answers_that_are_not_finite_block(
    workspace: Workspace, baselines: Artifact, task, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Digits, "oracle", lambda self, rows, task: np.full(shape_of(rows), np.inf, np.float32))
    made = make_baselines(workspace, PARTITION, EVALUATION.model_copy(update={"seed": 8}), DATA, task)
    workspace.point("baselines", PARTITION, baselines)
    with pytest.raises(ArtifactError, match="found finite_outputs: answers of seasonal_naive, theta, oracle"):
        made.require_gates()


def test_a_window_that_has_not_run_is_asked_for(tmp_path: Path, task):
    empty = Workspace(Home(tmp_path).prepare(), "demand")
    with pytest.raises(ArtifactError, match=r"found no training_window of demand for 2026-01-01; expected it to"):
        make_baselines(empty, Partition(date(2026, 1, 1), "base"), EVALUATION, DATA, task)


def test_an_evaluation_is_against_them(evaluation: Artifact, baselines: Artifact):
    assert set(evaluation.files) == {
        "metrics.json", "rows.json", "calibration.json", "details.json", "slices.json", "against.json",
        "outputs_validation.npy",
    }  # fmt: skip
    assert evaluation.parents["baselines"] == baselines.digest
    against = evaluation.read_json("against.json")
    assert list(dict.fromkeys(row["baseline"] for row in against["rows"])) == ["seasonal_naive", "theta", "oracle"]
    theirs = baselines.read_json("metrics.json")
    for row in against["rows"]:
        assert row["theirs"] == theirs[row["baseline"]]["test"][row["metric"]]
        assert row["ours"] == evaluation.read_json("metrics.json")["test"][row["metric"]]


def test_what_is_not_beaten_only_warns(evaluation: Artifact):
    assert [(gate.name, gate.blocking) for gate in evaluation.gates] == [
        ("finite_outputs", True), ("beats_seasonal_naive", False), ("beats_theta", False),
    ]  # fmt: skip
    assert {gate.name: gate.passed for gate in evaluation.gates}["beats_theta"] is False
    assert evaluation.require_gates() is evaluation


def test_slices_and_details_are_of_the_test_rows(evaluation: Artifact):
    slices = evaluation.read_json("slices.json")
    assert {row["slice"] for row in slices} == {f"item:{name}" for name in forecasts.LEVEL}
    assert sum(row["rows"] for row in slices) == evaluation.read_json("rows.json")["test"]
    details = evaluation.read_json("details.json")
    assert [row["step"] for row in details["by_horizon"]] == [1, 2, 3]
    assert details["examples"][0]["item"] == "TOTAL"
    assert evaluation.read_json("calibration.json") == []
    assert "data:image/svg+xml" in evaluation.show["forecasts"]["md"]
    assert "data:image/svg+xml" in evaluation.show["baselines"]["md"]


def test_baselines_that_have_not_run_are_asked_for(tmp_path: Path, task):
    fresh = Workspace(Home(tmp_path).prepare(), "demand")
    put_window(fresh, task)
    fresh.make("trained_model", PARTITION, lambda draft: draft.gate(Gate("finite", True, "", blocking=True)) and None,
               settings={}, parents={})  # fmt: skip
    with pytest.raises(ArtifactError, match="found no baselines of demand for"):
        make_evaluation(fresh, PARTITION, EVALUATION, DATA, task)


def test_every_task_has_baselines_or_says_why_not():
    for name in TASKS.names:
        found = TASKS.load(name)
        assert bool(found.baselines) != ("baselines" in found.not_applicable)
        for place in found.baselines.values():
            module, _, function = place.partition(":")
            assert callable(getattr(importlib.import_module(module), function))
