"""How a network is built, as plain data: its family, what was fitted on the window, the channels that were cut away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dl_pipelines.brief.references import FamilyRef
from dl_pipelines.models.registry import FAMILIES
from dl_pipelines.tasks.base import Task

if TYPE_CHECKING:
    import torch

Cut = tuple[str, bool, tuple[int, ...]]
"""A module's name, whether its outputs (True) or inputs are meant, the positions of the channels that go."""


@dataclass(frozen=True)
class NetworkPlan:
    """Everything but the weights. `cuts` in the order in which they were made (see models/pruned.py)."""

    family: FamilyRef
    statistics: Mapping[str, Any]
    cuts: tuple[Cut, ...] = ()

    def build(self, task: Task) -> torch.nn.Module:
        """The served network with fresh weights. Raises ValueError when the cuts don't fit it."""
        network = FAMILIES.make(self.family).network(task, self.statistics)
        if self.cuts:
            from dl_pipelines.models.pruned import cut

            cut(network, task, self.cuts)
        return network

    def load(self, task: Task, weights: Path) -> torch.nn.Module:
        """In eval mode, with weights from a safetensors file."""
        from safetensors.torch import load_file

        network = self.build(task)
        network.load_state_dict(load_file(weights))
        return network.eval()

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "family": self.family.model_dump(mode="json"), "statistics": dict(self.statistics),
            "cuts": [[name, outputs, list(positions)] for name, outputs, positions in self.cuts],
        }  # fmt: skip

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> NetworkPlan:
        """From plain data; a trained model's `model.json` will do."""
        cuts = tuple((name, outputs, tuple(positions)) for name, outputs, positions in plain.get("cuts", ()))
        return cls(FamilyRef(**plain["family"]), plain["statistics"], cuts)
