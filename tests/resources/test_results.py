"""From an artifact to what Dagster shows: metadata by kind, gates with three outcomes, versions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dl_pipelines.store.artifacts import Artifact, Draft, Gate
from dl_pipelines.store.digest import digest_json
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Partition, Workspace
from resources import results

KEY = dg.AssetKey(["little", "evaluation"])
DAY = Partition.parse("2026-01-01")
GATES = [
    Gate("finite", True, "all finite", blocking=True, facts={"rows": 5, "worst": None}),
    Gate("parity", False, "differs by 3", blocking=True),
    Gate("threshold_f1", False, "0.9 is below 0.97", facts={"value": 0.9, "classes": ["3", "8"]}),
    Gate("drift_calm", None, "100 records; at least 200 are needed"),
]


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(Home(tmp_path).prepare(), "little")


def made(workspace: Workspace, content: str = "x", gates: list[Gate] = GATES, **show: Any) -> Artifact:
    def build(draft: Draft) -> None:
        draft.write_json("content.json", content)
        draft.measure(seconds_per_row=0.25)
        draft.show(**show)
        for gate in gates:
            draft.gate(gate)

    return workspace.make("evaluation", DAY, build, settings={"content": content}, parents={})


def checks(artifact: Artifact, declared: Mapping[str, bool]) -> dict[str, dg.AssetCheckResult]:
    return {str(item.check_name): item for item in results.check_results(KEY, artifact, declared)}


def test_metadata_shows_each_value_as_what_it_is(workspace, tmp_path):
    page = tmp_path / "docs" / "a page.html"
    shown = results.metadata(
        made(
            workspace,
            records=20,
            score=0.5,
            good=True,
            source="digits",
            balance={"md": "| a |"},
            page=str(page),
            relative="docs/page.html",
            days=["2026-01-01"],
            plan={"md": "text", "other": 1},
        )
    )
    assert {name: shown[name] for name in ("records", "score", "good", "source", "relative")} == {
        "records": 20,
        "score": 0.5,
        "good": True,
        "source": "digits",
        "relative": "docs/page.html",
    }
    assert shown["balance"] == dg.MetadataValue.md("| a |")
    assert shown["page"] == dg.MetadataValue.url(f"file://{tmp_path}/docs/a%20page.html")
    assert shown["days"] == dg.MetadataValue.json(["2026-01-01"])
    assert shown["plan"] == dg.MetadataValue.json({"md": "text", "other": 1})


def test_metadata_always_has_digest_place_cost_and_gates(workspace):
    artifact = made(workspace)
    shown = results.metadata(artifact)
    assert set(shown) == {"digest", "artifact", "seconds", "gates", "measured"}
    assert shown["digest"] == artifact.digest
    assert shown["artifact"] == dg.MetadataValue.path(str(artifact.path))
    assert Path(shown["artifact"].value, "manifest.json").is_file()
    assert shown["seconds"] == artifact.outcome["seconds"]
    assert shown["measured"] == dg.MetadataValue.json({"seconds_per_row": 0.25})
    assert shown["gates"].value.splitlines() == [
        "| gate | | |",
        "|---|---|---|",
        "| finite | passed | all finite |",
        "| parity | failed | differs by 3 |",
        "| threshold_f1 | failed | 0.9 is below 0.97 |",
        "| drift_calm | undecided | 100 records; at least 200 are needed |",
    ]


def test_a_summary_can_not_break_the_table(workspace):
    table = results.gate_table([Gate("shape", False, "found 3|4\nexpected <b>8x8</b>")])
    assert table.splitlines()[2:] == [r"| shape | failed | found 3\|4 expected &lt;b&gt;8x8&lt;/b&gt; |"]


def test_everything_dagster_is_given_can_be_recorded(workspace):
    shown = results.metadata(made(workspace, records=20, days=["2026-01-01"], balance={"md": "x"}))
    assert dg.AssetMaterialization(KEY, metadata=shown).metadata["records"].value == 20


def test_a_check_is_told_as_the_gate_was(workspace):
    found = checks(made(workspace), {"finite": True, "parity": True, "threshold_f1": False, "drift_calm": False})
    assert {name: (item.passed, item.severity, item.description) for name, item in found.items()} == {
        "finite": (True, dg.AssetCheckSeverity.ERROR, "all finite"),
        "parity": (False, dg.AssetCheckSeverity.ERROR, "differs by 3"),
        "threshold_f1": (False, dg.AssetCheckSeverity.WARN, "0.9 is below 0.97"),
        "drift_calm": (False, dg.AssetCheckSeverity.WARN, "undecided: 100 records; at least 200 are needed"),
    }
    assert {item.asset_key for item in found.values()} == {KEY}


def test_facts_become_metadata_but_for_what_is_absent(workspace):
    found = checks(made(workspace), {"finite": True, "threshold_f1": False})
    assert {name: item.value for name, item in found["finite"].metadata.items()} == {"rows": 5}
    assert {name: item.value for name, item in found["threshold_f1"].metadata.items()} == {
        "value": 0.9,
        "classes": ["3", "8"],
    }


def test_a_gate_that_was_not_evaluated_is_told_and_stops_nothing(workspace):
    (found,) = checks(made(workspace), {"live_parity": True}).values()
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert found.description == "undecided: the stage did not evaluate it for this partition"


def test_a_gate_without_a_check_is_only_in_the_table(workspace):
    assert checks(made(workspace), {}) == {}


def test_one_day_of_many_carries_its_partition(workspace):
    found = list(results.check_evaluations(KEY, made(workspace), {"finite": True, "threshold_f1": False}, "2026-01-01"))
    assert [(item.check_name, item.passed, item.blocking, item.partition) for item in found] == [
        ("finite", True, True, "2026-01-01"),
        ("threshold_f1", False, False, "2026-01-01"),
    ]


def test_the_version_is_the_digest(workspace):
    artifact = made(workspace)
    assert results.data_version([artifact]) == dg.DataVersion(artifact.digest)


def test_the_version_of_many_changes_with_each_of_them(workspace):
    many = [made(workspace, str(number)) for number in range(40)]
    other = made(workspace, "other")
    version = results.data_version(many)
    assert version == dg.DataVersion(digest_json([item.digest for item in many]))
    changed = {results.data_version([*many[:place], other, *many[place + 1 :]]).value for place in range(40)}
    assert len({version.value, *changed}) == 41
