"""`dlp demo ab`: a champion and two challengers of the digits, tried on simulated live traffic by a real server.

The brief is demos/ab.yaml; what a day changes in it is here. The traffic is simulated: held-back digits, drawn with
replacement, turned and noisy, each with an id and a label that comes a batch later. Everything else is real.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console

from dl_pipelines.cli.ab_status import evidence, page, status
from dl_pipelines.store import durable

if TYPE_CHECKING:
    from dl_pipelines.brief import Brief
    from dl_pipelines.lifecycle.experiment import Rules
    from dl_pipelines.store.home import Home
    from dl_pipelines.store.workspace import Workspace
    from dl_pipelines.tasks.base import Rows, Task

BRIEF = Path(__file__).parent / "demos" / "ab.yaml"
BATCH, MOST = 400, 60
"""Requests between two looks, and looks after which the demo gives up on an experiment."""
SEED = 6
SHIFT = (
    {"name": "rotation", "params": {"degrees": 20}},
    {"name": "noise", "params": {"std": 45}},
)
"""What lies between a held-back record and a live request."""


@dataclass(frozen=True)
class Day:
    """One day's model: what is changed in the brief, what it is, and how its experiment ends on an idle machine."""

    day: date
    told: str
    changed: Mapping[str, Mapping[str, Any]]
    ends: str = ""


DAYS = (
    Day(date(2026, 1, 1), "the champion: a narrow network that has seen turned and noisy digits", {}),
    Day(
        date(2026, 1, 2),
        "a challenger that is better on held-out rows, but never saw turned and noisy digits",
        {"data": {"augmentation": {}}, "training": {"epochs": 12}},
        "rolled back",
    ),
    Day(
        date(2026, 1, 3),
        "a challenger with a wider network that has seen them",
        {"architecture": {"family": {"name": "cnn", "params": {"width": 24}}}, "training": {"epochs": 10}},
        "promoted",
    ),
)


def brief_of(day: Day) -> Brief:
    """The demo's brief as it is on a day."""
    from dl_pipelines import catalog

    data = yaml.safe_load(BRIEF.read_text(encoding="utf-8"))
    for name, fields in day.changed.items():
        data[name] = {**data[name], **fields}
    return catalog.read_brief(yaml.safe_dump(data), BRIEF.name)


def run_demo(home: Home, screen: Console) -> dict[str, Any]:
    """Train, serve, try, decide; what came out, as plain data. Raises ValueError when a stage failed."""
    from dl_pipelines import catalog
    from dl_pipelines.lifecycle.experiment import Rules
    from dl_pipelines.serving.server import running
    from dl_pipelines.store.database import Database
    from dl_pipelines.store.workspace import Workspace

    began = time.monotonic()
    workspace = Workspace(home, brief_of(DAYS[0]).project)
    Database.claim(home, workspace.project)
    with running(home):
        for day in DAYS:
            brief = brief_of(day)
            task = catalog.task_of(brief)
            screen.print(f"\n{day.day}: {day.told}", markup=False)
            _train(home, brief, day, screen)
            traffic = Traffic.of(workspace, brief, task, day.day.isoformat())
            _try(workspace, Rules.of(brief, task), traffic, screen)
        for day in DAYS[1:]:
            _train(home, brief_of(day), day, screen)  # the report tells what came of it
    found = status(workspace)
    path = home.reports / workspace.project / "experiments.html"
    durable.write_text(path, page(found, simulated=True))
    _tell(workspace, found, path, screen)
    surprises = unexpected(found["experiments"])
    for told in surprises:
        screen.print(told, style="yellow", markup=False)
    return {
        "experiments": [
            {name: item[name] for name in ("challenger", "champion", "state", "stage")}
            | {"looks": len(item["looks"]), "reason": item["rows"][-1]["reason"]}
            for item in found["experiments"]
        ],
        "unexpected": surprises,
        "plots": str(path),
        "reports": str(home.reports / workspace.project),
        "seconds": round(time.monotonic() - began, 1),
    }


def _train(home: Home, brief: Brief, day: Day, screen: Console) -> None:
    from dl_pipelines.cli.run import line, snapshot
    from resources.workspaces import Nobody

    snapshot(home, brief)
    started = time.monotonic()
    with line(home, brief, Nobody(), [], False) as ready:
        ran = ready.run(day.day)
    if ran.failures:
        raise ValueError(f"found that {ran.failures[0].stage} failed ({ran.failures[0].message}); expected a model")
    made = any(end.made for end in ran.stages if end.stage == "trained_model")
    what = "trained, compressed, published" if made else "reported anew"
    screen.print(f"  {what} in {time.monotonic() - started:.0f} s", markup=False)


