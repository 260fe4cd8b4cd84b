"""True outcomes of live requests: they come late, some twice. The first one of a request is kept.

Who may give one is decided before it gets here: see label_inbox.py and `dlp labels`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dl_pipelines.store.database import Database, now, patiently
from dl_pipelines.store.insert import insert_new
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.tasks.base import Task
from dl_pipelines.wire.records import LONGEST_ID

if TYPE_CHECKING:
    import sqlalchemy as sa

BATCH = 500
"""Labels of one statement."""


class LabelError(ValueError):
    """A label, or a label key, can't be used; says why."""


@dataclass(frozen=True)
class Stored:
    """What became of labels: how many are `new` and how many were known just so; the ids that had another."""

    new: int = 0
    same: int = 0
    conflicts: tuple[str, ...] = ()

    def __add__(self, other: Stored) -> Stored:
        """Of both."""
        return Stored(self.new + other.new, self.same + other.same, self.conflicts + other.conflicts)


def add_labels(workspace: Workspace, labels: Mapping[str, Any]) -> int:
    """Store labels (plain data) by request id, all or none; returns how many are new. Raises as `store_labels`."""
    return store_labels(workspace, labels.items()).new


def store_labels(workspace: Workspace, labels: Iterable[tuple[str, Any]]) -> Stored:
    """Store pairs of a request id and its label (plain data), all or none; an id that has one keeps it.

    Raises LabelError for an id that no request can have and for a label that JSON can't hold, DatabaseError.
    """
    pairs = list(labels)
    for name, label in pairs:
        require_plain(name, label)
    if not pairs:
        return Stored()
    database = Database.of(workspace.home, workspace.project)

    def store() -> Stored:
        with database.begin() as connection:
            return keep_first(connection, workspace.project, pairs)

    with contextlib.closing(database):
        return patiently(store, "store labels")


def keep_first(connection: sa.Connection, project: str, labels: Iterable[tuple[str, Any]]) -> Stored:
    """Part of a transaction: store those whose request has no label yet, compare the others."""
    from dl_pipelines.store.tables import labels as table

    total = Stored()
    given = list(labels)
    for start in range(0, len(given), BATCH):
        pairs = given[start : start + BATCH]
        rows = [{"project": project, "request_id": name, "label": label, "at": now()} for name, label in pairs]
        fresh = set(insert_new(connection, table, rows, table.c.request_id))
        new, known = len(fresh), list[tuple[str, Any]]()
        for name, label in pairs:
            if name in fresh:
                fresh.discard(name)  # the same id once more in what was given is no longer new
            else:
                known.append((name, label))
        before = _labels(connection, project, [name for name, _ in known])
        other = tuple(name for name, label in known if canonical(label) != canonical(before[name]))
        total += Stored(new, len(known) - len(other), other)
    return total


def _labels(connection: sa.Connection, project: str, ids: list[str]) -> dict[str, Any]:
    import sqlalchemy as sa

    from dl_pipelines.store.tables import labels as table

    query = sa.select(table.c.request_id, table.c.label).where(table.c.project == project)
    return {row.request_id: row.label for row in connection.execute(query.where(table.c.request_id.in_(ids)))}


def read_labels(workspace: Workspace) -> dict[str, Any]:
    """Labels by request id."""
    import sqlalchemy as sa

    from dl_pipelines.store.tables import labels as table

    database = Database.of(workspace.home, workspace.project)
    with contextlib.closing(database), database.begin() as connection:
        query = sa.select(table.c.request_id, table.c.label).where(table.c.project == workspace.project)
        return {row.request_id: row.label for row in connection.execute(query)}


def unknown_requests(workspace: Workspace, ids: Iterable[str]) -> list[str]:
    """Those of the ids that the table of predictions has not, in order: wrong ones, or not carried as yet."""
    import sqlalchemy as sa

    from dl_pipelines.store.tables import predictions as table

    asked, known = list(dict.fromkeys(ids)), set[str]()
    database = Database.of(workspace.home, workspace.project)
    with contextlib.closing(database), database.begin() as connection:
        query = sa.select(table.c.request_id).where(table.c.project == workspace.project)
        for start in range(0, len(asked), BATCH):
            known |= set(
                connection.execute(query.where(table.c.request_id.in_(asked[start : start + BATCH]))).scalars()
            )
    return [name for name in asked if name not in known]


def canonical(label: Any) -> str:
    """A label as JSON, always the same: keys sorted, no spaces, ASCII. Raises TypeError or ValueError (NaN)."""
    return json.dumps(label, sort_keys=True, separators=(",", ":"), allow_nan=False)


def require_plain(name: Any, label: Any) -> None:
    """Raises LabelError unless a request can have this id and JSON can hold this label."""
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_ID or "\0" in name:
        text = f', such as "{name}"' if isinstance(name, int) and not isinstance(name, bool) else ""
        raise LabelError(f"found the request id {name!r}; expected 1 to {LONGEST_ID} characters of text{text}")
    try:
        canonical(label)
    except (TypeError, ValueError) as error:
        raise LabelError(
            f"found a label of {name} that JSON can't hold ({error}); expected plain data, null for what is missing"
        ) from error


def fitting_label(task: Task, label: Any) -> Any:
    """A label as the task's labels are; a class may be given by its name. Raises LabelError."""
    import pyarrow as pa

    classes, kind = task.signature().labels, task.label_type()
    if isinstance(label, str) and label in classes:
        label = classes.index(label)
    names = f", 0 to {len(classes) - 1}, or one of {', '.join(classes[:9])}" if classes else ""
    try:
        if label is None or isinstance(label, bool):
            raise ValueError("there is nothing to compare with")
        (fits,) = pa.array([label], kind).to_pylist()
        if fits != label:
            raise ValueError(f"it would be {fits}")
        if classes and not 0 <= fits < len(classes):
            raise ValueError("there is no such class")
        task.targets_of([fits])
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise LabelError(f"found the label {label!r} ({error}); expected {kind}{names}") from error
    return fits
