"""`training_window`: which days' datasets a model of a date trains, validates and tests on, by digest."""

from __future__ import annotations

from datetime import date, timedelta

from dl_pipelines.brief.sections import Data
from dl_pipelines.data.registry import SOURCES
from dl_pipelines.store.artifacts import Artifact, Draft, Gate
from dl_pipelines.store.records import open_records
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import SPLITS, Task

STAGE = "training_window"


def window_days(days: list[date], as_of: date, length: int | None) -> list[date]:
    """Days up to and with `as_of`, at most `length` calendar days back (None: all history)."""
    first = as_of - timedelta(days=length - 1) if length else date.min
    return [day for day in sorted(days) if first <= day <= as_of]


def make_training_window(workspace: Workspace, partition: Partition, data: Data, task: Task) -> Artifact:
    """`window.json`: days with the digests of their augmented datasets, and records of each split.

    Raises ArtifactError when a day's dataset has no passing report.
    """
    expected = window_days(SOURCES.make(data.source).days(data.start), partition.day, data.window_days)
    made = {day: workspace.find("augmented_dataset", Partition(day)) for day in expected}
    datasets = {day: artifact.require_gates() for day, artifact in made.items() if artifact is not None}
    missing = [day.isoformat() for day in expected if day not in datasets]

    def build(draft: Draft) -> None:
        import numpy as np

        groups: dict[str, set[str]] = {split: set() for split in SPLITS}
        counts, copies, days, targets = dict.fromkeys(SPLITS, 0), 0, [], []
        target = next(field.name for field in task.fields() if field.role == "target")
        for day, artifact in datasets.items():
            table = open_records(artifact).to_table(columns=["id", "group", "event_time", "copy", target])
            splits, original = task.split(table, partition.day, data.split), table["copy"].to_numpy() == 0
            names = table["group"].to_numpy(zero_copy_only=False)
            for split in SPLITS:
                groups[split].update(names[splits == split])
                counts[split] += int(((splits == split) & original).sum())
            copies += int((~original).sum())
            targets.append(table[target].to_numpy()[(splits == "train") & original])
            days.append({"day": day.isoformat(), "digest": artifact.digest, "records": int(original.sum())})
        draft.write_json(
            "window.json", {"as_of": partition.day.isoformat(), "days": days, "splits": counts, "copies": copies}
        )
        shared = (groups["train"] & groups["validation"]) | (groups["train"] & groups["test"])
        shared |= groups["validation"] & groups["test"]
        empty = [split for split in SPLITS if not counts[split]]
        draft.gate(Gate("no_leak", not shared, f"{len(shared)} groups are in more than one split", blocking=True))
        what = f"{len(days)} of {len(expected)} days"
        if missing:
            what += f"; missing {', '.join(missing[:5])}: run augmented_dataset for them"
        if empty:
            what += f"; no records in {', '.join(empty)}: more records, or other shares in data.split"
        untrainable = task.untrainable(np.concatenate(targets)) if targets else None
        if untrainable:
            what += f"; {untrainable}"
        complete = bool(days) and not missing and not empty and not untrainable
        draft.gate(Gate("complete", complete, what, blocking=True, facts={"missing": missing, "empty": empty}))
        draft.show(days=len(days), **{f"{split}_records": counts[split] for split in SPLITS}, copies=copies)

    settings = {"window_days": data.window_days, "split": data.split.model_dump(mode="json"), "missing": missing}
    parents = {f"augmented_dataset {day}": artifact for day, artifact in datasets.items()}
    return workspace.make(STAGE, partition.daily, build, settings=settings, parents=parents)
