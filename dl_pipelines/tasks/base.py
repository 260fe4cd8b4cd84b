"""The contract of a task: all that stages need to know about what a model does, so that none asks for its name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.brief.sections import Split, Validation

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

SplitName = Literal["train", "validation", "test"]
Role = Literal["id", "date", "event_time", "group", "input", "target", "about"]
NOT_NULL, IN_SET, BETWEEN = (
    "ExpectColumnValuesToNotBeNull", "ExpectColumnValuesToBeInSet", "ExpectColumnValuesToBeBetween",
)  # fmt: skip
"""Great Expectations' names of what most tasks expect."""
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
    optional: bool = False
    """Whether it may be missing; the task says what then happens."""


@dataclass(frozen=True)
class Expectation:
    """One expectation about a day, evaluated by Great Expectations.

    A name of ours, GX's class, its arguments (`column` is a fact's name), the sentence a person reads; `blocking` False
    only warns.
    """

    name: str
    kind: str
    arguments: Mapping[str, Any]
    sentence: str
    blocking: bool = True


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
    columns: tuple[str, ...] = ()
    """Names along the last dimension of the input, where it is a table."""
    codes: tuple[str, ...] = ()
    """Those of the columns that hold codes of texts: they can't be averaged."""


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
    """Rows as arrays: `inputs` [N, ...] as the served model takes them, `ids` [N], slices -> bool [N].

    `targets` [N, ...] hold all that the task's metrics need.
    """

    inputs: np.ndarray
    targets: np.ndarray
    ids: np.ndarray
    slices: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, chosen: np.ndarray) -> Rows:
        """Some of the rows, by positions or bool [N]."""
        slices = {name: inside[chosen] for name, inside in self.slices.items()}
        return Rows(self.inputs[chosen], self.targets[chosen], self.ids[chosen], slices)


