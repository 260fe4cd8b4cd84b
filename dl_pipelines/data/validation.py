"""`validated_data`: clean records, a quarantine with reasons, a quality score, Great Expectations' verdict on a day.

The suite is generated from the task's schema and the brief's `data.validation`; its Data Docs are pages in the home.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dl_pipelines.brief.sections import Data
from dl_pipelines.data.cleaning import Cleaned, clean, facts
from dl_pipelines.data.sources.base import Quarantined
from dl_pipelines.store.artifacts import Artifact, Draft, Gate
from dl_pipelines.store.records import read_records, write_records
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Task

if TYPE_CHECKING:
    import pandas as pd

STAGE = "validated_data"


@dataclass(frozen=True)
class Expected:
    """One expectation: a name of ours, GX's class, its arguments, and the sentence a person reads."""

    name: str
    kind: str
    arguments: Mapping[str, Any]
    sentence: str


def expectations(data: Data, task: Task) -> list[Expected]:
    """The suite, generated from the task's schema and the brief."""
    fields = {field.role: field for field in task.fields()}
    shape, target = fields["input"], fields["target"]
    low, high = data.validation.mean_range or (shape.low, shape.high)
    between, unique = "ExpectColumnValuesToBeBetween", "ExpectColumnValuesToBeUnique"
    suite = [
        Expected("enough_records", "ExpectTableRowCountToBeBetween", {"min_value": data.validation.min_records},
                 f"at least {data.validation.min_records} records"),
        Expected("id_present", "ExpectColumnValuesToNotBeNull", {"column": "id"}, "each record has an id"),
        Expected("id_unique", unique, {"column": "id"}, "no id twice"),
        Expected("shape", "ExpectColumnValuesToBeInSet",
                 {"column": "shape", "value_set": ["x".join(map(str, shape.shape))]}, f"shape {shape.shape}"),
        Expected("dtype", "ExpectColumnValuesToBeInSet", {"column": "dtype", "value_set": [shape.dtype]},
                 f"dtype {shape.dtype}"),
        Expected("label_present", "ExpectColumnValuesToNotBeNull", {"column": "label"}, "each record has a target"),
        Expected("label_range", between, {"column": "label", "min_value": target.low, "max_value": target.high},
                 f"{target.name} from {target.low} to {target.high}"),
        Expected("mean_range", between, {"column": "mean", "min_value": low, "max_value": high},
                 f"mean from {low} to {high} {shape.unit}"),
        Expected("not_blank", between, {"column": "std", "min_value": 0, "strict_min": True, "mostly": 0.99},
                 "99 % of the records are not one flat value"),
        Expected("sha256_present", "ExpectColumnValuesToNotBeNull", {"column": "sha256"}, "each record has a checksum"),
        Expected("no_duplicates", unique, {"column": "sha256"}, "no content twice after cleaning"),
    ]  # fmt: skip
    if any(field.name == "mode" for field in task.fields()):
        modes = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I"]
        suite.append(
            Expected(
                "mode", "ExpectColumnValuesToBeInSet", {"column": "mode", "value_set": modes}, "a known colour mode"
            )
        )
    return suite


OWN_GATES = ("quarantine_share", "duplicate_share")
"""Gates beside the suite: shares of the day as it arrived, before cleaning."""


def gate_names(data: Data, task: Task) -> list[str]:
    """Every gate that the stage evaluates, all of them blocking."""
    return [*(item.name for item in expectations(data, task)), *OWN_GATES]


def make_validated_data(workspace: Workspace, partition: Partition, data: Data, task: Task) -> Artifact:
    """Clean records (`records.lance`), `quarantine.json`, `quality.json`, `expectations.json`, and Data Docs."""
    raw = workspace.get("raw_data", partition.daily).require_gates()
    before = [workspace.get(STAGE, Partition(day)) for day in workspace.days(STAGE) if day < partition.day]

    def build(draft: Draft) -> None:
        arrived = read_records(raw)
        unreadable = [Quarantined(**item) for item in raw.read_json("quarantine.json")]
        cleaned = clean(arrived, task, _targets(before, task))
        write_records(draft, cleaned.table)
        workspace.progress(STAGE, f"{cleaned.table.num_rows} records against Great Expectations")
        docs = workspace.home.docs / workspace.project / "great_expectations"
        results = validate(facts(cleaned.table, task), expectations(data, task), docs, partition.key)
        _write(draft, arrived.num_rows, unreadable, cleaned, results, data)
        draft.show(data_docs=str(docs / "gx/uncommitted/data_docs/local_site/index.html"))

    settings = {"validation": data.validation.model_dump(mode="json"), "task": [str(item) for item in task.fields()],
                "earlier": [artifact.short for artifact in before]}  # fmt: skip
    return workspace.make(STAGE, partition.daily, build, settings=settings, parents={"raw_data": raw})


