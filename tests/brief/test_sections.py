"""The frame itself: frozen to the last section, defaults that are valid, targets that name and judge themselves."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from dl_pipelines.brief import Brief, Target

LEAST = {"project": "least", "problem": {"task": "image_classification"}, "data": {"source": "digits"}}


def models(value: object) -> list[BaseModel]:
    found = [value] if isinstance(value, BaseModel) else []
    inner = value if isinstance(value, tuple | list) else [getattr(value, name) for name in _fields(value)]
    return found + [model for item in inner for model in models(item)]


def _fields(value: object) -> list[str]:
    return list(type(value).model_fields) if isinstance(value, BaseModel) else []


def test_no_part_of_a_brief_can_be_changed():
    found = models(Brief.model_validate(LEAST))
    assert len(found) > 15
    for model in found:
        for name in type(model).model_fields:
            with pytest.raises(ValidationError, match="frozen"):
                setattr(model, name, None)


def test_sections_are_in_the_order_of_the_template():
    assert list(Brief.model_fields) == [
        *("project", "problem", "data", "architecture", "training", "distributed", "evaluation"),
        *("compression", "serving", "monitoring", "lifecycle"),
    ]


def test_a_bare_name_is_a_reference_without_params():
    assert Brief.model_validate(LEAST).data.source.model_dump() == {"name": "digits", "params": {}}


@pytest.mark.parametrize(
    ("op", "measured", "met"), [(">=", 0.95, True), (">=", 0.9499, False), ("<=", 0.95, True), ("<=", 0.9501, False)]
)
def test_a_target_on_its_edge_is_met(op: str, measured: float, met: bool):
    target = Target.model_validate({"metric": "accuracy", "op": op, "value": 0.95})
    assert target.met_by(measured) is met


def test_a_target_says_its_name():
    assert Target(metric="f1", value=0.5, slice="class:7", where="trained").name == "f1 >= 0.5 on class:7 (trained)"
