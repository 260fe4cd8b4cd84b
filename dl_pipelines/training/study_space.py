"""The space of a hyperparameter study: its fields, each with the brief's own value and the range that is searched.

A range that the brief gives is taken as it is; without one the space lies around the brief's own values. Optuna's
distributions are made here; what is drawn from them is study_store.py's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError

from dl_pipelines.brief.errors import closest
from dl_pipelines.brief.references import FamilyRef
from dl_pipelines.brief.sections import Architecture, Range, Training
from dl_pipelines.training.selected import replaced

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Value = bool | int | float | str
PARAMS = "architecture.family.params."
ROWS = {"learning_rate": "LR", "batch_size": "BATCH", "epochs": "EPOCH", "optimizer": "OPT", "loss": "LOSS"}
"""Fields of `training` by their row in the template."""
REGULARIZATION = ("weight_decay", "label_smoothing", "clip", "ema", "dropout")
NOT_SEARCHED = ("search", "seed", "device", "compile", "checkpoint_steps", "warm_epochs")
EDGE = 0.02
"""A best value within this share of the range's length (of its logarithm, where factors count) is at its edge."""


class StudyError(ValueError):
    """A study that can't be run as asked."""


@dataclass(frozen=True)
class Dimension:
    """A field that is searched; `own` is the brief's value of it."""

    path: str
    range: Range
    own: Value | None

    @property
    def name(self) -> str:
        """The field's own name."""
        return self.path.rpartition(".")[2]

    @property
    def label(self) -> str:
        """As a person reads it."""
        return self.name.replace("_", " ")

    @property
    def row(self) -> str:
        """Its row in the template, or `other`."""
        if self.name in REGULARIZATION:
            return "REG"
        return ROWS.get(self.name, "other") if self.path.startswith("training.") else "other"

    @property
    def fits(self) -> bool:
        """Whether the brief's own value lies within the range."""
        given = self.range
        if given.choices:
            return self.own in given.choices
        if self.own is None or isinstance(self.own, str):
            return False
        assert given.low is not None
        assert given.high is not None
        return given.low <= self.own <= given.high and (not given.whole or float(self.own).is_integer())

    def told(self) -> str:
        """The range as a person reads it."""
        given = self.range
        if given.choices:
            return ", ".join(str(choice) for choice in given.choices)
        return f"{given.low:g} to {given.high:g}{', log' if given.log else ''}"

    def at_edge(self, value: Any) -> bool:
        """Whether a value is at an end of its range."""
        given = self.range
        if given.choices or given.low is None or given.high is None:
            return False
        low, high, here = (math.log(one) if given.log else float(one) for one in (given.low, given.high, value))
        return min(here - low, high - here) <= EDGE * (high - low)

    def distribution(self) -> BaseDistribution:
        """Optuna's."""
        from optuna import distributions

        given = self.range
        if given.choices:
            return distributions.CategoricalDistribution(given.choices)
        assert given.low is not None
        assert given.high is not None
        if given.whole:
            return distributions.IntDistribution(int(given.low), int(given.high), log=given.log)
        return distributions.FloatDistribution(given.low, given.high, log=given.log)

    def grid(self, points: int) -> list[Any]:
        """At most so many values, evenly spaced, both ends among them; every choice."""
        given = self.range
        if given.choices:
            return list(given.choices)
        assert given.low is not None
        assert given.high is not None
        low, high = (math.log(one) if given.log else one for one in (given.low, given.high))
        values = [low + (high - low) * place / max(1, points - 1) for place in range(points)]
        exact = [min(given.high, max(given.low, math.exp(one) if given.log else one)) for one in values]
        return sorted({round(one) for one in exact}) if given.whole else exact


def dimensions(architecture: Architecture, training: Training, space: Mapping[str, Range]) -> list[Dimension]:
    """The fields of a study, in order. Raises StudyError for a path that is none, or a value that can't be."""
    ranges = dict(space) or around(architecture.family, training)
    known = _known(architecture, training)
    found = []
    for path, given in ranges.items():
        if path not in known:
            near = closest(path, list(known))
            raise StudyError(
                f"found the path {path!r} in training.search.space; expected a field of training, or a parameter of "
                f"the family as {PARAMS}NAME{f' (did you mean {near!r}?)' if near else ''}"
            )
        own = known[path]
        _check(architecture, training, path, given)
        found.append(Dimension(path, given, own))
    return found


