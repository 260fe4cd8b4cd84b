"""The stage `drift_report`: each live window against what the model was trained on: alarm, quiet or undecided.

What can drift is in features.py, from which value on it has in thresholds.py; Evidently measures and draws.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dl_pipelines.brief.sections import Data, Monitoring
from dl_pipelines.monitoring.evidently_report import Compared, measure_drift
from dl_pipelines.monitoring.features import live, reference, why_not
from dl_pipelines.monitoring.thresholds import Sample, thresholds
from dl_pipelines.store.artifacts import Artifact, Draft, Gate
from dl_pipelines.store.digest import digest_bytes
from dl_pipelines.store.records import read_records
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Task

if TYPE_CHECKING:
    import numpy as np
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
    its JSON lies beside it) and `features` (`name`, `statistic`, `value`, `threshold`, `drifted`). Under
    `min_records` it is undecided. Gates: `drift_WINDOW`. A log without records gives no window and the reason.
    Raises ArtifactError when a parent is missing or failed its gates, ValueError when its summaries are unknown.
    """
    parents = {
        "prediction_log": workspace.get("prediction_log", partition).require_gates(),
        "training_window": workspace.get("training_window", partition.daily).require_gates(),
        "compressed_model": workspace.get("compressed_model", partition).require_gates(),
    }

    def build(draft: Draft) -> None:
        stage = _Stage(workspace, partition, monitoring, data, task, parents)
        table = read_records(parents["prediction_log"])
        windows = [stage.compare(name, rows) for name, rows in _windows(table)]
        inputs, answers = stage.reference
        report = {
            "windows": windows,
            "reference": {"inputs": inputs.rows, "answers": answers.rows},
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
    def reference(self) -> tuple[Sample, Sample]:
        """Of inputs and of answers."""
        window, compressed = self.parents["training_window"], self.parents["compressed_model"]
        return reference(self.workspace, window, compressed, self.data, self.task)

    def compare(self, name: str, rows: pa.Table) -> dict[str, Any]:
        """One window of the report."""
        count, least = rows.num_rows, self.monitoring.min_records
        about = {"name": name, "records": count, "features": [], "left_out": {}, "page": None}
        if count < least:
            return {**about, "decision": "undecided", "reason": f"{count} records; at least {least} are needed"}
        self.workspace.progress(STAGE, f"comparing the window {name}, {count} records")
        compared, left_out = self._choose(live(rows, self.task), count)
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

    def _choose(self, found: Mapping[str, np.ndarray], count: int) -> tuple[list[Compared], dict[str, str]]:
        """Features with their thresholds for a window of this size; and those that can't be compared, with why."""
        samples, left_out = [], dict[str, str]()
        for sample in self.reference:
            reasons = {name: why for name, values in sample.values.items() if (why := why_not(values, found.get(name)))}
            left_out |= reasons
            kept = {name: values for name, values in sample.values.items() if name not in reasons}
            if kept:
                samples.append(Sample(kept, {name: sample.statistics[name] for name in kept}))
        if not samples:
            return [], left_out
        given = self.monitoring
        limits = thresholds(tuple(samples), count, given.false_alarms, given.resamples, given.seed)
        compared = [
            Compared(name, sample.statistics[name], round(limits[name], DIGITS), values, found[name])
            for sample in samples
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
