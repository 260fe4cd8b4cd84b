"""Which clean records of earlier days have the content or the id of one that arrives: an index that grows by day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from dl_pipelines.data.cleaning import Known, field_of
from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.store.records import read_records
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Task

if TYPE_CHECKING:
    import pyarrow as pa

STAGE = "validated_data"
_Entry = tuple[int, str, Known]
"""The order in which records came, the content's sha256, the record."""


class Earlier:
    """Records of days by content and by id. Days are added in order; `behind` holds the days before its first."""

    def __init__(self, behind: Earlier | None = None):
        self.behind = behind
        self.days: list[str] = []
        """What each day was added as: its artifact's digest, or its date."""
        self._count = behind._count if behind else 0
        self._contents: dict[str, _Entry] = {}
        self._ids: dict[str, list[_Entry]] = {}

    def add(self, name: str, day: date, table: pa.Table, task: Task) -> None:
        """The clean records of the next day."""
        columns = (table[column].to_pylist() for column in ("sha256", "id", field_of(task, "target").name))
        self.days.append(name)
        for sha256, record, target in zip(*columns, strict=True):
            entry = (self._count, sha256, Known(record, target, day.isoformat()))
            self._count += 1
            self._contents.setdefault(sha256, entry)
            self._ids.setdefault(record, []).append(entry)

    def met(self, arrived: pa.Table) -> dict[str, Known]:
        """Records with the content or the id of one that arrived, by sha256, of each content the earliest; sorted."""
        found: dict[str, _Entry] = {}
        for entry in self._entries(set(arrived["sha256"].to_pylist()), set(arrived["id"].to_pylist())):
            if entry[1] not in found or entry[0] < found[entry[1]][0]:
                found[entry[1]] = entry
        return {sha256: found[sha256][2] for sha256 in sorted(found)}

    def _entries(self, contents: set[str], ids: set[str]) -> list[_Entry]:
        there = self.behind._entries(contents, ids) if self.behind else []
        there += [self._contents[sha256] for sha256 in contents & self._contents.keys()]
        return there + [entry for name in ids & self._ids.keys() for entry in self._ids[name]]


_kept: dict[tuple[str, str, str], Earlier] = {}


def before(workspace: Workspace, days: Sequence[date], task: Task) -> Earlier:
    """The index of the clean records of these days, as they are stored; a day that did not pass is not in it.

    Kept in memory for as long as the days that it holds stay what they are: only what is new is read.
    """
    there: list[tuple[date, Artifact]] = []
    for day in sorted(days):
        artifact = workspace.find(STAGE, Partition(day))
        if artifact is not None and passes(artifact):
            there.append((day, artifact))
    key = (str(workspace.home.root), workspace.project, field_of(task, "target").name)
    kept, digests = _kept.get(key) or Earlier(), [artifact.digest for _, artifact in there]
    if kept.days != digests[: len(kept.days)]:
        kept = Earlier()
    for day, artifact in there[len(kept.days) :]:
        kept.add(artifact.digest, day, records_of(artifact, task), task)
    _kept[key] = kept
    return kept


def records_of(artifact: Artifact, task: Task) -> pa.Table:
    """What the index needs to know of a day's clean records."""
    return read_records(artifact, columns=["sha256", "id", field_of(task, "target").name])


def passes(artifact: Artifact) -> bool:
    """Whether no blocking gate of a day failed."""
    return all(gate.passed is True for gate in artifact.gates if gate.blocking)


def plain(earlier: Mapping[str, Known]) -> dict[str, list[Any]]:
    """For the settings of an artifact."""
    return {sha256: list(known) for sha256, known in earlier.items()}