@dataclass
class Traffic:
    """Simulated clients of one day: `send` asks the router, `label` tells what the requests before the last were."""

    workspace: Workspace
    task: Task
    rows: Rows
    seed: int
    day: str
    sent: int = 0
    unlabelled: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, workspace: Workspace, brief: Brief, task: Task, day: str) -> Traffic:
        """Of the source's held-back records."""
        from dl_pipelines.data.registry import SOURCES

        held_back = brief.data.source.params.get("live_records", 500)
        rows = SOURCES.make(brief.data.source).live_rows(0, held_back, task)
        seed = SEED + date.fromisoformat(day).toordinal()
        return cls(workspace, task, rows, seed, day, _sent_before(workspace, day))

    def send(self, count: int) -> None:
        """Draw so many records, turn them, ask the router for each; the labels of the batch before come now."""
        import numpy as np

        from dl_pipelines.brief.references import AugmentationRef
        from dl_pipelines.data.augmentation import variants
        from dl_pipelines.serving.client import predict
        from dl_pipelines.serving.labels import add_labels

        chosen = self.rows.take(np.random.default_rng(self.seed + self.sent).integers(0, len(self.rows), count))
        ids = [f"simulated-{self.day}-{self.sent + number}" for number in range(count)]
        transforms = [AugmentationRef.model_validate(item) for item in SHIFT]
        inputs, _ = variants(chosen.inputs, chosen.targets, ids, transforms, self.seed, 0)
        predict(self.workspace, self.task, inputs, ids)
        add_labels(self.workspace, dict(self.unlabelled or {}))
        self.unlabelled = dict(zip(ids, self.task.labels_of(chosen.targets), strict=True))
        self.sent += count


def _sent_before(workspace: Workspace, day: str) -> int:
    """Where the ids of a demo that was interrupted end: an id counts once."""
    import sqlalchemy as sa

    from dl_pipelines.serving.carry import carry_log
    from dl_pipelines.store.database import Database
    from dl_pipelines.store.tables import predictions as table

    carry_log(workspace)
    query = sa.select(sa.func.count()).where(table.c.request_id.startswith(f"simulated-{day}-"))
    with contextlib.closing(Database.of(workspace.home, workspace.project)) as database, database.begin() as connection:
        return -(-connection.execute(query).scalar_one() // BATCH) * BATCH


def _try(workspace: Workspace, rules: Rules, traffic: Traffic, screen: Console) -> None:
    """Send traffic until the challenger's experiment has ended; the sensor's own code looks after each batch."""
    from dl_pipelines.lifecycle import ledger
    from dl_pipelines.lifecycle.experiment import due, step

    def look(say: Callable[[str], None]) -> None:
        if due(workspace, rules, time.time()).needed:
            for told in step(workspace, rules, time.time()):
                say(told)

    def say(told: str) -> None:
        screen.print(f"  {traffic.sent:>6,} requests: {told}", markup=False)

    look(say)
    for _ in range(MOST):
        if ledger.running(workspace) is None:
            return
        traffic.send(BATCH)
        look(say)
    say("no decision yet; the experiment goes on with the next traffic")


def unexpected(experiments: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each day's challenger whose experiment has not ended as it does on an idle machine."""
    states = {item["partition"].partition("|")[0]: item for item in experiments}
    found = [(day, states.get(day.day.isoformat())) for day in DAYS if day.ends]
    return [
        f"not as on an idle machine: the challenger of {day.day} is {item['state']}, not {day.ends} "
        f"({item['rows'][-1]['reason']}). Clients, server and all else here share {os.cpu_count()} cores (load "
        f"{os.getloadavg()[0]:.1f}), and what is slow or late counts; try again with another --home when it is idle"
        for day, item in found
        if item and item["state"] != day.ends
    ]


def _tell(workspace: Workspace, found: Mapping[str, Any], path: Path, screen: Console) -> None:
    from dl_pipelines.serving.champion import ledger

    for item in found["experiments"]:
        screen.print(
            f"\n{item['challenger']} against {item['champion']}: {item['state']} (simulated traffic)", markup=False
        )
        for part in evidence(item):
            screen.print(part)
    screen.print("\nWhat served when (simulated traffic; `dlp served` tells the same):", markup=False)
    for row in ledger(workspace):
        if row["event"] != "published":
            at = row["at"][:19].replace("T", " ")
            screen.print(f"{at} {row['event']:<10} {row['model']} by {row['actor']}: {row['reason']}", markup=False)
    screen.print(f"plots: {path}\nreports: {path.parent}\nmore: dlp ab status {workspace.project} --home "
                 f"{workspace.home.root}", markup=False)  # fmt: skip
