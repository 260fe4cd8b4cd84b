"""The compression stage and its workshop on whatever line a test has, for the tests of every technique."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dl_pipelines.brief import Brief
from dl_pipelines.brief.sections import Compression
from dl_pipelines.compression.compress import _Stage, make_compressed_model
from dl_pipelines.compression.workshop import Workshop
from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Task
from dl_pipelines.training.launch import run_locally


def compress(
    brief: Brief, workspace: Workspace, partition: Partition, task: Task, compression: Compression | None = None
) -> Artifact:
    """The stage, with another section `compression` where given."""
    return make_compressed_model(
        workspace, partition, brief.problem, brief.training, brief.distributed, compression or brief.compression,
        brief.serving, brief.data, task,
    )  # fmt: skip


def workshop(
    folder: Path, brief: Brief, workspace: Workspace, partition: Partition, task: Task,
    compression: Compression | None = None,
) -> Workshop:  # fmt: skip
    """A workshop on the trained model of the line, in a folder of the test's; decisions are kept in memory."""
    from dl_pipelines.data.batches import window_rows

    made: dict[str, Any] = {}

    def decide_once(name: str, measure: Any) -> Any:
        if name not in made:
            made[name] = measure()
        return made[name]

    trained = workspace.get("trained_model", partition).require_gates()
    window = workspace.get("training_window", partition.daily).require_gates()
    stage = _Stage(
        workspace, brief.problem, brief.training, brief.distributed, compression or brief.compression, brief.serving,
        brief.data, task, run_locally, trained, window, [],
    )  # fmt: skip
    draft: Any = SimpleNamespace(work=folder, decide_once=decide_once)
    return stage._workshop(draft, window_rows(workspace, window, "validation", brief.data, task))