class Task(ABC):
    """A task, made with its validated params. Arrays are numpy; nothing here imports torch."""

    name: ClassVar[str]
    kind: ClassVar[str]
    """What an input is (`image`, `series`): families and augmentations say which kind they take."""
    family: ClassVar[str]
    """The architecture family of a brief that names none."""
    primary: ClassVar[str]
    """The metric that compression's budget, selection and promotion are about."""
    metrics: ClassVar[Mapping[str, Metric]]
    baselines: ClassVar[Mapping[str, str]] = {}
    """What a model has to beat, by name, as `module:function` of evaluation; none where the task registers none."""
    not_applicable: ClassVar[Mapping[str, str]] = {}
    """Stages that this task has not, with the reason."""
    row_by_row: ClassVar[bool] = False
    """Whether each record makes a row by itself: then `rows` and `fit_pieces` may be given a window piece by piece."""

    Params: ClassVar[type[BaseParams]]
    """Validates `problem.task.params`; the task is made with an instance of it."""

    @abstractmethod
    def fields(self) -> tuple[Field, ...]:
        """The columns of a record."""

    @abstractmethod
    def arrow_schema(self) -> pa.Schema:
        """The Arrow schema of a record, with `fields` in order."""

    @abstractmethod
    def facts(self, table: pa.Table) -> dict[str, Any]:
        """What the day's expectations are about: columns [N] by name, one value for each record of the table.

        Beside them there are `id`, `sha256`, `duplicates` (1 when it repeats another) and `kept` (1 when it is clean).
        """

    @abstractmethod
    def expectations(self, validation: Validation) -> tuple[Expectation, ...]:
        """What a day must satisfy beyond ids, checksums and duplicates; every `column` is one of `facts`."""

    @abstractmethod
    def split(self, table: pa.Table, as_of: date, shares: Split) -> np.ndarray:
        """The split of each record [N] (str; one that is in no split of SPLITS is used by none).

        Needs `id`, `group`, `event_time`; stable from day to day where the split is by group.
        """

    @property
    def judged(self) -> tuple[str, ...]:
        """Columns that `split`, `leaks` and `untrainable` look at."""
        target = next(field.name for field in self.fields() if field.role == "target")
        return ("id", "group", "event_time", "sha256", target)

    def leaks(self, table: pa.Table, splits: np.ndarray) -> list[str]:
        """What a model could know that it may not, as sentences; `splits` [N] are the records' of a whole window.

        By default: no group and no content is in more than one split.
        """
        found = []
        for name in ("group", "sha256"):
            values = table[name].to_numpy(zero_copy_only=False)
            kept = [set(values[splits == split]) for split in SPLITS]
            shared = sorted((kept[0] & kept[1]) | (kept[0] & kept[2]) | (kept[1] & kept[2]))
            found += [f"the {name} {value} is in more than one split: run validated_data of every day again, the "
                      "earliest first" for value in shared]  # fmt: skip
        return found

    def untrainable(self, table: pa.Table, splits: np.ndarray) -> str | None:
        """Why no model can be trained and measured on the records of a window with these splits [N], or None.

        The table has the columns of `judged`.
        """
        return None if (splits == "train").any() else "no records in the train split"

    @abstractmethod
    def rows(self, table: pa.Table, chosen: np.ndarray | None = None, training: bool = False) -> Rows:
        """A table of records as arrays; what is asked about is in the `chosen` records (bool [N], default all).

        The others may only be context: what was known before. `training` asks for every row that can be made of them,
        where a task measures on fewer.
        """

    @abstractmethod
    def fit(self, table: pa.Table, chosen: np.ndarray) -> dict[str, Any]:
        """What a model has to know of its train records (the `chosen`, bool [N]), as plain data: it is served with it.

        Statistics that normalise, encode or impute. Nothing but the chosen records may go into it.
        """

    def fit_pieces(self, pieces: Iterable[tuple[pa.Table, np.ndarray]]) -> dict[str, Any]:
        """`fit` on a table that comes in pieces, each with its own `chosen`.

        By default they are joined: a task that is `row_by_row` has to hold no more than one at a time.
        """
        import numpy as np
        import pyarrow as pa

        tables, chosen = zip(*pieces, strict=True)
        return self.fit(pa.concat_tables(tables).combine_chunks(), np.concatenate(chosen))

    def described(self, statistics: Mapping[str, Any]) -> dict[str, str]:
        """The fitted statistics in words for the report.

        Keys: `normalization`, `encoding`, `transformations`, `missing`, `outliers`, `dimensions`; what is absent is
        told by the report itself.
        """
        return {}

    def told(self) -> dict[str, str]:
        """The task in its own words for the report, whatever was trained.

        Keys: `split` (how records get into splits), `output` (what the model's last layer is for), `activation` (what
        is applied to it), `features` (which of them are made by hand); what is absent is told by the report itself.
        """
        return {}

    @abstractmethod
    def measure(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """Every metric on a set of predictions; one that this set doesn't determine is absent."""

    def resampled(self, outputs: np.ndarray, targets: np.ndarray, draws: int, seed: int) -> dict[str, np.ndarray]:
        """Each metric on `draws` bootstrap resamples, [draws]; NaN where a resample doesn't determine it.

        The draws depend on the targets and the seed alone: two models on the same rows are paired. Rows are drawn one
        by one; a task whose rows depend on each other draws what is independent.
        """
        import numpy as np

        rng = np.random.default_rng(seed)
        drawn: dict[str, np.ndarray] = {}
        for place in range(draws):
            rows = rng.integers(0, len(targets), len(targets))
            for name, value in self.measure(outputs[rows], targets[rows]).items():
                drawn.setdefault(name, np.full(draws, np.nan))[place] = value
        return drawn

    def reliability(self, outputs: np.ndarray, targets: np.ndarray) -> list[dict[str, float]]:
        """How often a confidence comes true, by bins of confidence; empty where a task has no confidence."""
        return []

    def details(
        self, outputs: np.ndarray, rows: Rows, resamples: int, confidence: float, seed: int
    ) -> dict[str, Any]:  # fmt: skip
        """More that an evaluation shows, as plain data by name (`details.json`); the report draws what it knows."""
        return {}

    @abstractmethod
    def decisions(self, outputs: np.ndarray) -> np.ndarray:
        """What the model decided, one a row, comparable with `==`."""

    @abstractmethod
    def answer(self, output: np.ndarray) -> dict[str, Any]:
        """One output as a person reads it: plain data."""

    def answer_features(self, outputs: np.ndarray) -> dict[str, np.ndarray]:
        """Numbers or names of each answer [N] that drift when the model's answers do.

        By default the `decided` label for a task that decides among labels, and the `confidence` of an answer.
        """
        import numpy as np

        found: dict[str, np.ndarray] = {}
        labels, outputs = self.signature().labels, outputs.astype(np.float64)
        if labels and len(outputs):
            found["decided"] = np.array(labels)[self.decisions(outputs)]
        confidences = [self.answer(row).get("confidence") for row in outputs]
        if confidences and all(isinstance(value, float) for value in confidences):
            found["confidence"] = np.array(confidences, np.float64)
        return found

    def residuals(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
        """How far off each answer was [N], by name, once its label has come; empty where a task has no such number."""
        return {}

    score: ClassVar[str]
    """What `scores` are, in words: live experiments compare their means."""

    @abstractmethod
    def scores(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """How good each answer was [N], 0 to 1, higher is better; NaN where its target does not say."""

    def clusters(self, targets: np.ndarray) -> np.ndarray | None:
        """Which rows depend on each other: one number a row [N], equal for those that do; None where none do."""
        return None

    @abstractmethod
    def label_type(self) -> pa.DataType:
        """The Arrow type of a label, as it comes for a request."""

    @abstractmethod
    def labels_of(self, targets: np.ndarray) -> list[Any]:
        """Targets [N, ...] as labels: plain data."""

    @abstractmethod
    def targets_of(self, labels: list[Any]) -> np.ndarray:
        """Labels as targets [N, ...]; what a label does not hold is NaN, and metrics that need it are absent."""

    @abstractmethod
    def signature(self) -> Signature:
        """Of the served model."""

    @abstractmethod
    def parity(self, reference: np.ndarray, other: np.ndarray, tolerance: float, exact: bool = True) -> Parity:
        """Compare outputs on the same rows. `exact` False (a compressed model): only decisions must mostly agree."""

    @abstractmethod
    def read_input(self, path: str) -> np.ndarray:
        """One input from a user's file, as the served model takes it, without batch dimension. Raises ValueError."""
