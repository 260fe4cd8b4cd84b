"""The contract of a task: all that stages need to know about what a model does, so that none asks for its name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.brief.sections import Split

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

SplitName = Literal["train", "validation", "test"]
Role = Literal["id", "date", "event_time", "group", "input", "target", "about"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Field:
    """One column of a record: dtype, shape, range and unit, written once."""

    name: str
    dtype: str
    role: Role
    shape: tuple[int, ...] = ()
    low: float | None = None
    high: float | None = None
    unit: str = ""
    description: str = ""


@dataclass(frozen=True)
class Metric:
    """A metric of a task: its unit, which direction is better, its name in the report's template and in tables."""

    name: str
    better: Literal["higher", "lower"]
    label: str
    unit: str = ""
    template: str | None = None


@dataclass(frozen=True)
class Tensor:
    """A tensor of a signature. `shape` is without the batch dimension; -1 is a free dimension. `dtype` is numpy's."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Signature:
    """What the served model takes and gives. `summary` names the function of `wire/summaries.py` that logs an input."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    style: Literal["unary", "stream"] = "unary"
    stateful: bool = False
    summary: str = "tensor"
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Parity:
    """Whether two models answer alike on the same rows: largest absolute difference, share of equal decisions."""

    passed: bool
    rows: int
    max_difference: float
    agreement: float
    tolerance: float
    summary: str


@dataclass(frozen=True)
class Rows:
    """Rows as arrays: `inputs` [N, ...] as the served model takes them, `targets`, `ids` [N], slices -> bool [N]."""

    inputs: np.ndarray
    targets: np.ndarray
    ids: np.ndarray
    slices: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)


class Task(ABC):
    """A task, made with its validated params. Arrays are numpy; nothing here imports torch."""

    name: ClassVar[str]
    primary: ClassVar[str]
    """The metric that compression's budget, selection and promotion are about."""
    metrics: ClassVar[Mapping[str, Metric]]
    not_applicable: ClassVar[Mapping[str, str]] = {}
    """Stages that this task has not, with the reason."""

    Params: ClassVar[type[BaseParams]]
    """Validates `problem.task.params`; the task is made with an instance of it."""

    @abstractmethod
    def fields(self) -> tuple[Field, ...]:
        """The columns of a record."""

    @abstractmethod
    def arrow_schema(self) -> pa.Schema:
        """The Arrow schema of a record, with `fields` in order."""

    @abstractmethod
    def split(self, table: pa.Table, as_of: date, shares: Split) -> np.ndarray:
        """The split of each record [N] (str); needs `id`, `group`, `event_time`; stable from day to day."""

    def untrainable(self, targets: np.ndarray) -> str | None:
        """Why a model can't be trained on these targets [N], or None when it can."""
        return None if len(targets) else "no records in the train split"

    @abstractmethod
    def rows(self, table: pa.Table) -> Rows:
        """A table of records as arrays."""

    @abstractmethod
    def measure(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """Every metric on a set of predictions; one that this set doesn't determine is absent."""

    def reliability(self, outputs: np.ndarray, targets: np.ndarray) -> list[dict[str, float]]:
        """How often a confidence comes true, by bins of confidence; empty where a task has no confidence."""
        return []

    @abstractmethod
    def decisions(self, outputs: np.ndarray) -> np.ndarray:
        """What the model decided, one a row, comparable with `==`."""

    @abstractmethod
    def answer(self, output: np.ndarray) -> dict[str, Any]:
        """One output as a person reads it: plain data."""

    @abstractmethod
    def signature(self) -> Signature:
        """Of the served model."""

    @abstractmethod
    def parity(self, reference: np.ndarray, other: np.ndarray, tolerance: float, exact: bool = True) -> Parity:
        """Compare outputs on the same rows. `exact` False (a compressed model): only decisions must mostly agree."""

    @abstractmethod
    def read_input(self, path: str) -> np.ndarray:
        """One input from a user's file, as the served model takes it, without batch dimension. Raises ValueError."""
