"""Which data stages a task has, and which of them holds the records that a window is made of."""

from __future__ import annotations

from dl_pipelines.tasks.base import Task

DAILY = ("raw_data", "validated_data", "augmented_dataset")
"""Every stage that is made a day, in order."""


def daily_stages(task: Task) -> tuple[str, ...]:
    """Those that the task has."""
    return tuple(stage for stage in DAILY if stage not in task.not_applicable)


def stored_stage(task: Task) -> str:
    """The last of them: its records are what models train on."""
    return daily_stages(task)[-1]
