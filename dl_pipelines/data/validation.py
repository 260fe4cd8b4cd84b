"""`validated_data`: clean records, a quarantine with reasons, a quality score, Great Expectations' verdict on a day.

The suite is generated from the task's schema and the brief's `data.validation`; its Data Docs are pages in the home.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dl_pipelines.brief.sections import Data
from dl_pipelines.data import earlier
from dl_pipelines.data.cleaning import Cleaned, Known, clean, facts
from dl_pipelines.data.expecting import validate_days
from dl_pipelines.data.raw import PICTURED, Outcome, arriving
from dl_pipelines.data.registry import SOURCES
from dl_pipelines.data.samples import reasons_table, show_records
from dl_pipelines.data.sources.base import Quarantined
from dl_pipelines.store.artifacts import Artifact, ArtifactError, Draft, Gate, StageSkipped
from dl_pipelines.store.many import side_by_side
from dl_pipelines.store.records import read_records, write_records
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import IN_SET, NOT_NULL, Expectation, Task

if TYPE_CHECKING:
    import pyarrow as pa

STAGE = "validated_data"
VERSION = 2
"""Raised when the same records would be judged otherwise."""
TOGETHER_BYTES = 200_000_000
"""Records that are judged at once are held in memory: a range of days is cut where they would be more."""


def expectations(data: Data, task: Task) -> list[Expectation]:
    """The suite about a day as it arrived, generated from the task's schema and the brief.

    Unfit records are kept out one by one; an expectation on their kind fails when they are more than the brief allows.
    """
    limits = data.validation
    most = {"mostly": round(1 - limits.max_quarantined, 9)}
    unique, present, inside = "ExpectColumnValuesToBeUnique", NOT_NULL, IN_SET
    return [
        Expectation("enough_records", "ExpectColumnSumToBeBetween",
                    {"column": "kept", "min_value": limits.min_records},
                    f"at least {limits.min_records} clean records"),
        Expectation("id_present", present, {"column": "id", **most}, "each record has an id"),
        Expectation("id_unique", unique, {"column": "id", **most}, "no id twice"),
        *task.expectations(limits),
        Expectation("sha256_present", present, {"column": "sha256", **most}, "each record has a checksum"),
        Expectation("duplicates", inside,
                    {"column": "duplicates", "value_set": [0], "mostly": round(1 - limits.max_duplicates, 9)},
                    f"at most {limits.max_duplicates:.1%} of the records repeat another, also of earlier days"),
    ]  # fmt: skip


QUARANTINE_GATE = "quarantine_share"
"""A gate beside the suite: it counts what could not be read as well, which the table of facts doesn't hold."""


def gates_of(data: Data, task: Task) -> dict[str, str]:
    """Every blocking gate that the stage evaluates, with what it is about."""
    share = f"at most {data.validation.max_quarantined:.1%} of the records are quarantined"
    blocking = {item.name: item.sentence for item in expectations(data, task) if item.blocking}
    return {**blocking, QUARANTINE_GATE: share}


def warnings_of(data: Data, task: Task) -> dict[str, str]:
    """Every gate that only warns, with what it is about."""
    return {item.name: item.sentence for item in expectations(data, task) if not item.blocking}


def make_validated_data(workspace: Workspace, partition: Partition, data: Data, task: Task) -> Artifact:
    """The same for one day. Raises StageSkipped on a day without records, else as make_validated_days."""
    ((_, outcome),) = make_validated_days(workspace, [partition.day], data, task)
    if isinstance(outcome, StageSkipped):
        raise outcome
    return outcome


