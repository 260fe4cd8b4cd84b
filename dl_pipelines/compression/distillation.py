"""Knowledge distillation: smaller students of the candidate families, each taught by the network that was taken last.

They are trained by the brief's loop and communicator; what the teacher's loss is, is training/change_distilled.py's.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from dl_pipelines.brief.references import Family, FamilyRef
from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.compression.base import Network, Technique, TechniqueError, Variant
from dl_pipelines.compression.workshop import Workshop
from dl_pipelines.models.plan import NetworkPlan
from dl_pipelines.models.registry import FAMILIES
from dl_pipelines.tasks.base import Task
from dl_pipelines.training.changes import ChangeRef

SIZES = ("widths", "width", "hidden")
"""Params by which the layers of a family are as wide."""
PARTS = {"half": 2, "quarter": 4}
"""Of the trained family's width, where the brief names no students."""


class Distillation(Technique):
    """A variant `distilled_<student>` for each student: without `students`, the trained family at half and a quarter.

    The temperature and share that are the defaults are usual in the literature, not tuned here.
    """

    name = "distillation"
    phase = "distill"
    template_row = "DISTIL"
    trains = True

    class Params(BaseParams):
        """Who is taught, and how much the teacher counts beside the targets."""

        students: tuple[Family, ...] = Field(
            default=(), description="families with their params; none: the trained one, half and a quarter as wide"
        )
        epochs: int | None = Field(default=None, ge=1, le=10_000, description="of each; None: the trained model's")
        temperature: float = Field(default=4.0, gt=0, le=100, description="softens the logits of both; not of numbers")
        share: float = Field(default=0.9, ge=0, le=1, description="of the teacher in the loss")
        features: Literal["auto", "none"] | tuple[tuple[str, str], ...] = Field(
            default="auto",
            description="pairs of module names (student's, teacher's) whose outputs are compared too; auto: "
            "what their last layers take, where it has the same shape",
        )

        @field_validator("students")
        @classmethod
        def _differ(cls, students: tuple[FamilyRef, ...]) -> tuple[FamilyRef, ...]:
            again = next((ref.name for place, ref in enumerate(students) if ref in students[:place]), None)
            if again is not None:
                raise ValueError(f"students that differ, not {again} again")
            return students

    params: Params

    def variants(self, start: Network, shop: Workshop) -> list[Variant]:
        """See Technique.variants. A student that can't be trained doesn't keep the others from it."""
        given = self.params.students
        students = named(given) if given else smaller(start.plan.family)
        made: list[Variant] = []
        for place, (student, family) in enumerate(students.items()):
            name = f"distilled_{student}"
            shop.say(f"distilling {start.name} into {student.replace('_', ' ')}", place, len(students))
            try:
                made.append(self._variant(name, family, start, shop))
            except TechniqueError as error:
                first = shop.compression.runtimes[:1]
                made.append(Variant(name, self.name, "fp32", None, str(error), runtimes=first))
        return made

    def _variant(self, name: str, family: FamilyRef, start: Network, shop: Workshop) -> Variant:
        from dl_pipelines.models.layers import count_parameters
        from dl_pipelines.training.change_distilled import feature_pairs

        _require_fitting(family, shop)
        given, plan = self.params, NetworkPlan(family, start.plan.statistics)
        student, teacher = plan.build(shop.task), shop.module(start)
        asked = () if given.features == "none" else given.features
        try:
            pairs = feature_pairs(student, teacher, shop.task, asked)
        except ValueError as error:
            raise TechniqueError(str(error)) from error
        params = {
            "plan": start.plan.plain(), "weights": str(start.weights), "temperature": given.temperature,
            "share": given.share, "features": pairs,
        }  # fmt: skip
        more: dict[str, Any] = {} if given.epochs is None else {"epochs": given.epochs}
        job = shop.job_for(name, plan, (ChangeRef(name="distilled", params=params),), **more)
        network = shop.export(name, plan, shop.train(job))
        details = {
            "teacher": start.name, "family": family.model_dump(mode="json"), "epochs": job.training.epochs,
            "parameters": count_parameters(student), "teacher_parameters": sum(w.numel() for w in teacher.parameters()),
            "loss": self._told(job.training.loss or FAMILIES.load(family.name).losses[0], shop.task),
            "features": [list(pair) for pair in pairs],
        }  # fmt: skip
        return Variant(name, self.name, "fp32", network.onnx, network=network, details=details)

    def _told(self, own: str, task: Task) -> str:
        given = self.params
        theirs = f"logits at temperature {given.temperature:g}" if task.signature().labels else "outputs"
        return f"{1 - given.share:g} {own} + {given.share:g} the teacher's {theirs}"


def named(students: tuple[FamilyRef, ...]) -> dict[str, FamilyRef]:
    """Each student by a name for files: its family's, with its params where several are of that family."""
    families = [ref.name for ref in students]
    found: dict[str, FamilyRef] = {}
    for ref in students:
        told = "" if families.count(ref.name) == 1 else "".join(f"_{key}_{value}" for key, value in ref.params.items())
        name = re.sub(r"[^a-z0-9_]+", "_", f"{ref.name}{told}".lower())
        found[name if name not in found else f"{name}_{len(found) + 1}"] = ref
    return found


def smaller(family: FamilyRef) -> dict[str, FamilyRef]:
    """A family at half and a quarter of its width, as far as its params allow it. Raises TechniqueError."""
    params = FAMILIES.make(family).params
    found: dict[str, FamilyRef] = {}
    for size in [name for name in SIZES if getattr(params, name, None)][:1]:
        given = getattr(params, size)
        for word, part in PARTS.items():
            less = [width // part for width in given] if isinstance(given, tuple) else given // part
            ref = FamilyRef(name=family.name, params={**family.params, size: less})
            try:
                FAMILIES.make(ref)
            except ValidationError:
                continue  # below what the family allows, or a network whose width is fixed
            found[f"{family.name}_{word}"] = ref
    if not found:
        raise TechniqueError(
            f"found no smaller version of the family {family.name}; expected a {' or '.join(SIZES)} that can be "
            "halved; name students in the params of distillation"
        )
    return found


def _require_fitting(family: FamilyRef, shop: Workshop) -> None:
    kind = FAMILIES.load(family.name).kind
    if kind != shop.task.kind:
        fitting = [name for name in FAMILIES.names if FAMILIES.load(name).kind == shop.task.kind]
        raise TechniqueError(
            f"found the student {family.name}, which takes inputs of the kind {kind}; expected one that takes those of "
            f"{shop.task.name}: {', '.join(fitting)}; mend students in the params of distillation"
        )
