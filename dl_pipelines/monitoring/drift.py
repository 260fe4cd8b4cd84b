"""The stage `drift_report`: each live window against what the model was trained on: alarm, quiet or undecided.

What can drift is in features.py, from which value on it has in thresholds.py; Evidently measures and draws.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dl_pipelines.brief.live import Monitoring
from dl_pipelines.brief.sections import Data
from dl_pipelines.monitoring.evidently_report import Compared, measure_drift
from dl_pipelines.monitoring.features import INPUTS, Samples, live, reference, size_of, too_few, why_not
from dl_pipelines.monitoring.thresholds import Sample, thresholds
from dl_pipelines.store.artifacts import Artifact, Draft, Gate
from dl_pipelines.store.digest import digest_bytes
from dl_pipelines.store.records import read_records
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Task

if TYPE_CHECKING:
    import pyarrow as pa

STAGE = "drift_report"
VERSION = 1
DIGITS = 9
"""Decimals that are stored: the last bits of a sum may differ from machine to machine."""


def make_drift_report(
    workspace: Workspace, partition: Partition, monitoring: Monitoring, data: Data, task: Task
) -> Artifact:
    """`report.json`: `windows` of the prediction log with their features, and the rows of the `reference`.

    A window has `name`, `records`, `decision` (alarm, quiet, undecided), `reason`, `page` (Evidently's, below the home;
    its JSON lies beside it), `features` (`name`, `statistic`, `value`, `threshold`, `drifted`), and `clusters` where
    rows depend on each other. Under `min_records` it is undecided. Gates: `drift_WINDOW`. A log without records gives
    no window and the reason.
    Raises ArtifactError when a parent is missing or failed its gates, ValueError when its summaries are unknown.
    """
    parents = {
        "prediction_log": workspace.get("prediction_log", partition).require_gates(),
        "training_window": workspace.get("training_window", partition.daily).require_gates(),
        "compressed_model": workspace.get("compressed_model", partition).require_gates(),
    }

    def build(draft: Draft) -> None:
        stage = _Stage(workspace, partition, monitoring, data, task, parents)
        logged = read_records(parents["prediction_log"])
        table = logged.filter(logged["outputs"].is_valid())  # of others no answer and no summary was kept
        windows = [stage.compare(name, rows) for name, rows in _windows(table)]
        report = {
            "windows": windows,
            "reference": {name: sample.rows for name, sample in stage.reference.items()},
            "false_alarms": monitoring.false_alarms,
            "resamples": monitoring.resamples,
        }
        draft.write_json("report.json", report)
        for window in windows:
            draft.gate(_gate(window))
        _tell(draft, workspace, windows, parents["prediction_log"].measured.get("reason"))

    settings = monitoring.model_dump(mode="json", include={"min_records", "false_alarms", "resamples", "seed"})
    return workspace.make(STAGE, partition, build, settings=settings, parents=parents, version=VERSION)


@dataclass
class _Stage:
    """What one build of the stage works with."""

    workspace: Workspace
    partition: Partition
    monitoring: Monitoring
    data: Data
    task: Task
    parents: Mapping[str, Artifact]

    @cached_property
    def reference(self) -> Samples:
        """Of inputs, of answers, and of residuals for a task that has them."""
        window, compressed = self.parents["training_window"], self.parents["compressed_model"]
        return reference(self.workspace, window, compressed, self.data, self.task)

    def compare(self, name: str, rows: pa.Table) -> dict[str, Any]:
        """One window of the report."""
        count, least = rows.num_rows, self.monitoring.min_records
        about: dict[str, Any] = {"name": name, "records": count, "features": [], "left_out": {}, "page": None}
        if count < least:
            return {**about, "decision": "undecided", "reason": f"{count} records; at least {least} are needed"}
        self.workspace.progress(STAGE, f"comparing the window {name}, {count} records")
        found = live(rows, self.task)
        about |= self._clusters(found)
        compared, left_out = self._choose(found)
        if not compared:
            return {**about, "left_out": left_out, "decision": "undecided", "reason": "no feature can be compared"}
        page = self.workspace.home.docs / self.workspace.project / "evidently" / self.partition.slug
        page /= f"{plain_name(name)}.html"
        values = measure_drift(compared, page)
        features = [
            {
                "name": item.name,
                "statistic": item.statistic,
                "value": round(values[item.name], DIGITS),
                "threshold": item.threshold,
                "drifted": values[item.name] >= item.threshold,
            }
            for item in compared
        ]
        return {
            **about,
            **_decide(features),
            "features": features,
            "left_out": left_out,
            "page": page.relative_to(self.workspace.home.root).as_posix(),
        }

    def _clusters(self, found: Samples) -> dict[str, int]:
        """How many clusters the rows of a window are, for a task whose rows depend on each other."""
        clusters = size_of(self.reference[INPUTS], found[INPUTS]).clusters
        return {} if clusters is None else {"clusters": clusters}

    def _choose(self, found: Samples) -> tuple[list[Compared], dict[str, str]]:
        """Features with their thresholds for a window of this size; and those that can't be compared, with why."""
        pairs, left_out = list[tuple[Sample, Sample]](), dict[str, str]()
        for kind, sample in self.reference.items():
            other = found[kind]
            every = too_few(sample, other, self.monitoring.min_records)
            for name, values in sample.values.items():
                if why := every or why_not(values, other.values.get(name)):
                    left_out[name] = why
            kept = {name: values for name, values in sample.values.items() if name not in left_out}
            if kept:
                pairs.append((Sample(kept, {name: sample.statistics[name] for name in kept}, sample.clusters), other))
        if not pairs:
            return [], left_out
        given, sizes = self.monitoring, [size_of(sample, other) for sample, other in pairs]
        samples = [sample for sample, _ in pairs]
        limits = thresholds(samples, sizes, given.false_alarms, given.resamples, given.seed)
        compared = [
            Compared(name, sample.statistics[name], round(limits[name], DIGITS), values, other.values[name])
            for sample, other in pairs
            for name, values in sample.values.items()
        ]
        return compared, left_out