def make_validated_days(
    workspace: Workspace, days: Sequence[date], data: Data, task: Task
) -> Iterator[tuple[date, Outcome]]:
    """Clean records (`records.lance`), `quarantine.json`, `quality.json`, `expectations.json` of each day; Data Docs.

    Great Expectations runs once for all days that have to be judged; a day's artifact is the same as if it were judged
    alone, after the days before it. Earlier days count only by the records that a day repeats; a day that the source
    no longer has does not count, nor one that failed.
    Raises ArtifactError when a day's raw data is missing, damaged, of another schema or has no passing report.
    """
    there, arrived, skipped = arriving(SOURCES.make(data.source), data, days)
    for block in _blocks(workspace, there, arrived, task):
        known = earlier.before(workspace, [day for day in there if day < block[0].day], task)
        judged = _judge(workspace, block, known, data, task)

        def make(item: _Arrived, judged: Mapping[date, _Judged] = judged) -> Artifact:
            return _make(workspace, item, judged[item.day], data, task)

        for item, artifact in zip(block, side_by_side(make, block), strict=True):
            yield item.day, artifact
    yield from skipped


@dataclass(frozen=True)
class _Arrived:
    """A day as it arrived."""

    day: date
    raw: Artifact
    table: pa.Table


@dataclass
class _Judged:
    """What a day is when these records were there before: its artifact if there is one, else what to make it of."""

    met: dict[str, Known]
    found: Artifact | None
    clean: pa.Table
    cleaned: Cleaned | None = None
    unreadable: Sequence[Quarantined] = ()
    results: Sequence[dict[str, Any]] = ()
    passes: bool = True
    """Taken for granted until it is judged."""
    pictured: bool = True


def _blocks(
    workspace: Workspace, there: Sequence[date], arrived: Sequence[date], task: Task
) -> Iterator[list[_Arrived]]:
    """The days as they arrived, cut where a day of the source lies between that isn't asked for, and for memory."""

    def read(day: date) -> _Arrived:
        raw = workspace.get("raw_data", Partition(day)).require_gates()
        table = read_records(raw)
        if not table.schema.equals(task.arrow_schema()):
            raise ArtifactError(
                f"found records of {day} with another schema than the task's ({_differs(table, task)}): the "
                "brief has changed since they were read; run raw_data again"
            )
        return _Arrived(day, raw, table)

    follows = dict(pairwise(there))
    block: list[_Arrived] = []
    held = 0
    for item in side_by_side(read, arrived):
        held += (size := item.table.nbytes)
        if block and (follows[block[-1].day] != item.day or held > TOGETHER_BYTES):
            yield block
            block, held = [], size
        block.append(item)
    if block:
        yield block


def _judge(
    workspace: Workspace, block: Sequence[_Arrived], known: earlier.Earlier, data: Data, task: Task
) -> dict[date, _Judged]:
    """Each day after those before it. Whether a day failed decides what later days repeat: those are judged again."""
    judged: dict[date, _Judged] = {}
    while True:
        index, unjudged = earlier.Earlier(known), []
        for item in block:
            met = index.met(item.table)
            if item.day not in judged or judged[item.day].met != met:
                judged[item.day] = _look(workspace, item, met, data, task)
                unjudged += [item] if judged[item.day].found is None else []
            if judged[item.day].passes:
                index.add(item.day.isoformat(), item.day, judged[item.day].clean, task)
        if not unjudged:
            break
        _expect(workspace, unjudged, judged, data, task)
    for item in block[:-PICTURED]:
        judged[item.day].pictured = False
    return judged


def _look(workspace: Workspace, item: _Arrived, met: dict[str, Known], data: Data, task: Task) -> _Judged:
    found = workspace.known(STAGE, Partition(item.day), **_inputs(item, met, data, task))
    if found is not None:
        return _Judged(met, found, earlier.records_of(found, task), passes=earlier.passes(found))
    unreadable = [Quarantined(**plain) for plain in item.raw.read_json("quarantine.json")]
    cleaned = clean(item.table, task, met)
    return _Judged(met, None, cleaned.table, cleaned, unreadable)


def _inputs(item: _Arrived, met: Mapping[str, Known], data: Data, task: Task) -> dict[str, Any]:
    """What decides about a day's artifact."""
    settings = {"validation": data.validation.model_dump(mode="json"), "task": [str(item) for item in task.fields()],
                "earlier": earlier.plain(met)}  # fmt: skip
    return {"settings": settings, "parents": {"raw_data": item.raw}, "version": VERSION}


def _docs(workspace: Workspace) -> Path:
    return workspace.home.docs / workspace.project / "great_expectations"


