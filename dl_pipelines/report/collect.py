"""What the report is made of, as plain data: the documents of each stage's artifact, or the reason why there is none.

Days are followed by digest from the training window down, so that a later run of a day can't slip in. A window may
have thousands: of the last one everything is read, of the others what is summed up. An artifact whose own parent is
not the one at hand is stale, and counts as missing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dl_pipelines.brief import Brief
from dl_pipelines.data.stages import DAILY, daily_stages
from dl_pipelines.report.cells import not_applicable, not_measured
from dl_pipelines.report.facts import Document, Facts, digest_of
from dl_pipelines.store.artifacts import MANIFEST, OUTCOME, Artifact
from dl_pipelines.store.digest import SHORT
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Task
from dl_pipelines.training.selected import CHOOSING

MODEL = (
    "trained_model", "baselines", "evaluation", "compressed_model", "triton_repository", "prediction_log",
    "drift_report",
)  # fmt: skip
ON_DEMAND = (*CHOOSING, "augmentation_ablation", "scaling_report", "serving_benchmark", "ab_experiment")
"""Stages that nobody misses when they have not run."""
KEPT = (*CHOOSING, "scaling_report", "serving_benchmark")
"""Those that hold for days: one of an earlier day is about the window and the choices of that day."""
STAGES = (*DAILY, "training_window", *MODEL)
OF_EVERY_DAY = ("quality.json", OUTCOME)
"""Files that are read of each day of a window, where its stage writes them."""


@dataclass(frozen=True)
class Collected:
    """The artifacts that a report stands on, and why others are missing."""

    artifacts: Mapping[str, Artifact]
    days: Mapping[str, Sequence[tuple[str, Artifact]]]
    missing: Mapping[str, str]

    @property
    def parents(self) -> dict[str, Artifact]:
        """By name, as in the report's manifest: days are the parents of the window, and named only without one."""
        daily = {f"{stage} {day}": item for stage, items in self.days.items() for day, item in items}
        return {**({} if "training_window" in self.artifacts else daily), **self.artifacts}

    @property
    def digests(self) -> dict[str, list[str]]:
        """Of each day by stage, in order."""
        return {stage: [item.digest for _, item in items] for stage, items in self.days.items()}

    def lineage(self) -> list[dict[str, Any]]:
        """What the report stands on: one line a stage, of a daily stage for all its days together."""
        daily = [
            {
                "stage": stage, "digest": digest_of([item.digest for _, item in items]), "name": stage,
                "made_at": max(item.outcome["made_at"] for _, item in items),
                "days": {"first": items[0][0], "last": items[-1][0], "count": len(items)},
            }
            for stage, items in self.days.items() if items
        ]  # fmt: skip
        others = [
            {"stage": item.stage, "digest": item.digest, "made_at": item.outcome["made_at"], "name": name}
            for name, item in self.artifacts.items()
        ]
        return daily + others


def collect(workspace: Workspace, partition: Partition, task: Task) -> Collected:
    """The artifacts of a partition. Raises ArtifactError when one is damaged."""
    artifacts: dict[str, Artifact] = {}
    missing = {stage: not_applicable(why).reason or "" for stage, why in task.not_applicable.items()}
    for stage in ("training_window", *CHOOSING, *MODEL, *(name for name in ON_DEMAND if name not in CHOOSING)):
        if stage in missing:
            continue
        found = workspace.find(stage, partition.daily if stage == "training_window" else partition)
        if found is None and stage in ON_DEMAND:
            continue
        kept = found is not None and stage in KEPT and found.settings["day"] != partition.day.isoformat()
        reason = ("" if kept else _stale(found, artifacts, missing)) if found else f"{stage} has not run"
        if found is None or reason:
            missing[stage] = not_measured(reason).reason or ""
        else:
            artifacts[stage] = found
    days = _days(workspace, partition, artifacts.get("training_window"), task)
    for stage in DAILY:
        if not days[stage] and stage not in missing:
            missing[stage] = not_measured(f"{stage} has not run").reason or ""
    return Collected(artifacts, days, missing)


def _stale(found: Artifact, artifacts: Mapping[str, Artifact], missing: Mapping[str, str]) -> str:
    """Why an artifact can't be reported beside the others, or nothing."""
    for name, digest in found.parents.items():
        if name in missing:
            return f"{found.stage} {found.short} is about {name} {digest[:SHORT]}, which is not at hand"
        if name in artifacts and artifacts[name].digest != digest:
            return (
                f"{found.stage} {found.short} is about another {name} ({digest[:SHORT]}, now {artifacts[name].short}); "
                f"run {found.stage} again"
            )
    return ""


def _days(
    workspace: Workspace, partition: Partition, window: Artifact | None, task: Task
) -> dict[str, list[tuple[str, Artifact]]]:
    stages = daily_stages(task)
    days: dict[str, list[tuple[str, Artifact]]] = {stage: [] for stage in DAILY}
    if window is None:
        for stage in stages:
            found = workspace.find(stage, partition.daily)
            days[stage] += [(partition.day.isoformat(), found)] if found else []
        return days
    for item in window.read_json("window.json")["days"]:
        digest = item["digest"]
        for stage, before in zip(reversed(stages), (*reversed(stages[:-1]), None), strict=True):
            found = workspace.by_digest(stage, digest)
            days[stage].append((item["day"], found))
            digest = found.parents[before] if before else ""
    return days


def read(
    collected: Collected, partition: Partition, brief: Brief, task: Task, own: Mapping[str, Any] | None = None
) -> Facts:
    """The plain data of what was collected; each file is checked against its sha256. Raises ArtifactError."""
    return Facts(
        partition=partition.key,
        brief=brief.model_dump(mode="json"),
        documents={stage: document(found) for stage, found in collected.artifacts.items()},
        days={
            stage: [
                *(document(found, day, OF_EVERY_DAY) for day, found in items[:-1]),
                *(document(found, day) for day, found in items[-1:]),
            ]
            for stage, items in collected.days.items()
        },
        missing=collected.missing,
        metrics=task.metrics,
        primary=task.primary,
        own=own or {},
    )


def document(artifact: Artifact, day: str = "", wanted: Collection[str] | None = None) -> Document:
    """Every JSON file of an artifact (the `wanted` ones), SVG as text, `{"size": bytes}` for the others.

    Raises ArtifactError when one is damaged.
    """
    names = [name for name in artifact.files if wanted is None or name in wanted]
    files = {name: artifact.read_json(name) for name in names if name.endswith(".json")}
    files |= {name: artifact.read_text(name) for name in names if name.endswith(".svg")}
    if wanted is None:
        from dl_pipelines.store import durable

        files[MANIFEST] = durable.read_json(artifact.path / MANIFEST)
    sizes = {name: {"size": artifact.file(name).stat().st_size} for name in names if name not in files}
    return Document(artifact.stage, artifact.digest, {**sizes, **files, OUTCOME: artifact.outcome}, day)