def plain_name(window: str) -> str:
    """A window's name for files and tables: itself where it is plain, else of its digest. Clients choose their ids."""
    return window if re.fullmatch(r"[A-Za-z0-9_-]{1,60}", window) else f"window-{digest_bytes(window.encode())[:16]}"


def _windows(table: pa.Table) -> list[tuple[str, pa.Table]]:
    import pyarrow.compute as pc

    names = sorted(set(table["window"].to_pylist()))
    return [(name, table.filter(pc.field("window") == name)) for name in names]


def _decide(features: list[dict[str, Any]]) -> dict[str, str]:
    drifted = [item["name"] for item in features if item["drifted"]]
    if drifted:
        return {"decision": "alarm", "reason": f"{', '.join(drifted)} beyond the threshold"}
    nearest = max(features, key=lambda item: item["value"] / item["threshold"])
    share = nearest["value"] / nearest["threshold"]
    told = f"{len(features)} features within their thresholds, {nearest['name']} the nearest at {share:.0%}"
    return {"decision": "quiet", "reason": told}


def _gate(window: Mapping[str, Any]) -> Gate:
    passed = {"alarm": False, "quiet": True, "undecided": None}[window["decision"]]
    drifted = [item["name"] for item in window["features"] if item["drifted"]]
    facts = {"records": window["records"], "drifted": drifted, "features": len(window["features"])}
    facts |= {name: window[name] for name in ("clusters",) if name in window}
    return Gate(f"drift_{plain_name(window['name'])}", passed, f"{window['decision']}: {window['reason']}", facts=facts)


def _tell(draft: Draft, workspace: Workspace, windows: list[dict[str, Any]], reason: str | None) -> None:
    if not windows:
        draft.measure(reason=reason or "nothing was logged")
        draft.show(reason=reason or "nothing was logged")
        return
    lines = ["| window | feature | statistic | value | threshold | |", "|---|---|---|---|---|---|"]
    for window in windows:
        name = plain_name(window["name"])
        draft.show(**{name: f"{window['decision']}: {window['reason']}"})
        if window["page"]:
            draft.show(**{f"{name}_page": str(workspace.home.root / window["page"])})
        for item in window["features"]:
            numbers = f"{item['statistic']} | {item['value']:.4f} | {item['threshold']:.4f}"
            lines.append(f"| {name} | {item['name']} | {numbers} | {'**drifted**' if item['drifted'] else ''} |")
        lines += [f"| {name} | {feature} | left out: {why} | | | |" for feature, why in window["left_out"].items()]
    draft.show(features={"md": "\n".join(lines)})
