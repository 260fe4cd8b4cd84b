"""What a training takes over from the stages before it that choose: the architecture comparison, the study.

Each leaves `choice.json`: `overrides` (paths below `architecture` and `training` -> values, none when nothing was asked
or the brief's own were best) and `why`, a sentence. `kept` finds a choice of an earlier day that still holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, TypeVar

from dl_pipelines.brief.references import Section
from dl_pipelines.brief.sections import Architecture, Training
from dl_pipelines.store.artifacts import Artifact, ArtifactError
from dl_pipelines.store.workspace import Partition, Workspace

CHOOSING = ("architecture_comparison", "hyperparameter_study")
CHOICE, FAMILY = "choice.json", "architecture.family"
Some = TypeVar("Some", bound=Section)


def selected(
    workspace: Workspace, partition: Partition, architecture: Architecture, training: Training,
    stages: Sequence[str] = CHOOSING,
) -> tuple[Architecture, Training, dict[str, Artifact]]:  # fmt: skip
    """Both sections as these stages of the partition chose, and the artifacts that chose anything, by stage.

    Another candidate than the brief's own family begins anew: `architecture.pretrained` is of that family.
    Raises ArtifactError when one is damaged.
    """
    parents: dict[str, Artifact] = {}
    for stage in stages:
        found = workspace.find(stage, partition)
        overrides = found.read_json(CHOICE)["overrides"] if found else {}
        if found is None or not overrides:
            continue
        parents[stage] = found
        asked, architecture = architecture, replaced(architecture, "architecture", overrides)
        if FAMILY in overrides and architecture.family != asked.family:
            architecture = architecture.model_copy(update={"pretrained": None})
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


def kept(
    workspace: Workspace, stage: str, partition: Partition, *, settings: Mapping[str, Any],
    parents: Mapping[str, Artifact], days: int, version: int = 1,
) -> Artifact | None:  # fmt: skip
    """The artifact of an earlier day that this partition goes by, now pointed at; None when `make` has to look.

    It is of the same experiment, settings and version, made for a day at most `days` before, whatever its parents: the
    one that the partition goes by already, else the newest. What was made for exactly these inputs comes before.
    """
    if workspace.known(stage, partition, settings=settings, parents=parents, version=version):
        return None
    asked = {"settings": dict(settings), "version": version}
    earlier = [one for one in workspace.partitions(stage) if one.experiment == partition.experiment and one < partition]
    for other in (partition, *reversed(earlier)):
        found = _found(workspace, stage, other)
        if found is None or {name: found.settings[name] for name in asked} != asked:
            continue
        if 0 < (partition.day - date.fromisoformat(found.settings["day"])).days <= days:
            workspace.point(stage, partition, found)
            return found
    return None


def _found(workspace: Workspace, stage: str, partition: Partition) -> Artifact | None:
    """The artifact of a partition, None also where it is damaged: another is as good."""
    try:
        return workspace.find(stage, partition)
    except ArtifactError:
        return None