def fitting(architecture: Architecture, training: Training, space: Mapping[str, Range]) -> dict[str, Range]:
    """A space without what this family can't have: a comparison may have chosen another one than the brief's."""
    found = {}
    for path, given in space.items():
        if path.startswith(PARAMS):
            try:
                dimensions(architecture, training, {path: given})
            except StudyError:
                continue
        found[path] = given
    return found


def _known(architecture: Architecture, training: Training) -> dict[str, Any]:
    """Every path that may be searched, with the brief's own value: what the family's default is where it says none."""
    from dl_pipelines.models.registry import FAMILIES

    params = FAMILIES.params_model(architecture.family.name).model_validate(architecture.family.params)
    own = {f"training.{name}": value for name, value in training.model_dump(mode="json").items()}
    own["training.loss"] = training.loss or next(iter(_losses(architecture.family)), None)
    return {
        **{path: value for path, value in own.items() if path.removeprefix("training.") not in NOT_SEARCHED},
        **{f"{PARAMS}{name}": value for name, value in params.model_dump(mode="json").items()},
    }


def _check(architecture: Architecture, training: Training, path: str, given: Range) -> None:
    """Try every choice, or both ends. Raises StudyError."""
    ends = (given.low, given.high) if not given.whole else (int(given.low or 0), int(given.high or 0))
    for value in given.choices or ends:
        try:
            configured(architecture, training, {path: value})
        except ValueError as error:
            raise StudyError(
                f"found {value!r} for {path} in training.search.space; expected what the brief may hold there: "
                f"{_said(error)}"
            ) from error


def _said(error: ValueError) -> str:
    """In one line."""
    if isinstance(error, ValidationError):
        return "; ".join(item["msg"] for item in error.errors())
    return str(error)


def configured(
    architecture: Architecture, training: Training, params: Mapping[str, Any]
) -> tuple[Architecture, Training]:
    """Both sections with the values of a configuration. Raises ValueError when the family refuses them."""
    from dl_pipelines.models.registry import FAMILIES

    architecture = replaced(architecture, "architecture", params)
    FAMILIES.params_model(architecture.family.name).model_validate(architecture.family.params)
    return architecture, replaced(training, "training", params)


def around(family: FamilyRef, training: Training) -> dict[str, Range]:
    """The space of a brief that gives none: the template's rows, around the brief's own values."""
    rate, size, epochs, decay = training.learning_rate, training.batch_size, training.epochs, training.weight_decay
    optimizers = get_args(Training.model_fields["optimizer"].annotation)
    middle = decay or 1e-4
    found = {
        "training.learning_rate": Range(low=rate / 10, high=min(rate * 10, 5.0), log=True),
        "training.batch_size": Range(low=max(2, size // 4), high=max(4, size * 4), log=True),
        "training.epochs": Range(low=max(1, epochs // 2), high=max(2, epochs * 2), log=True),
        "training.optimizer": Range(choices=optimizers),
        "training.weight_decay": Range(low=middle / 100, high=min(middle * 100, 0.5), log=True),
    }
    if "label_smoothing" in _settings(family):
        found["training.label_smoothing"] = Range(low=0, high=max(0.2, min(0.9, 2 * training.label_smoothing)))
    if len(_losses(family)) > 1:
        found["training.loss"] = Range(choices=_losses(family))
    return found


def _losses(family: FamilyRef) -> tuple[str, ...]:
    from dl_pipelines.models.registry import FAMILIES

    return getattr(FAMILIES.load(family.name), "losses", ())


def _settings(family: FamilyRef) -> tuple[str, ...]:
    """Further fields of `training` that a family's losses go by."""
    from dl_pipelines.models.registry import FAMILIES

    return getattr(FAMILIES.load(family.name), "loss_settings", ())
