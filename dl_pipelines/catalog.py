"""Everything a brief may name, and the checks that need to know it; the one place that knows every registry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dl_pipelines import brief as frame
from dl_pipelines.brief.errors import closest
from dl_pipelines.brief.registry import Kind
from dl_pipelines.brief.targets import MEASURED_ON, SYSTEM_METRICS
from dl_pipelines.tasks.base import Task

TASKS = Kind("task", {"image_classification": "dl_pipelines.tasks.image_classification:ImageClassification"})
SOURCES = Kind(
    "source",
    {
        "digits": "dl_pipelines.data.sources.digits:Digits",
        "image_folder": "dl_pipelines.data.sources.image_folder:ImageFolder",
    },
)
FAMILIES = Kind("family", {"cnn": "dl_pipelines.models.cnn:Cnn"})
AUGMENTATIONS = Kind(
    "augmentation",
    {
        "rotation": "dl_pipelines.data.augmentations:Rotation",
        "translation": "dl_pipelines.data.augmentations:Translation",
        "noise": "dl_pipelines.data.augmentations:Noise",
        "brightness": "dl_pipelines.data.augmentations:Brightness",
    },
)
TECHNIQUES = Kind("technique", {"static_int8": "dl_pipelines.compression.static_int8:StaticInt8"})
TRAFFIC = Kind(
    "traffic",
    {
        "clients": "dl_pipelines.monitoring.traffic:Clients",
        "replay": "dl_pipelines.monitoring.traffic:Replay",
    },
)

KINDS: Mapping[str, Kind] = {kind.kind: kind for kind in (TASKS, SOURCES, FAMILIES, AUGMENTATIONS, TECHNIQUES, TRAFFIC)}


def task_of(brief: frame.Brief) -> Task:
    """The task that a brief is about."""
    return TASKS.make(brief.problem.task)


def load_brief(path: Path) -> frame.Brief:
    """Read and check a brief file. Raises BriefError with every problem found."""
    return frame.load_brief(path, KINDS, CHECKS)


def read_brief(text: str, source: str) -> frame.Brief:
    """Check a brief given as YAML text. Raises BriefError."""
    return frame.read_brief(text, source, KINDS, CHECKS)


def with_overrides(brief: frame.Brief, overrides: Mapping[str, Any]) -> frame.Brief:
    """A brief with dotted paths replaced, checked again. Raises BriefError."""
    return frame.with_overrides(brief, overrides, KINDS, CHECKS)


def check_targets(brief: frame.Brief) -> Iterator[frame.Problem]:
    """Every target and threshold names a metric that the task or the system has, where it can be measured."""
    task = task_of(brief)
    known = sorted([*task.metrics, *SYSTEM_METRICS])
    for position, target in enumerate(brief.problem.targets):
        path = f"problem.targets[{position}]"
        if target.metric not in known:
            yield frame.Problem(f"{path}.metric", f"one of {', '.join(known)}", repr(target.metric),
                                closest=closest(target.metric, known))  # fmt: skip
        elif target.metric in MEASURED_ON and target.where not in MEASURED_ON[target.metric]:
            where = ", ".join(MEASURED_ON[target.metric])
            yield frame.Problem(f"{path}.where", f"one of {where} for {target.metric}", repr(target.where))
        elif target.slice is not None and target.metric in SYSTEM_METRICS:
            yield frame.Problem(f"{path}.slice", "no slice for a metric of the system", repr(target.slice))
    for metric in brief.evaluation.thresholds:
        if metric not in task.metrics:
            yield frame.Problem(f"evaluation.thresholds.{metric}", f"one of {', '.join(sorted(task.metrics))}",
                                repr(metric), closest=closest(metric, task.metrics))  # fmt: skip


def check_retraining(brief: frame.Brief) -> Iterator[frame.Problem]:
    """A replayed live window is large enough for the drift gate to decide."""
    if brief.monitoring.min_records < 200 and brief.monitoring.false_alarms < 0.005:
        yield frame.Problem(
            "monitoring.min_records", "at least 200 records for a false alarm rate below 0.5 %",
            str(brief.monitoring.min_records))  # fmt: skip


CHECKS = (check_targets, check_retraining)