def _expect(
    workspace: Workspace, items: Sequence[_Arrived], judged: Mapping[date, _Judged], data: Data, task: Task
) -> None:
    """Judge days by Great Expectations, all in one run."""
    from filelock import FileLock

    frames, records = {}, 0
    for item in items:
        cleaned = judged[item.day].cleaned
        assert cleaned is not None
        frames[item.day.isoformat()] = facts(item.table, task, cleaned)
        records += item.table.num_rows
    first, last = items[0].day.isoformat(), items[-1].day.isoformat()
    days = f" of {len(items)} days" if len(items) > 1 else ""
    workspace.progress(STAGE, f"{records} records{days} against Great Expectations")
    name = first if len(items) == 1 else f"{first}_{last}"
    with FileLock(workspace.home.locks / f"great_expectations-{workspace.project}.lock"):  # its files are shared
        results = validate_days(frames, expectations(data, task), _docs(workspace), name)
    for item in items:
        there = judged[item.day]
        there.results = results[item.day.isoformat()]
        failed = [result for result in there.results if result["blocking"] and not result["success"]]
        there.passes = not failed and _share(item, there)[0] <= data.validation.max_quarantined


def _share(item: _Arrived, judged: _Judged) -> tuple[float, float]:
    """Which share of all that arrived is quarantined, and which is clean."""
    assert judged.cleaned is not None
    records = item.table.num_rows + len(judged.unreadable)
    kept_out = len(judged.unreadable) + len(judged.cleaned.quarantined)
    return kept_out / records, judged.clean.num_rows / records


def _make(workspace: Workspace, item: _Arrived, judged: _Judged, data: Data, task: Task) -> Artifact:
    def build(draft: Draft) -> None:
        cleaned = judged.cleaned
        assert cleaned is not None, "what was found is not made"
        write_records(draft, cleaned.table)
        _write(draft, item, judged, cleaned, data)
        draft.show(data_docs=str(_docs(workspace) / "gx/uncommitted/data_docs/local_site/index.html"))
        if judged.pictured:
            draft.show(**show_records(cleaned.table, task))

    return workspace.make(STAGE, Partition(item.day), build, **_inputs(item, judged.met, data, task))


def _differs(table: pa.Table, task: Task) -> str:
    there, wanted = {str(field) for field in table.schema}, {str(field) for field in task.arrow_schema()}
    return (
        f"found {', '.join(sorted(there - wanted)) or 'fewer'}, expected {', '.join(sorted(wanted - there)) or 'fewer'}"
    )


def _write(draft: Draft, item: _Arrived, judged: _Judged, cleaned: Cleaned, data: Data) -> None:
    unreadable, results, limit = judged.unreadable, judged.results, data.validation.max_quarantined
    records, (share, score) = item.table.num_rows + len(unreadable), _share(item, judged)
    quarantined = [*unreadable, *cleaned.quarantined]
    draft.write_json("quarantine.json", [item.plain() for item in quarantined])
    draft.write_json("expectations.json", results)
    draft.write_json("quality.json", {
        "score": round(score, 6), "records": records, "clean": cleaned.table.num_rows,
        "quarantined": len(quarantined), "unreadable": len(unreadable), "duplicates": cleaned.duplicates,
    })  # fmt: skip
    for result in results:
        summary = f"{result['sentence']}: found {result['observed']}"
        draft.gate(Gate(result["name"], result["success"], summary, blocking=result["blocking"],
                        facts={"observed": result["observed"]}))  # fmt: skip
    first = f"; the first: {quarantined[0].uri}: {quarantined[0].reason}" if quarantined else ""
    draft.gate(Gate(QUARANTINE_GATE, share <= limit,
                    f"{share:.1%} of the records are quarantined, at most {limit:.1%}{first}",
                    blocking=True, facts={"share": share}))  # fmt: skip
    draft.show(records=cleaned.table.num_rows, quarantined=len(quarantined), duplicates=cleaned.duplicates,
               quality=round(score, 4), expectations=len(results),
               failed=sum(not item["success"] for item in results))  # fmt: skip
    if quarantined:
        draft.show(quarantine={"md": reasons_table(quarantined)})
