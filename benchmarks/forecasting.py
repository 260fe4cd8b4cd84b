"""Forecasting on simulated demand: errors against an oracle, baselines and a library; training time; latency.

`line` runs `briefs/demand.yaml` once, with one client in the load test, and reads the artifacts. `library` gives the
same window to neuralforecast's LSTM (forecast_peer.py): as many training windows as ours saw, on the same cores.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks import forecast_data
from benchmarks.command import ROOT, dlp
from benchmarks.contract import Comparison, against_limit, main, paired
from benchmarks.forecast_training import Peer, train_ours, write_job

BRIEF = ROOT / "briefs" / "demand.yaml"
PAIRS = 5
HISTORY = 56
"""Days that the peer sees: its best on validation rows. One peer for error and time; with as few as ours sees it is
faster and worse (`peer_at_our_history`, docs/log.md)."""
LIMITS = {"mape": 0.05, "oracle": 0.77, "naive": 1.1, "boosting": 1.0, "training": 180, "latency": 10}
SIMULATED = {"data": "simulated demand", "rows": "test"}


@dataclass(frozen=True)
class Line:
    """A finished run: its brief, its task and its artifacts by stage."""

    brief: Any
    task: Any
    workspace: Any
    artifacts: dict[str, Any]

    @functools.cached_property
    def window(self) -> tuple[Any, Any]:
        """Records of the window, and the split of each."""
        from dl_pipelines.data.batches import splits_of, window_table

        window = self.artifacts["training_window"]
        table = window_table(self.workspace, window, self.task)
        return table, splits_of(window, table, self.brief.data, self.task)

    def rows(self, split: str) -> Any:
        """Rows of a split, those to train on if it is that."""
        table, splits = self.window
        return self.task.rows(table, splits == split, training=split == "train")


@functools.cache
def run_line(folder: Path) -> Line:
    """The brief's line in a new home, asked by one client in the load test."""
    from dl_pipelines import catalog
    from dl_pipelines.store.artifacts import Artifact
    from dl_pipelines.store.home import Home
    from dl_pipelines.store.workspace import Workspace

    plain = yaml.safe_load(BRIEF.read_text())
    plain["serving"] = {**plain.get("serving", {}), "load_clients": 1}
    path = folder / BRIEF.name
    path.write_text(yaml.safe_dump(plain))
    _, run = dlp(folder / "home", path)
    brief = catalog.load_brief(path)
    artifacts = {stage["asset"]: Artifact.open(Path(stage["artifact"])) for stage in run["stages"]}
    return Line(brief, catalog.task_of(brief), Workspace(Home(folder / "home"), brief.project), artifacts)


def line(folder: Path) -> Iterator[Comparison]:
    """What the line's own artifacts say."""
    made = run_line(folder)
    served = made.artifacts["triton_repository"].measured
    yield served_error(served["metrics"]["test"]["mape"], origins(made.rows("test")))
    against = made.artifacts["evaluation"].read_json("against.json")["rows"]
    yield error_ratio(made, against, "oracle", "oracle", "mape", LIMITS["oracle"])
    yield error_ratio(made, against, "naive", "seasonal_naive", "wape", LIMITS["naive"])
    yield error_ratio(made, against, "boosting", "boosting", "wape", LIMITS["boosting"])
    model, panel = made.artifacts["trained_model"], made.task.panel(made.window[0])
    yield against_limit(
        "forecasting.training", model.outcome["seconds"], LIMITS["training"], "s", workers=model.measured["workers"],
        in_workers=model.measured["seconds"], windows=len(made.rows("train")), epochs=made.brief.training.epochs,
        cores=cores(), items=len(panel.items), days=len(panel.days),
    )  # fmt: skip
    load = served["latency"]
    yield against_limit("forecasting.latency", load["p95_ms"], LIMITS["latency"], "ms", p50=load["p50_ms"],
                        requests=load["requests"], clients=load["clients"], rows="one item a request")  # fmt: skip


def library(folder: Path) -> Iterator[Comparison]:
    """The library's LSTM after as many training windows as ours: error, then seconds for one epoch of ours."""
    from dl_pipelines.evaluation.against import compare
    from dl_pipelines.evaluation.evaluate import answer
    from dl_pipelines.models.restore import load_served

    made, place = run_line(folder), folder / "peer"
    rows, train, task = made.rows("test"), made.rows("train"), made.task
    table, splits = made.window
    panel = task.panel(table, splits == "train")
    forecast_data.write(place, task, panel, rows, threads=cores())
    epoch = len(train)
    with Peer(place) as peer:
        full = peer.train(made.brief.training.epochs * epoch, HISTORY)
        forecasts = forecast_data.outputs(peer.forecast(), rows, panel.items, len(task.params.quantiles))
        ours = answer(load_served(made.artifacts["trained_model"], task), rows.inputs)
        given = made.brief.evaluation
        found = compare(task, ours, {"library": forecasts}, rows.targets, given.resamples, given.confidence, given.seed)
        settings = {"library": peer.version, "windows": full["windows"], "history": HISTORY, "cores": cores()}
        yield error_ratio(made, found["rows"], "library_error", "library", "wape", 1.0, **settings)
        job = write_job(
            folder / "job", made.brief, task, train, made.rows("validation"), task.fit(table, splits == "train")
        )
        mine, theirs = [], []
        for _ in range(PAIRS):
            mine.append(train_ours(job))
            theirs.append(peer.train(epoch, HISTORY)["seconds"])
        shorter = round(peer.train(epoch, task.params.history)["seconds"], 2)
    whole = {"ours": made.artifacts["trained_model"].measured["seconds"], "peer": round(full["seconds"], 1)}
    yield paired("forecasting.library_time", mine, theirs, "s", limit=2, timed="one epoch of ours, as many windows",
                 windows_each=epoch, whole_training=whole, library=peer.version, history=HISTORY,
                 peer_at_our_history=shorter, cores=cores())  # fmt: skip


def served_error(found: dict[str, float], pairs: int) -> Comparison:
    """MAPE of the total, through the live server."""
    limit = LIMITS["mape"]
    interval = (round(limit / found["high"], 3), round(limit / found["low"], 3))
    return Comparison("forecasting.mape", round(found["value"], 4), None, "share", round(limit / found["value"], 3),
                      interval, pairs, {"limit": limit, "model": "served", **SIMULATED})  # fmt: skip


def error_ratio(
    made: Line, against: list[dict[str, Any]], name: str, baseline: str, metric: str, limit: float, **conditions: Any
) -> Comparison:
    """Their error by ours with its interval from paired resamples of origins, whose number is `pairs`."""
    rows = {row["metric"]: row for row in against if row["baseline"] == baseline}
    row, other = rows[metric], "wape" if metric == "mape" else "mape"
    also = {who: round(rows[other][who]["value"], 4) for who in ("ours", "theirs")}
    ratio = row["ratio"]
    return Comparison(
        f"forecasting.{name}",
        round(row["ours"]["value"], 4),
        round(row["theirs"]["value"], 4),
        "share",
        round(ratio["value"], 3),
        (round(ratio["low"], 3), round(ratio["high"], 3)),
        origins(made.rows("test")),
        {"limit": limit, "metric": metric, "model": "trained", other: also, **SIMULATED, **conditions},
    )


def origins(rows: Any) -> int:
    """How many there are in rows: what is resampled."""
    from dl_pipelines.tasks.series import ORIGIN

    return len(set(rows.targets[:, ORIGIN].tolist()))


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as scratch:
        parts = {name: functools.partial(part, Path(scratch)) for name, part in (("line", line), ("library", library))}
        main(parts, __doc__ or "")
