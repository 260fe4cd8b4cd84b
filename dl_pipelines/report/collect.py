"""What the report is made of, as plain data: the documents of each stage's artifact, or the reason why there is none.

Days are followed by digest from the training window down, so that a later run of a day can't slip in. An artifact
whose own parent is not the one at hand is stale, and counts as missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dl_pipelines.brief import Brief
from dl_pipelines.report.cells import Cell, Found, Source, not_applicable, not_measured
from dl_pipelines.store.artifacts import MANIFEST, OUTCOME, Artifact, ArtifactError
from dl_pipelines.store.digest import SHORT, digest_json
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Metric, Task

BRIEF, LIBRARY, REPORT = "brief", "library", "implementation_report"
DAILY = ("raw_data", "validated_data", "augmented_dataset")
MODEL = (
    "trained_model", "evaluation", "compressed_model", "triton_repository", "prediction_log", "drift_report",
)  # fmt: skip
STAGES = (*DAILY, "training_window", *MODEL)


@dataclass(frozen=True)
class Document:
    """One artifact as plain data: every JSON file by name, `manifest.json` and `outcome.json` among them."""

    stage: str
    digest: str
    files: Mapping[str, Any]
    day: str = ""

    @property
    def short(self) -> str:
        """The first digits of the digest."""
        return self.digest[:SHORT]


@dataclass(frozen=True)
class Facts:
    """All that sections read. `days`: the documents of a daily stage by day; `own`: files of the report itself."""

    partition: str
    brief: Mapping[str, Any]
    documents: Mapping[str, Document]
    days: Mapping[str, Sequence[Document]]
    missing: Mapping[str, str]
    metrics: Mapping[str, Metric]
    primary: str
    own: Mapping[str, Any] = field(default_factory=dict)

    @property
    def brief_digest(self) -> str:
        """Of the brief as this experiment sees it."""
        return digest_json(self.brief)

    def find(self, stage: str, field: str) -> Found | Cell:
        """The value at `file#/json/pointer` of a stage's artifact, or a cell with the reason why there is none."""
        if stage in self.missing:
            return Cell(reason=self.missing[stage])
        if stage == BRIEF:
            return _at(BRIEF, self.brief_digest, {"brief.json": self.brief}, field)
        if stage == REPORT:
            return _at(REPORT, "", self.own, field)
        found = self.documents.get(stage) or (self.days.get(stage) or [None])[-1]
        if found is None:
            return not_measured(f"{stage} has not run")
        return _at(stage, found.digest, found.files, field)

    def each_day(self, stage: str, field: str) -> list[Found]:
        """The value of every day of the window; none when the stage is missing."""
        found = [_at(stage, item.digest, item.files, field) for item in self.days.get(stage, ())]
        return [item for item in found if isinstance(item, Found)]

    def of_brief(self, *keys: str | int) -> Found:
        """A value of the brief. Raises KeyError."""
        value: Any = self.brief
        for key in keys:
            value = value[key]
        return Found(value, source(BRIEF, self.brief_digest, "brief.json" + pointer(*keys)))

    def metric(self, template: str) -> Metric | None:
        """The task's metric that a row of the template is about."""
        return next((metric for metric in self.metrics.values() if metric.template == template), None)


def source(stage: str, digest: str, field: str) -> Source:
    """Where a value was read."""
    return {"stage": stage, "digest": digest, "field": field}


def library(module: str) -> Source:
    """What the code does, whatever the brief says: the module that does it."""
    from dl_pipelines import __version__

    return source(LIBRARY, __version__, f"dl_pipelines.{module}")


def pointer(*keys: str | int) -> str:
    """`#/a/0/b`: a JSON pointer (RFC 6901) as a fragment."""
    return "#" + "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in keys)


