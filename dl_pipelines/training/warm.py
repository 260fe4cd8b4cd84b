"""Warm starts: which earlier model a training may begin from; `models/weights.py` takes its weights over."""

from __future__ import annotations

from dl_pipelines.brief.references import FamilyRef, TaskRef
from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.store.workspace import Partition, Workspace

START = "start.safetensors"
"""In a job's folder: the weights that its training begins from; without it, it begins anew."""


def earlier_model(workspace: Workspace, partition: Partition, family: FamilyRef, task: TaskRef) -> Artifact | None:
    """The newest sound model of this experiment and an earlier day, of the same family, task and params; or None.

    Raises ArtifactError when its manifest is damaged.
    """
    wanted = family.model_dump(mode="json"), task.model_dump(mode="json")
    for other in reversed(workspace.partitions("trained_model")):
        if other.experiment != partition.experiment or other.day >= partition.day:
            continue
        found = workspace.find("trained_model", other)
        if found is None or any(gate.blocking and gate.passed is not True for gate in found.gates):
            continue
        model = found.read_json("model.json")
        if (model["family"], model["task"]) == wanted:
            return found
    return None
