"""What a training takes over from the stages before it that choose: the architecture comparison, the study.

Each leaves `choice.json`: `overrides` (paths below `architecture` and `training` -> values, none when nothing was asked
or the brief's own were best) and `why`, a sentence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from dl_pipelines.brief.sections import Architecture, Section, Training
from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.store.workspace import Partition, Workspace

CHOOSING = ("architecture_comparison", "hyperparameter_study")
CHOICE = "choice.json"
Some = TypeVar("Some", bound=Section)


def selected(
    workspace: Workspace, partition: Partition, architecture: Architecture, training: Training,
    stages: Sequence[str] = CHOOSING,
) -> tuple[Architecture, Training, dict[str, Artifact]]:  # fmt: skip
    """Both sections as these stages of the partition chose, and the artifacts that chose anything, by stage.

    Raises ArtifactError when one is damaged.
    """
    parents: dict[str, Artifact] = {}
    for stage in stages:
        found = workspace.find(stage, partition)
        overrides = found.read_json(CHOICE)["overrides"] if found else {}
        if found is None or not overrides:
            continue
        parents[stage] = found
        architecture = replaced(architecture, "architecture", overrides)
        training = replaced(training, "training", overrides)
    return architecture, training, parents


def replaced(section: Some, name: str, overrides: Mapping[str, Any]) -> Some:
    """A section called `name` with those of the overrides that lie below it; checked again."""
    plain = section.model_dump(mode="json")
    for path, value in overrides.items():
        first, *rest = path.split(".")
        if first != name:
            continue
        inside = plain
        for key in rest[:-1]:
            inside = inside[key]
        inside[rest[-1]] = value
    return type(section).model_validate(plain)
