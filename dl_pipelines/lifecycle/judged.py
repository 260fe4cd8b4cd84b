"""How good the answers of a stage were: the score of each by its label, and its mean by unit.

Only answers that are old enough are judged; one without a label is known to be missing, and no score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from dl_pipelines.lifecycle.rollout import Moments
from dl_pipelines.tasks.base import Task
from dl_pipelines.wire.routing import CHALLENGER, CHAMPION

if TYPE_CHECKING:
    import numpy as np
    import sqlalchemy as sa

CHUNK = 4096
"""Rows that are read, and scored, at once."""
NOTHING = Moments()


@dataclass(frozen=True)
class Stage:
    """Which stage to count: a row of `rollouts`. `since` and all times in seconds since 1970."""

    project: str
    number: int
    revision: int
    share: float
    challenger: str
    since: float

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Stage:
        """From a row of `rollouts`."""
        since = datetime.fromisoformat(row["at"]).timestamp()
        return cls(row["project"], row["stage"], row["id"], row["share"], row["challenger"], since)

    @property
    def shadow(self) -> bool:
        """Whether the challenger answers nobody."""
        return self.share == 0


@dataclass
class ByUnit:
    """Means of units whose values come one after the other: `close` ends the last one. NaN: nothing known of a row."""

    units: int = 0
    moments: Moments = NOTHING
    _unit: str | None = None
    _sum: float = 0.0
    _known: int = 0

    def add(self, unit: str, value: float) -> None:
        """One value of a unit."""
        if unit != self._unit:
            self.close()
            self._unit = unit
        if value == value:
            self._sum, self._known = self._sum + value, self._known + 1

    def close(self) -> None:
        """No more of the last unit."""
        if self._unit is not None:
            self.units += 1
            if self._known:
                mean, old = self._sum / self._known, self.moments
                self.moments = Moments(old.count + 1, old.total + mean, old.squares + mean * mean)
        self._unit, self._sum, self._known = None, 0.0, 0


def of_stage(table: sa.Table, stage: Stage) -> list[sa.ColumnElement[bool]]:
    """Which rows of a table of the router's log belong to a stage."""
    return [table.c.project == stage.project, table.c.revision == stage.revision]


def scores(
    connection: sa.Connection, stage: Stage, task: Task, until: float
) -> tuple[dict[str, ByUnit], Moments | None]:
    """The scores of each arm's units up to a time, and in a shadow stage those of the differences."""
    found, apart = {name: ByUnit() for name in (CHAMPION, CHALLENGER)}, ByUnit()
    for chunk in connection.execute(_judged(stage, until), execution_options={"yield_per": CHUNK}).partitions():
        labels = [row.label for row in chunk]
        own = scored(task, [(row.outputs, row.dtype, row.shape) for row in chunk], labels)
        other = own
        if stage.shadow:
            other = scored(task, [(row.shadow, row.shadow_dtype, row.shadow_shape) for row in chunk], labels)
        for row, first, second in zip(chunk, own.tolist(), other.tolist(), strict=True):
            if not stage.shadow:
                if row.arm in found:
                    found[row.arm].add(row.unit, first)
                continue
            found[CHAMPION].add(row.unit, first)
            if row.shadow is not None:
                found[CHALLENGER].add(row.unit, second)
                apart.add(row.unit, second - first)
    for item in (*found.values(), apart):
        item.close()
    return found, apart.moments if stage.shadow else None


def _judged(stage: Stage, until: float) -> sa.Select[Any]:
    """Every answer that is old enough with its label, if it has one, in the order of units."""
    import sqlalchemy as sa

    from dl_pipelines.store.tables import labels, predictions, shadow_predictions

    table = predictions
    labelled = (labels.c.project == table.c.project) & (labels.c.request_id == table.c.request_id)
    place = table.outerjoin(labels, labelled)
    columns = [table.c.arm, table.c.unit, table.c.outputs, table.c.dtype, table.c.shape, labels.c.label]
    if stage.shadow:
        other = shadow_predictions
        same = (other.c.project == table.c.project) & (other.c.request_id == table.c.request_id)
        place = place.outerjoin(other, same & (other.c.model == stage.challenger) & other.c.failure.is_(None))
        columns += [
            other.c.outputs.label("shadow"), other.c.dtype.label("shadow_dtype"), other.c.shape.label("shadow_shape"),
        ]  # fmt: skip
    return (
        sa.select(*columns)
        .select_from(place)
        .where(*of_stage(table, stage), table.c.asked_at <= until, table.c.outputs.is_not(None))
        .order_by(table.c.unit)
    )


def scored(task: Task, answers: Sequence[tuple[bytes | None, str, Sequence[int]]], labels: Sequence[Any]) -> np.ndarray:
    """The score of each answer (raw bytes, dtype, shape) [N], 0 to 1; NaN where the answer or its label is missing.

    A label that is none of this task's is missing too: whoever sends it must not hold up the others.
    """
    import numpy as np

    found = np.full(len(labels), np.nan)
    kinds: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for place, ((content, dtype, shape), label) in enumerate(zip(answers, labels, strict=True)):
        if content is not None and label is not None:
            kinds.setdefault((dtype, tuple(shape)), []).append(place)
    for (dtype, shape), places in kinds.items():
        content = b"".join(answers[place][0] or b"" for place in places)
        outputs = np.frombuffer(content, dtype).reshape(len(places), *shape)
        given = [labels[place] for place in places]
        try:
            found[places] = task.scores(outputs, task.targets_of(given))
        except (ValueError, TypeError, OverflowError):
            found[places] = [_alone(task, outputs[row : row + 1], label) for row, label in enumerate(given)]
    return np.clip(found, 0.0, 1.0)


def _alone(task: Task, outputs: np.ndarray, label: Any) -> float:
    try:
        return float(task.scores(outputs, task.targets_of([label]))[0])
    except (ValueError, TypeError, OverflowError):
        return float("nan")
