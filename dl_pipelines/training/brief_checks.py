"""What a brief says of its training that only the families can judge: losses, the space of the search, candidates.

Checks of the catalog: pure functions from a brief to its problems, made while it is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from dl_pipelines import brief as frame
from dl_pipelines.brief.errors import closest
from dl_pipelines.brief.references import FamilyRef
from dl_pipelines.brief.sections import Range, Training
from dl_pipelines.models.registry import FAMILIES
from dl_pipelines.tasks.registry import TASKS
from dl_pipelines.training.study_space import NOT_SEARCHED, PARAMS

UNSET = {"label_smoothing": 0.0, "class_weights": "none"}
"""Fields of `training` that belong to some losses only, as they are where nothing is asked of them."""
SPACE = "training.search.space"


def check_losses(brief: frame.Brief) -> Iterator[frame.Problem]:
    """The loss is one that the family has, and what goes with it is something that its losses go by."""
    training, name = brief.training, brief.architecture.family.name
    if name not in FAMILIES.names:
        return
    family = FAMILIES.load(name)
    if training.loss is not None and training.loss not in family.losses:
        near = closest(training.loss, family.losses)
        yield frame.Problem("training.loss", _one_of(family), repr(training.loss), closest=near)
    for field, unset in UNSET.items():
        if getattr(training, field) != unset and field not in family.loss_settings:
            expected = f"{unset if isinstance(unset, str) else f'{unset:g}'} with the family {name}, {_without(family)}"
            yield frame.Problem(f"training.{field}", expected, repr(getattr(training, field)))


def check_candidates(brief: frame.Brief) -> Iterator[frame.Problem]:
    """Candidates take what the task's inputs are, and each is there once."""
    task, seen = TASKS.make(brief.problem.task), list[FamilyRef]()
    for position, ref in enumerate(brief.architecture.comparison.candidates):
        path = f"architecture.comparison.candidates[{position}]"
        if ref.name in FAMILIES.names and FAMILIES.load(ref.name).kind != task.kind:
            fitting = [name for name in FAMILIES.names if FAMILIES.load(name).kind == task.kind]
            expected = f"one that takes inputs of {task.name}: {', '.join(fitting)}"
            yield frame.Problem(f"{path}.name", expected, repr(ref.name), closest=closest(ref.name, fitting))
        if ref in seen:
            yield frame.Problem(path, "candidates that differ", f"{ref.name} again, as candidates[{seen.index(ref)}]")
        seen.append(ref)


def check_search(brief: frame.Brief) -> Iterator[frame.Problem]:
    """The search goes by a metric of the task, over fields that are there, with values that they allow."""
    search, task = brief.training.search, TASKS.make(brief.problem.task)
    if search.metric is not None and search.metric not in task.metrics:
        near = closest(search.metric, task.metrics)
        expected = f"one of {', '.join(sorted(task.metrics))}"
        yield frame.Problem("training.search.metric", expected, repr(search.metric), closest=near)
    ref = brief.architecture.family
    if ref.name not in FAMILIES.names:
        return
    known = [f"training.{name}" for name in Training.model_fields if name not in NOT_SEARCHED]
    known += [f"{PARAMS}{name}" for name in FAMILIES.params_model(ref.name).model_fields]
    for path, values in search.space.items():
        if path in known:
            yield from _check_values(brief, path, values)
        else:
            expected = f"one of {', '.join(known)}"
            yield frame.Problem(f"{SPACE}.{path}", expected, repr(path), closest=closest(path, known))


def _check_values(brief: frame.Brief, path: str, values: Range) -> Iterator[frame.Problem]:
    """Each choice, or both ends, as the brief would be with it."""
    ref, name, here = brief.architecture.family, path.rpartition(".")[2], f"{SPACE}.{path}"
    family = FAMILIES.load(ref.name)
    if path.startswith(PARAMS):
        model, given = FAMILIES.params_model(ref.name), ref.params
    else:
        model, given = Training, brief.training.model_dump(exclude={"search"})
    if name in UNSET and model is Training and name not in family.loss_settings:
        yield frame.Problem(here, f"no search of it with the family {ref.name}, {_without(family)}", repr(name))
        return
    if _refused(model, given, {}):
        return  # told already, as a problem of the field itself
    for place, value in _named(values):
        if name == "loss" and model is Training and value not in family.losses:
            near = closest(str(value), family.losses)
            yield frame.Problem(f"{here}.{place}", _one_of(family), repr(value), closest=near)
        else:
            for expected, near in _refused(model, given, {name: value}):
                yield frame.Problem(f"{here}.{place}", expected, repr(value), closest=near)


def _named(values: Range) -> list[tuple[str, Any]]:
    if values.choices:
        return [(f"choices[{position}]", choice) for position, choice in enumerate(values.choices)]
    low, high = values.low or 0.0, values.high or 0.0
    return [("low", int(low)), ("high", int(high))] if values.whole else [("low", low), ("high", high)]


def _refused(model: type[BaseModel], given: dict[str, Any], changed: dict[str, Any]) -> list[tuple[str, str | None]]:
    """What is allowed instead, where a model refuses the values, and the nearest name; nothing where it takes them."""
    try:
        model.model_validate({**given, **changed})
    except ValidationError as error:
        return [_expected(item) for item in error.errors()]
    return []


def _expected(item: Any) -> tuple[str, str | None]:
    if item["type"] == "literal_error":
        allowed = re.findall(r"'([^']*)'", item["ctx"]["expected"])
        return f"one of {', '.join(allowed)}", closest(str(item["input"]), allowed)
    return re.sub(r"^(Value error, |Input should be )", "", item["msg"]), None


def _one_of(family: Any) -> str:
    return f"one of {', '.join(family.losses)}, which the family {family.name} has"


def _without(family: Any) -> str:
    return f"whose loss ({', '.join(family.losses)}) has no such setting"