def _targets(before: list[Artifact], task: Task) -> dict[str, object]:
    """The target of every record of earlier days, by its content's sha256."""
    target = next(field.name for field in task.fields() if field.role == "target")
    seen: dict[str, object] = {}
    for artifact in before:
        table = read_records(artifact, columns=["sha256", target])
        seen.update(zip(table["sha256"].to_pylist(), table[target].to_pylist(), strict=True))
    return seen


def _write(
    draft: Draft, arrived: int, unreadable: list[Quarantined], cleaned: Cleaned, results: list[dict], data: Data
) -> None:
    records, limits = arrived + len(unreadable), data.validation
    quarantined = [*unreadable, *cleaned.quarantined]
    share = len(quarantined) / records if records else 0.0
    duplicates = cleaned.duplicates / records if records else 0.0
    score = cleaned.table.num_rows / records if records else 0.0
    draft.write_json("quarantine.json", [item.plain() for item in quarantined])
    draft.write_json("expectations.json", results)
    draft.write_json("quality.json", {
        "score": round(score, 6), "records": records, "clean": cleaned.table.num_rows,
        "quarantined": len(quarantined), "unreadable": len(unreadable), "duplicates": cleaned.duplicates,
    })  # fmt: skip
    for result in results:
        summary = f"{result['sentence']}: found {result['observed']}"
        draft.gate(
            Gate(result["name"], result["success"], summary, blocking=True, facts={"observed": result["observed"]})
        )
    first = f"; the first: {quarantined[0].uri}: {quarantined[0].reason}" if quarantined else ""
    draft.gate(Gate("quarantine_share", share <= limits.max_quarantined,
                    f"{share:.1%} of the records are quarantined, at most {limits.max_quarantined:.1%}{first}",
                    blocking=True, facts={"share": share}))  # fmt: skip
    draft.gate(Gate("duplicate_share", duplicates <= limits.max_duplicates,
                    f"{duplicates:.1%} of the records repeat another, at most {limits.max_duplicates:.1%}",
                    blocking=True, facts={"share": duplicates}))  # fmt: skip
    draft.show(records=cleaned.table.num_rows, quarantined=len(quarantined), quality=round(score, 4),
               expectations=len(results), failed=sum(not item["success"] for item in results))  # fmt: skip


def validate(frame: pd.DataFrame, suite: list[Expected], docs: Path, name: str) -> list[dict[str, Any]]:
    """Run Great Expectations on a table of facts and render its Data Docs below `docs`; one plain dict a result."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx

    docs.mkdir(parents=True, exist_ok=True)
    context = gx.get_context(mode="file", project_root_dir=docs)
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    rules = [
        getattr(gx.expectations, item.kind)(**item.arguments, meta={"name": item.name, "notes": item.sentence})
        for item in suite
    ]
    expected = context.suites.add_or_update(gx.ExpectationSuite(name=name, expectations=rules))
    source = context.data_sources.add_or_update_pandas("records")
    batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("day")
    definition = gx.ValidationDefinition(name=name, data=batch, suite=expected)
    checkpoint = gx.Checkpoint(
        name=name,
        validation_definitions=[context.validation_definitions.add_or_update(definition)],
        actions=[gx.checkpoint.UpdateDataDocsAction(name="data_docs")],
        result_format="SUMMARY",
    )
    run = context.checkpoints.add_or_update(checkpoint).run(batch_parameters={"dataframe": frame})
    sentences = {item.name: item for item in suite}
    plain = []
    for result in next(iter(run.run_results.values())).results:
        item = sentences[result.expectation_config.meta["name"]]
        plain.append({"name": item.name, "expectation": item.kind, "sentence": item.sentence,
                      "column": item.arguments.get("column"), "success": bool(result.success),
                      "observed": _observed(result.result)})  # fmt: skip
    return plain


def _observed(result: Mapping[str, Any]) -> str:
    if "observed_value" in result:
        return str(result["observed_value"])
    unexpected = int(result.get("unexpected_count", 0))
    examples = ", ".join(str(item)[:40] for item in result.get("partial_unexpected_list", [])[:3])
    return f"{unexpected} of {result.get('element_count', 0)} otherwise" + (f" ({examples})" if examples else "")