def follow(value: Any, fragment: str) -> Any:
    """The value at a JSON pointer. Raises KeyError, IndexError, TypeError, ValueError."""
    for part in fragment.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def _at(stage: str, digest: str, files: Mapping[str, Any], field: str) -> Found | Cell:
    name, _, fragment = field.partition("#")
    if name not in files:
        return not_measured(f"{stage} wrote no {name}")
    try:
        value = follow(files[name], fragment)
    except (KeyError, IndexError, TypeError, ValueError):
        return not_measured(f"{stage} did not measure {fragment.strip('/').replace('/', ' ')}")
    if value is None:
        return not_measured(f"{stage} could not measure {fragment.strip('/').replace('/', ' ')}")
    return Found(value, source(stage, digest, field))


@dataclass(frozen=True)
class Collected:
    """The artifacts that a report stands on, and why others are missing."""

    artifacts: Mapping[str, Artifact]
    days: Mapping[str, Sequence[tuple[str, Artifact]]]
    missing: Mapping[str, str]

    @property
    def parents(self) -> dict[str, Artifact]:
        """By name, as in the report's manifest."""
        daily = {f"{stage} {day}": item for stage, items in self.days.items() for day, item in items}
        return {**daily, **self.artifacts}


def collect(workspace: Workspace, partition: Partition, task: Task) -> Collected:
    """The artifacts of a partition. Raises ArtifactError when one is damaged."""
    artifacts: dict[str, Artifact] = {}
    missing = {stage: not_applicable(why).reason or "" for stage, why in task.not_applicable.items()}
    for stage in ("training_window", *MODEL):
        if stage in missing:
            continue
        found = workspace.find(stage, partition.daily if stage == "training_window" else partition)
        reason = _stale(found, artifacts, missing) if found else f"{stage} has not run"
        if found is None or reason:
            missing[stage] = not_measured(reason).reason or ""
        else:
            artifacts[stage] = found
    days = _days(workspace, partition, artifacts.get("training_window"))
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


def _days(workspace: Workspace, partition: Partition, window: Artifact | None) -> dict[str, list[tuple[str, Artifact]]]:
    days: dict[str, list[tuple[str, Artifact]]] = {stage: [] for stage in DAILY}
    if window is None:
        for stage in DAILY:
            found = workspace.find(stage, partition.daily)
            days[stage] += [(partition.day.isoformat(), found)] if found else []
        return days
    for item in window.read_json("window.json")["days"]:
        augmented = workspace.by_digest("augmented_dataset", item["digest"])
        validated = workspace.by_digest("validated_data", augmented.parents["validated_data"])
        raw = workspace.by_digest("raw_data", validated.parents["raw_data"])
        for stage, found in zip(DAILY, (raw, validated, augmented), strict=True):
            days[stage].append((item["day"], found))
    return days


def read(
    collected: Collected, partition: Partition, brief: Brief, task: Task, own: Mapping[str, Any] | None = None
) -> Facts:
    """The plain data of what was collected; each file is checked against its sha256. Raises ArtifactError."""
    return Facts(
        partition=partition.key,
        brief=brief.model_dump(mode="json"),
        documents={stage: document(found) for stage, found in collected.artifacts.items()},
        days={stage: [document(found, day) for day, found in items] for stage, items in collected.days.items()},
        missing=collected.missing,
        metrics=task.metrics,
        primary=task.primary,
        own=own or {},
    )


def document(artifact: Artifact, day: str = "") -> Document:
    """Every JSON file of an artifact, `{"size": bytes}` for the others. Raises ArtifactError when one is damaged."""
    from dl_pipelines.store import durable

    files = {name: artifact.read_json(name) for name in artifact.files if name.endswith(".json")}
    try:
        about = {name: durable.read_json(artifact.path / name) for name in (MANIFEST, OUTCOME)}
    except OSError as error:
        raise ArtifactError(
            f"found no {OUTCOME} in {artifact.stage} {artifact.short}; expected a finished artifact; remove "
            f"{artifact.path} and run {artifact.stage} again"
        ) from error
    sizes = {name: {"size": artifact.file(name).stat().st_size} for name in artifact.files if name not in files}
    return Document(artifact.stage, artifact.digest, {**files, **sizes, **about}, day)
