"""A home with the real line up to the compressed model, and later stages written as their contracts say."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dl_pipelines import catalog
from dl_pipelines.brief import Brief
from dl_pipelines.data.batches import window_rows
from dl_pipelines.store.artifacts import Artifact, Draft, Gate
from dl_pipelines.store.home import Home
from dl_pipelines.store.records import write_records
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Task
from tests.report import series as series_line


@pytest.fixture
def line(
    compressed_model: Artifact, evaluation: Artifact, workspace: Workspace, brief: Brief, tmp_path: Path
) -> Workspace:
    """A home of its own with the session's artifacts up to the compressed model."""
    shutil.copytree(workspace.home.artifacts, tmp_path / "artifacts")
    shutil.copytree(workspace.home.index, tmp_path / "index")
    return Workspace(Home(tmp_path).prepare(), brief.project)


def served(
    line: Workspace, partition: Partition, latency: dict[str, Any], metrics: dict[str, Any], parity: bool = True
) -> Artifact:
    """A triton_repository with the fields of its contract."""

    def build(draft: Draft) -> None:
        draft.write_json("model.json", {"model": "digits__abc", "runtime": "onnxruntime"})
        draft.gate(Gate("live_parity", parity, "largest difference 0.5", blocking=True))
        draft.measure(latency=latency, metrics=metrics, load_seconds=0.2)

    parents = {stage: line.get(stage, partition) for stage in ("compressed_model",)}
    parents["training_window"] = line.get("training_window", partition.daily)
    settings = {"serving": {"max_batch": 16, "timeout_ms": 2000.0, "instances": 1}}
    return line.make("triton_repository", partition, build, settings=settings, parents=parents)


def logged(line: Workspace, partition: Partition, brief: Brief, task: Task) -> Artifact:
    """A prediction_log of a calm window (what the model answered on validation rows) and one with all labels wrong.

    One row more, whose answer was not kept.
    """
    compressed = line.get("compressed_model", partition)
    outputs = np.load(compressed.file("outputs_validation.npy"), allow_pickle=False)
    rows = window_rows(line, line.get("training_window", partition.daily), "validation", brief.data, task)

    def build(draft: Draft) -> None:
        targets = np.concatenate([rows.targets, (outputs.argmax(1) + 1) % 10, [0]])
        table = pa.table(
            {
                "outputs": pa.array([*outputs.tolist(), *outputs.tolist(), None], pa.list_(pa.float64())),
                "label": pa.array(targets, pa.int64()),
                "window": ["calm"] * len(outputs) + ["shifted"] * len(outputs) + ["calm"],
            }
        )
        write_records(draft, table)
        draft.gate(Gate("nothing_missing", True, "0 acknowledged requests are not in the log", blocking=True))

    return line.make("prediction_log", partition, build, settings={}, parents={"compressed_model": compressed})


def watched(line: Workspace, partition: Partition) -> Artifact:
    """A drift_report of a quiet and an alarming window."""

    def window(name: str, decision: str, value: float) -> dict[str, Any]:
        feature = {"name": "mean", "statistic": "wasserstein", "value": value, "threshold": 0.2, "drifted": value > 0.2}
        return {"name": name, "records": 250, "decision": decision, "reason": "", "features": [feature]}

    def build(draft: Draft) -> None:
        windows = [window("calm", "quiet", 0.1), window("shifted", "alarm", 0.9)]
        draft.write_json("report.json", {"windows": windows})
        draft.gate(Gate("drift_shifted", False, "mean drifted"))

    return line.make("drift_report", partition, build, settings={}, parents={})


LATENCY = {"p50_ms": 1.5, "p95_ms": 3.25, "p99_ms": 6.0, "throughput_rps": 1234.5, "requests": 2000, "failed": 1,
           "clients": 4, "seconds": 1.0}  # fmt: skip
METRICS = {"test": {"accuracy": {"value": 0.98, "low": 0.96, "high": 0.99}}}


@pytest.fixture
def whole(line: Workspace, partition: Partition, brief: Brief, task: Task) -> Workspace:
    """The line with every stage before the report."""
    served(line, partition, LATENCY, METRICS)
    logged(line, partition, brief, task)
    watched(line, partition)
    return line


@pytest.fixture(scope="session")
def series_brief() -> Brief:
    """Of a forecasting task."""
    return series_line.make_brief()


@pytest.fixture(scope="session")
def series_task(series_brief: Brief) -> Task:
    """Its task."""
    return catalog.task_of(series_brief)


@pytest.fixture(scope="session")
def series(tmp_path_factory: pytest.TempPathFactory, series_brief: Brief, series_task: Task):
    """A forecasting line up to the evaluation, and its partition; tests add to it, and change nothing."""
    return series_line.make_line(tmp_path_factory.mktemp("series"), series_brief, series_task)
