"""What sections are made of: their base, references to registered things by name, references to secrets."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Tag
from pydantic_core import PydanticCustomError

from dl_pipelines.brief.registry import Named

_SECRET = re.compile(r"\$\{[A-Z][A-Z0-9_]*\}")


def _bare_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _secret(value: Any) -> str:
    if not isinstance(value, str) or not _SECRET.fullmatch(value):
        # An error of its own kind: what was found is not shown, since it may be the secret.
        raise PydanticCustomError(
            "secret", "a reference to an environment variable, written ${NAME}; secrets are never in a brief"
        )
    return value


class TaskRef(Named):
    """Which task the model does."""

    kind: ClassVar[str] = "task"


class SourceRef(Named):
    """Where records come from."""

    kind: ClassVar[str] = "source"


class FamilyRef(Named):
    """Which architecture family is trained."""

    kind: ClassVar[str] = "family"


class AugmentationRef(Named):
    """One transform of records that may train."""

    kind: ClassVar[str] = "augmentation"


class TechniqueRef(Named):
    """One way to make a model smaller or faster."""

    kind: ClassVar[str] = "technique"


class TrafficRef(Named):
    """Who sends live requests."""

    kind: ClassVar[str] = "traffic"


Secret = Annotated[str, BeforeValidator(_secret)]
Task = Annotated[TaskRef, BeforeValidator(_bare_name)]
Source = Annotated[SourceRef, BeforeValidator(_bare_name)]
Family = Annotated[FamilyRef, BeforeValidator(_bare_name)]
Augmentation = Annotated[AugmentationRef, BeforeValidator(_bare_name)]
Technique = Annotated[TechniqueRef, BeforeValidator(_bare_name)]
Traffic = Annotated[TrafficRef, BeforeValidator(_bare_name)]


def _all_or_some(value: Any) -> str | None:
    """Which of the two a value is meant as: its errors are then of that one alone."""
    return "all" if value == "all" else "" if isinstance(value, list | tuple) else None


Techniques = Annotated[
    Annotated[Literal["all"], Tag("all")] | Annotated[tuple[Technique, ...], Tag("")],
    Discriminator(_all_or_some, "techniques", "all, or a list of techniques"),
]


class Section(BaseModel):
    """Base of the sections."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
