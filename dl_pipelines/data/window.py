"""`training_window`: which days' datasets a model of a date trains, validates and tests on, by digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from dl_pipelines.brief.sections import Data
from dl_pipelines.data.registry import SOURCES
from dl_pipelines.data.stages import daily_stages, stored_stage
from dl_pipelines.store.artifacts import Artifact, Draft, Gate
from dl_pipelines.store.records import read_records
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import SPLITS, Task

if TYPE_CHECKING:
    pass

STAGE = "training_window"


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
    made = {day: _current(workspace, Partition(day), task) for day in expected}
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
    parents = {f"{stored_stage(task)} {day}": artifact for day, artifact in datasets.items()}
    return workspace.make(STAGE, partition.daily, build, settings=settings, parents=parents)


@dataclass
class _Seen:
    """What lies in the datasets of a window: records of each split, copies, leaks, why it can't be trained on."""

    counts: dict[str, int]
    copies: int
    days: list[dict[str, Any]]
    leaks: list[str]
    untrainable: str | None


def _look(datasets: Mapping[date, Artifact], partition: Partition, data: Data, task: Task) -> _Seen:
    import numpy as np
    import pyarrow as pa

    parts, days = [], []
    stored = ["copy"] if "augmented_dataset" not in task.not_applicable else []
    for day, artifact in datasets.items():
        parts.append(read_records(artifact, columns=[*task.judged, *stored]))
        records = int((parts[-1]["copy"].to_numpy() == 0).sum()) if stored else parts[-1].num_rows
        days.append({"day": day.isoformat(), "digest": artifact.digest, "records": records})
    if not parts:
        return _Seen(dict.fromkeys(SPLITS, 0), 0, days, [], "no records at all")
    table = pa.concat_tables(parts).combine_chunks()
    splits = task.split(table, partition.day, data.split)
    original = table["copy"].to_numpy() == 0 if stored else np.ones(table.num_rows, bool)
    counts = {split: int(((splits == split) & original).sum()) for split in SPLITS}
    untrainable = task.untrainable(table.filter(pa.array(original)), splits[original])
    return _Seen(counts, int((~original).sum()), days, task.leaks(table, splits), untrainable)


def _no_leak(seen: _Seen) -> Gate:
    found = len(seen.leaks)
    summary = "nothing is in more than one split, and nothing tells of the future"
    if found:
        summary = f"{'; '.join(seen.leaks[:3])}" + (f" and {found - 3} more" if found > 3 else "")
    return Gate("no_leak", not found, summary, blocking=True, facts={"leaks": found})


def _complete(seen: _Seen, expected: int, missing: list[str], task: Task) -> Gate:
    problems = []
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        problems.append(f"missing or outdated {', '.join(missing[:5])}{more}: run the data stages for them")
    empty = [split for split in SPLITS if not seen.counts[split]]
    if empty:
        problems.append(f"no records in {', '.join(empty)}: more records, or other shares in data.split")
    if seen.untrainable:
        problems.append(seen.untrainable)
    summary = "; ".join([f"{len(seen.days)} of {expected} days", *problems])
    return Gate("complete", not problems, summary, blocking=True, facts={"missing": missing, "empty": empty})


def _current(workspace: Workspace, partition: Partition, task: Task) -> Artifact | None:
    """The dataset of a day; None when there is none, or when the day's records have changed since it was made.

    Raises ArtifactError when the day's newest records have no passing report: an older dataset can't stand in for them.
    """
    stages = daily_stages(task)
    found = {stage: workspace.find(stage, partition) for stage in stages}
    if (validated := found["validated_data"]) is None:
        return None
    for before, stage in pairwise(stages):
        made, parent = found[stage], found[before]
        if made is None or (parent is not None and made.parents[before] != parent.digest):
            return None
        if made is validated:
            made.require_gates()
    return found[stages[-1]]
