"""A home with a forecasting line written as its stages' contracts say: real records, invented answers, no training."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from dl_pipelines import catalog
from dl_pipelines.brief import Brief
from dl_pipelines.data.sources.demand import Demand
from dl_pipelines.evaluation.against import compare, gates
from dl_pipelines.evaluation.metrics import with_intervals
from dl_pipelines.store.artifacts import Artifact, Draft, Gate
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import SPLITS, Rows, Task
from dl_pipelines.tasks.forecast_details import details

DAYS, ITEMS, SHOWN = 240, 4, 3
BRIEF = f"""
project: demand
problem:
  task: {{name: forecasting, params: {{target: demand, known: [price, promotion], categories: [category],
    history: 28, horizon: 14}}}}
  targets:
    - {{metric: mape, op: "<=", value: 0.05, where: trained}}
    - {{metric: latency_p95_ms, op: "<=", value: 10}}
data:
  source: {{name: demand, params: {{items: {ITEMS}, days: {DAYS}, first_day: 2024-01-01}}}}
  augmentation: {{online: [{{name: jitter}}, {{name: window_warping}}]}}
architecture: {{family: lstm_attention}}
evaluation: {{resamples: 200, thresholds: {{wape: 0.2}}}}
"""
LAYERS = [
    {"type": "Recurrent", "count": 1, "configuration": "LSTM 8->64", "parameters": 18_944,
     "activation": "Sigmoid and Tanh of its gates", "purpose": "carries what was seen from step to step",
     "output_shape": "42 x 64", "macs": 774_144, "activation_bytes": 11_264},
    {"type": "Dense/FC", "count": 2, "configuration": "64->64; 64->8", "parameters": 4_680, "activation": "GELU",
     "purpose": "from features to the outputs", "output_shape": "64; 8", "macs": 4_608, "activation_bytes": 288},
]  # fmt: skip
DETAIL = [
    {"name": name, "type": kind, "configuration": configuration, "parameters": parameters, "activation": "none",
     "output_shape": shape, "macs": macs, "activation_bytes": memory}
    for name, kind, configuration, parameters, shape, macs, memory in (
        ("encoder.lstm", "Recurrent", "LSTM 8->64", 18_944, "42 x 64", 774_144, 11_264),
        ("head.0", "Dense/FC", "64->64", 4_160, "64", 4_096, 256),
        ("head.1", "Dense/FC", "64->8", 520, "8", 512, 32),
    )
]  # fmt: skip
TIMES = {"by_kind": {"Recurrent": 3.0, "Dense/FC": 1.0}, "by_layer": [3.0, 0.75, 0.25], "sum_ms": 4.0,
         "end_to_end_ms": 4.2, "batch": 64, "rounds": 30, "threads": 1}  # fmt: skip


def make_brief(**changes: Any) -> Brief:
    """The brief, with sections changed."""
    data = yaml.safe_load(BRIEF)
    for name, value in changes.items():
        data[name] = {**data.get(name, {}), **value}
    return catalog.read_brief(yaml.safe_dump(data), "demand.yaml")


def make_line(root: Path, brief: Brief, task: Task) -> tuple[Workspace, Partition]:
    """Everything up to the evaluation; three days of data stages stand for all."""
    source = Demand(Demand.Params(items=ITEMS, days=DAYS, first_day=date(2024, 1, 1)))
    days = source.days()
    table = pa.concat_tables([source.read_day(day, task)[0] for day in days]).combine_chunks()
    splits = task.split(table, days[-1], brief.data.split)
    line, partition = Workspace(Home(root).prepare(), "demand"), Partition(days[-1], "base")
    window = _data(line, partition, source, days[-SHOWN:], splits)

    def train(draft: Draft) -> None:
        draft.write_json("model.json", {
            "family": {"name": "lstm_attention", "params": {}}, "parameters": 23_624, "workers": 1,
            "statistics": task.fit(table, splits == "train"), "objectives": ["quantile_and_deviance"],
        })  # fmt: skip
        draft.write_json("layers.json", LAYERS)
        draft.write_json("layers_detail.json", DETAIL)
        draft.measure(layers=TIMES)
        draft.write_json("curves.json", [
            {"epoch": epoch, "train_loss": 1 / epoch, "validation": {"loss": 1.1 / epoch, "wape": 0.3 / epoch}}
            for epoch in (1, 2)
        ])  # fmt: skip
        draft.gate(Gate("finite", True, "", blocking=True))

    settings = {"training": brief.training.model_dump(mode="json")}
    trained = line.make("trained_model", partition, train, settings=settings, parents={"training_window": window})
    rows = {split: task.rows(table, splits == split) for split in SPLITS}
    _evaluated(line, partition, task, rows, {"training_window": window, "trained_model": trained})
    return line, partition


def _data(line: Workspace, partition: Partition, source: Demand, days: list[date], splits: np.ndarray) -> Artifact:
    parents: dict[str, Artifact] = {}
    for place, day in enumerate(days):

        def arrive(draft: Draft) -> None:
            draft.write_json("source.json", {"name": "demand", **source.describe()})
            draft.gate(Gate("schema", True, "", blocking=True))
            draft.measure(megabytes=0.25)

        def validate(draft: Draft, place: int = place) -> None:
            counts = {"records": 10 + place, "clean": 9 + place, "quarantined": 1, "duplicates": 0, "unreadable": 0}
            draft.write_json("quality.json", counts)
            draft.write_json("expectations.json", [{"name": "has_demand", "success": True}])
            draft.gate(Gate("suite", True, "", blocking=True))

        raw = line.make("raw_data", Partition(day), arrive, settings={}, parents={})
        made = line.make("validated_data", Partition(day), validate, settings={}, parents={"raw_data": raw})
        parents[f"validated_data {day}"] = made
    listed = [{"day": name.split()[1], "digest": item.digest, "records": 9} for name, item in parents.items()]
    counts = {split: int((splits == split).sum()) for split in SPLITS}

    def build(draft: Draft) -> None:
        draft.write_json("window.json", {"days": listed, "splits": counts, "copies": 0})
        draft.gate(Gate("complete", True, "", blocking=True))

    return line.make("training_window", partition.daily, build, settings={}, parents=parents)


def answers(rows: Rows, apart: float, task: Task) -> np.ndarray:
    """Invented forecasts [N, 14, 8]: what came to pass, off by a share of the level, with quantiles around it."""
    rng = np.random.default_rng(7)
    level = rows.targets[:, [-1]]
    actual = np.nan_to_num(rows.targets[:, :-4], nan=0.0)
    mean = actual + apart * level * rng.standard_normal(actual.shape)
    around = np.array([0.0, -1.6, -1.3, -0.7, 0.0, 0.7, 1.3, 1.6]) * apart
    return (mean[:, :, None] + around * level[:, :, None]).astype(np.float32)


def _evaluated(
    line: Workspace, partition: Partition, task: Task, rows: dict[Any, Rows], parents: dict[str, Artifact]
) -> None:
    test, given = rows["test"], (200, 0.95, 0)
    ours = answers(test, 0.1, task)
    others = {
        "seasonal_naive": answers(test, 0.3, task),
        "ets": answers(test, 0.1, task),
        "oracle": answers(test, 0.05, task),
    }
    found = compare(task, ours, others, test.targets, *given)
    found["must_beat"] = ["seasonal_naive", "ets"]

    def build(draft: Draft) -> None:
        metrics = {
            split: with_intervals(task, answers(part, 0.1, task), part.targets, *given) for split, part in rows.items()
        }
        draft.write_json("metrics.json", metrics)
        draft.write_json("rows.json", {split: len(part) for split, part in rows.items()})
        draft.write_json("details.json", details(ours, test, task.params.quantiles, *given))  # type: ignore[attr-defined]
        draft.write_json("against.json", found)
        draft.write_json("slices.json", [])
        draft.gate(Gate("threshold_wape", True, ""))
        for gate in gates(task, found):
            draft.gate(gate)
        draft.measure(test_reads=1)

    line.make("evaluation", partition, build, settings={}, parents=parents)
