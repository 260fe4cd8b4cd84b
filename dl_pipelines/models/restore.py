"""From a `trained_model` artifact back to the network that it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dl_pipelines.brief.sections import FamilyRef
from dl_pipelines.models.registry import FAMILIES
from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.tasks.base import Task

if TYPE_CHECKING:
    import torch


def load_served(artifact: Artifact, task: Task) -> torch.nn.Module:
    """The served network in eval mode, weights from `weights.safetensors`. Raises ArtifactError when damaged."""
    from safetensors.torch import load_file

    artifact.require_gates().verify()
    model = artifact.read_json("model.json")
    network = FAMILIES.make(FamilyRef(**model["family"])).network(task, model["statistics"])
    network.load_state_dict(load_file(artifact.file("weights.safetensors")))
    return network.eval()
