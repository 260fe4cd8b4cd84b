"""`validated_data`: clean records, a quarantine with reasons, a quality score, Great Expectations' verdict on a day.

The suite is generated from the task's schema and the brief's `data.validation`; its Data Docs are pages in the home.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dl_pipelines.brief.sections import Data
from dl_pipelines.data.cleaning import Cleaned, Known, clean, facts, field_of
from dl_pipelines.data.registry import SOURCES
from dl_pipelines.data.samples import reasons_table, show_records
from dl_pipelines.data.sources.base import Quarantined
from dl_pipelines.store.artifacts import Artifact, ArtifactError, Draft, Gate
from dl_pipelines.store.records import read_records, write_records
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import IN_SET, NOT_NULL, Expectation, Task

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from great_expectations.core import ExpectationValidationResult

STAGE = "validated_data"
VERSION = 2
"""Raised when the same records would be judged otherwise."""


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
    """Clean records (`records.lance`), `quarantine.json`, `quality.json`, `expectations.json`, and Data Docs.

    Earlier days count only by the records that this day repeats; a day that the source no longer has does not count.
    Raises ArtifactError when the day's raw data is missing, damaged, of another schema or has no passing report,
    StageSkipped on a day without records.
    """
    source = SOURCES.make(data.source)
    source.require_day(partition.day, data.start)
    raw = workspace.get("raw_data", partition.daily).require_gates()
    arrived = read_records(raw)
    if not arrived.schema.equals(task.arrow_schema()):
        raise ArtifactError(
            f"found records of {partition.key} with another schema than the task's ({_differs(arrived, task)}): the "
            "brief has changed since they were read; run raw_data again"
        )
    days = [day for day in source.days(data.start) if day < partition.day]
    earlier = met_earlier(workspace, days, arrived, task)

    def build(draft: Draft) -> None:
        from filelock import FileLock

        unreadable = [Quarantined(**item) for item in raw.read_json("quarantine.json")]
        cleaned = clean(arrived, task, earlier)
        write_records(draft, cleaned.table)
        workspace.progress(STAGE, f"{arrived.num_rows} records against Great Expectations")
        docs = workspace.home.docs / workspace.project / "great_expectations"
        with FileLock(workspace.home.locks / f"great_expectations-{workspace.project}.lock"):  # its files are shared
            results = validate(facts(arrived, task, cleaned), expectations(data, task), docs, partition.key)
        _write(draft, arrived.num_rows, unreadable, cleaned, results, data)
        draft.show(data_docs=str(docs / "gx/uncommitted/data_docs/local_site/index.html"))
        draft.show(**show_records(cleaned.table, task))

    settings = {"validation": data.validation.model_dump(mode="json"), "task": [str(item) for item in task.fields()],
                "earlier": {sha256: list(known) for sha256, known in earlier.items()}}  # fmt: skip
    return workspace.make(STAGE, partition.daily, build, settings=settings, parents={"raw_data": raw}, version=VERSION)


def _differs(table: pa.Table, task: Task) -> str:
    there, wanted = {str(field) for field in table.schema}, {str(field) for field in task.arrow_schema()}
    return (
        f"found {', '.join(sorted(there - wanted)) or 'fewer'}, expected {', '.join(sorted(wanted - there)) or 'fewer'}"
    )


def met_earlier(workspace: Workspace, days: Iterable[date], arrived: pa.Table, task: Task) -> dict[str, Known]:
    """Clean records of these earlier days that have the content or the id of one that arrived, by sha256."""
    contents, ids = set(arrived["sha256"].to_pylist()), set(arrived["id"].to_pylist())
    met: dict[str, Known] = {}
    for before in sorted(days):
        artifact = workspace.find(STAGE, Partition(before))
        if artifact is None or any(gate.passed is not True for gate in artifact.gates):
            continue
        for sha256, (name, target) in _contents(artifact.digest, artifact, field_of(task, "target").name).items():
            if sha256 in contents or name in ids:
                met.setdefault(sha256, Known(name, target, before.isoformat()))
    return dict(sorted(met.items()))


_REMEMBERED: dict[str, dict[str, tuple[str, Any]]] = {}


def _contents(digest: str, artifact: Artifact, target: str) -> dict[str, tuple[str, Any]]:
    """Id and target of each record by its sha256; kept in memory, as every later day asks for it."""
    if digest not in _REMEMBERED:
        table = read_records(artifact, columns=["sha256", "id", target])
        columns = (table[name].to_pylist() for name in ("sha256", "id", target))
        _REMEMBERED[digest] = {sha256: (name, value) for sha256, name, value in zip(*columns, strict=True)}
    return _REMEMBERED[digest]


def _write(
    draft: Draft, arrived: int, unreadable: list[Quarantined], cleaned: Cleaned, results: list[dict], data: Data
) -> None:
    records, limit = arrived + len(unreadable), data.validation.max_quarantined
    quarantined = [*unreadable, *cleaned.quarantined]
    share, score = len(quarantined) / records, cleaned.table.num_rows / records
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


def validate(frame: pd.DataFrame, suite: list[Expectation], docs: Path, name: str) -> list[dict[str, Any]]:
    """Run Great Expectations on a table of facts and render its Data Docs below `docs`; one plain dict a result."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx
    from great_expectations.checkpoint.actions import UpdateDataDocsAction
    from great_expectations.data_context.types.base import ProgressBarsConfig

    docs.mkdir(parents=True, exist_ok=True)
    context = gx.get_context(mode="file", project_root_dir=docs)
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    rules = [
        getattr(gx.expectations, item.kind)(**item.arguments, notes=item.sentence, meta={"name": item.name})
        for item in suite
    ]
    expected = context.suites.add_or_update(gx.ExpectationSuite(name=name, expectations=rules))
    source = context.data_sources.add_or_update_pandas("records")
    batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("day")
    definition = gx.ValidationDefinition(name=name, data=batch, suite=expected)
    checkpoint = gx.Checkpoint(
        name=name,
        validation_definitions=[context.validation_definitions.add_or_update(definition)],
        actions=[UpdateDataDocsAction(name="data_docs")],
        result_format="SUMMARY",
    )
    run = context.checkpoints.add_or_update(checkpoint).run(batch_parameters={"dataframe": frame})
    sentences = {item.name: item for item in suite}
    plain = []
    for result in next(iter(run.run_results.values())).results:
        assert result.expectation_config and result.expectation_config.meta
        item = sentences[result.expectation_config.meta["name"]]
        plain.append({"name": item.name, "expectation": item.kind, "sentence": item.sentence,
                      "column": item.arguments.get("column"), "kwargs": dict(item.arguments),
                      "success": bool(result.success), "blocking": item.blocking,
                      "observed": _observed(result)})  # fmt: skip
    return plain


def _observed(checked: ExpectationValidationResult) -> str:
    faults = (checked.exception_info or {}).values()
    raised = [fault["exception_message"] for fault in faults if isinstance(fault, dict) and fault["raised_exception"]]
    if raised:
        return f"no result: {raised[0]}"
    result = checked.result
    if "observed_value" in result:
        return str(result["observed_value"])
    unexpected = int(result.get("unexpected_count", 0))
    examples = ", ".join(str(item)[:40] for item in result.get("partial_unexpected_list", [])[:3])
    return f"{unexpected} of {result.get('element_count', 0)} otherwise" + (f" ({examples})" if examples else "")
