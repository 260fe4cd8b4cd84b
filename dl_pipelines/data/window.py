"""`training_window`: which days' datasets a model of a date trains, validates and tests on, by digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from dl_pipelines.brief.sections import Data
from dl_pipelines.data.cleaning import field_of
from dl_pipelines.data.registry import SOURCES
from dl_pipelines.store.artifacts import Artifact, Draft, Gate
from dl_pipelines.store.records import read_records
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import SPLITS, Task

if TYPE_CHECKING:
    import numpy as np

STAGE = "training_window"
STORED = "augmented_dataset"


def window_days(days: list[date], as_of: date, length: int | None) -> list[date]:
    """Days up to and with `as_of`, at most `length` calendar days back (None: all history)."""
    first = as_of - timedelta(days=length - 1) if length else date.min
    return [day for day in sorted(days) if first <= day <= as_of]


def make_training_window(workspace: Workspace, partition: Partition, data: Data, task: Task) -> Artifact:
    """`window.json`: days with the digests of their augmented datasets, and records of each split.

    A day whose dataset is missing, or older than its records, makes the window incomplete.
    Raises SourceError when the source can't be read, ArtifactError when a day's records or dataset have no passing
    report, StageSkipped on a day without records.
    """
    source = SOURCES.make(data.source)
    source.require_day(partition.day, data.start)
    expected = window_days(source.days(data.start), partition.day, data.window_days)
    made = {day: _current(workspace, Partition(day)) for day in expected}
    datasets = {day: artifact.require_gates() for day, artifact in made.items() if artifact is not None}
    missing = [day.isoformat() for day in expected if day not in datasets]

    def build(draft: Draft) -> None:
        seen = _look(datasets, partition, data, task)
        as_of = partition.day.isoformat()
        draft.write_json(
            "window.json", {"as_of": as_of, "days": seen.days, "splits": seen.counts, "copies": seen.copies}
        )
        draft.gate(_no_leak(seen))
        draft.gate(_complete(seen, len(expected), missing, task))
        splits = {f"{split}_records": seen.counts[split] for split in SPLITS}
        draft.show(days=len(seen.days), **splits, copies=seen.copies)

    settings = {"window_days": data.window_days, "split": data.split.model_dump(mode="json"), "missing": missing}
    parents = {f"augmented_dataset {day}": artifact for day, artifact in datasets.items()}
    return workspace.make(STAGE, partition.daily, build, settings=settings, parents=parents)


@dataclass
class _Seen:
    """What lies in the datasets of a window: groups and contents of each split, records, targets that train."""

    kept: dict[str, set[str]] = field(default_factory=lambda: {split: set() for split in SPLITS})
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    copies: int = 0
    days: list[dict[str, Any]] = field(default_factory=list)
    targets: list[np.ndarray] = field(default_factory=list)


def _look(datasets: Mapping[date, Artifact], partition: Partition, data: Data, task: Task) -> _Seen:
    seen, target = _Seen(), field_of(task, "target").name
    for day, artifact in datasets.items():
        table = read_records(artifact, columns=["id", "group", "event_time", "copy", "sha256", target])
        splits, original = task.split(table, partition.day, data.split), table["copy"].to_numpy() == 0
        names = [table[name].to_numpy(zero_copy_only=False) for name in ("group", "sha256")]
        for split in SPLITS:
            seen.kept[split].update(*(column[splits == split] for column in names))
            seen.counts[split] += int(((splits == split) & original).sum())
        seen.copies += int((~original).sum())
        seen.targets.append(table[target].to_numpy()[(splits == "train") & original])
        seen.days.append({"day": day.isoformat(), "digest": artifact.digest, "records": int(original.sum())})
    return seen


def _no_leak(seen: _Seen) -> Gate:
    train, validation, test = (seen.kept[split] for split in SPLITS)
    shared = sorted((train & validation) | (train & test) | (validation & test))
    summary = f"{len(shared)} groups or contents are in more than one split"
    if shared:
        summary += f" ({', '.join(shared[:3])}): run validated_data of every day again, the earliest first"
    return Gate("no_leak", not shared, summary, blocking=True, facts={"shared": len(shared)})


def _complete(seen: _Seen, expected: int, missing: list[str], task: Task) -> Gate:
    import numpy as np

    problems = []
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        problems.append(f"missing or outdated {', '.join(missing[:5])}{more}: run the data stages for them")
    empty = [split for split in SPLITS if not seen.counts[split]]
    if empty:
        problems.append(f"no records in {', '.join(empty)}: more records, or other shares in data.split")
    untrainable = task.untrainable(np.concatenate(seen.targets)) if seen.targets else "no records at all"
    if untrainable:
        problems.append(untrainable)
    summary = "; ".join([f"{len(seen.days)} of {expected} days", *problems])
    return Gate("complete", not problems, summary, blocking=True, facts={"missing": missing, "empty": empty})


def _current(workspace: Workspace, partition: Partition) -> Artifact | None:
    """The dataset of a day; None when there is none, or when the day's records have changed since it was made.

    Raises ArtifactError when the day's newest records have no passing report: an older dataset can't stand in for them.
    """
    newest = {stage: workspace.find(stage, partition) for stage in ("raw_data", "validated_data", STORED)}
    raw, validated, dataset = newest.values()
    if validated is None:
        return None
    if raw is not None and validated.parents["raw_data"] != raw.digest:
        return None
    validated.require_gates()
    return dataset if dataset and dataset.parents["validated_data"] == validated.digest else None
