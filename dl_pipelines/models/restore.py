"""From a `trained_model` artifact back to the network that it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dl_pipelines.models.plan import NetworkPlan
from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.tasks.base import Task

if TYPE_CHECKING:
    import torch


def load_served(artifact: Artifact, task: Task) -> torch.nn.Module:
    """The served network in eval mode, weights from `weights.safetensors`. Raises ArtifactError when damaged."""
    artifact.require_gates().verify()
    return NetworkPlan.read(artifact.read_json("model.json")).load(task, artifact.file("weights.safetensors"))
