"""What Dagster loads: the whole graph against a file that a person reads, and which briefs make it up."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.partitions.definition import DynamicPartitionsDefinition

from dl_pipelines import definitions
from dl_pipelines.brief import BriefError
from dl_pipelines.store.home import Home

ROOT = Path(__file__).resolve().parent.parent
GRAPH = Path(__file__).parent / "graph.txt"
HEAVY = {"torch", "great_expectations", "evidently", "lance", "pandas", "pyarrow", "sklearn", "scipy", "onnxruntime"}
LITTLE = {
    "project": "little",
    "problem": {"task": {"name": "image_classification", "params": {"classes": [0, 1]}}},
    "data": {"source": "digits"},
}


@pytest.fixture
def home(tmp_path, monkeypatch) -> Home:
    monkeypatch.setenv("DLP_HOME", str(tmp_path / "home"))
    monkeypatch.delenv(definitions.BRIEFS, raising=False)
    return Home.find().prepare()


@pytest.fixture
def briefs(tmp_path, monkeypatch) -> Path:
    """A folder of briefs of the test's own."""
    folder = tmp_path / "briefs"
    folder.mkdir()
    monkeypatch.setenv(definitions.BRIEFS, str(folder))
    return folder


def write(folder: Path, name: str, **changed) -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump({**LITTLE, **changed}))
    return path


def load() -> dg.RepositoryDefinition:
    defs = definitions.defs()
    dg.Definitions.validate_loadable(defs)
    return defs.get_repository_def()


def told(partitions: dg.PartitionsDefinition | None) -> str:
    """A partitions definition in words, without what depends on the day it is read."""
    if isinstance(partitions, dg.DailyPartitionsDefinition):
        return f"daily from {partitions.start:%Y-%m-%d} {partitions.timezone}, today + {partitions.end_offset - 1}"
    if isinstance(partitions, DynamicPartitionsDefinition):
        return f"dynamic {partitions.name}"
    if isinstance(partitions, dg.MultiPartitionsDefinition):
        return " x ".join(f"{item.name} ({told(item.partitions_def)})" for item in partitions.partitions_defs)
    assert partitions is None
    return "none"


def mapped(mapping: dg.PartitionMapping | None) -> str:
    if isinstance(mapping, dg.TimeWindowPartitionMapping):
        missing = "may be missing" if mapping.allow_nonexistent_upstream_partitions else "must exist"
        return f"days {mapping.start_offset} to {mapping.end_offset}, which {missing}"
    assert mapping is None
    return "same partition"


def describe(repository: dg.RepositoryDefinition) -> Iterator[str]:
    """The graph as lines: assets, then jobs, the schedule, sensors."""
    graph = repository.asset_graph
    keys = [key for level in graph.toposorted_asset_keys_by_level for key in sorted(level)]
    for key in keys:
        node = graph.get(key)
        policy = node.backfill_policy
        size = "one run" if policy.max_partitions_per_run is None else f"runs of {policy.max_partitions_per_run}"
        yield f"asset {key.to_user_string()}: {node.description}"
        kinds, pools = ", ".join(sorted(node.kinds)), ", ".join(sorted(node.pools))
        yield f"    group {node.group_name}, kinds {kinds}, pool {pools}"
        yield f"    partitions {told(node.partitions_def)}; backfill in {size}"
        for parent in sorted(node.parent_keys):
            yield f"    after {parent.to_user_string()}: {mapped(node.partition_mappings.get(parent))}"
        for check in sorted(node.check_keys):
            spec = graph.get_check_spec(check)
            assert spec.partitions_def == node.partitions_def, "one good day would unblock every bad one"
            yield f"    check {check.name} {'blocks' if spec.blocking else 'warns'}: {spec.description}"
    for job in sorted(repository.get_all_jobs(), key=lambda item: item.name):
        if job.name.startswith("__"):
            continue
        yield f"job {job.name}: {job.description}"
        yield f"    partitions {told(job.partitions_def)}; {job.executor_def.name}"
        yield f"    runs {', '.join(sorted(node.name for node in job.nodes))}"
    for schedule in repository.schedule_defs:
        yield f"schedule {schedule.name}: {schedule.description}"
        yield f"    {schedule.cron_schedule} {schedule.execution_timezone}; {schedule.default_status.value}"
        yield f"    requests {schedule.job_name}"
    for sensor in sorted(repository.sensor_defs, key=lambda item: item.name):
        yield f"sensor {sensor.name}: {sensor.description}"
        yield f"    every {sensor.minimum_interval_seconds or 30} s at most; {sensor.default_status.value}"
        yield f"    requests {', '.join(target.job_name for target in sensor.targets) or 'nothing'}"


def test_the_graph_is_the_one_that_was_reviewed(home):
    found = "\n".join(describe(load())) + "\n"
    if os.environ.get("RENEW_GRAPH"):
        GRAPH.write_text(found)
    renew = "a change that is wanted: RENEW_GRAPH=1 .venv/bin/python -m pytest tests/test_definitions.py, and read it"
    assert found.splitlines() == GRAPH.read_text().splitlines(), renew


def test_loading_them_imports_nothing_heavy(home):
    program = (
        "import sys; from dl_pipelines.definitions import defs; defs().get_repository_def();"
        " print(*sys.modules, sep='\\n')"
    )
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert loaded.returncode == 0, loaded.stderr
    modules = set(loaded.stdout.split())
    assert "assets.trained_model" in modules
    assert not modules & HEAVY


def test_everything_that_acts_by_itself_is_on(home):
    repository = load()
    assert {sensor.default_status for sensor in repository.sensor_defs} == {dg.DefaultSensorStatus.RUNNING}
    assert {item.default_status for item in repository.schedule_defs} == {dg.DefaultScheduleStatus.RUNNING}


def test_schedule_and_checks_follow_the_brief(home, briefs):
    path = write(briefs, "little.yaml", lifecycle={"retrain_hour": 22}, evaluation={"thresholds": {"recall": 0.9}})
    brief = yaml.safe_load(path.read_text())
    brief["data"] |= {"timezone": "Asia/Tokyo", "start": "2026-01-03", "window_days": 7}
    path.write_text(yaml.safe_dump(brief))
    found = "\n".join(describe(load()))
    assert "    0 22 * * * Asia/Tokyo; RUNNING" in found
    assert "    partitions daily from 2026-01-03 Asia/Tokyo, today + 0; backfill in one run" in found
    assert "    after little/augmented_dataset: days -6 to 0, which may be missing" in found
    assert "    check threshold_recall warns: recall on the test rows against 0.9, the threshold of the brief" in found
    assert "    check drift_" not in found, "windows of free clients are not known beforehand"


def test_each_project_has_assets_of_its_own(home, briefs):
    write(briefs, "a.yaml")
    write(briefs, "b.yaml", project="other")
    keys = {key.to_user_string() for key in load().asset_graph.get_all_asset_keys()}
    assert len(keys) == 34
    assert {key.split("/")[0] for key in keys} == {"little", "other"}


def test_no_brief_at_all_still_loads(home, briefs):
    assert sorted(sensor.name for sensor in load().sensor_defs) == ["lost_runs", "run_failure_alert"]


def test_two_briefs_of_one_project_are_refused(home, briefs):
    first, second = write(briefs, "a.yaml"), write(briefs, "b.yaml")
    with pytest.raises(ValueError) as refused:
        definitions.defs()
    assert str(refused.value) == (
        f"found the project 'little' in {first} and {second}; expected one brief a project; "
        "rename the project of one, or move its file away"
    )


def test_a_wrong_brief_says_what_is_wrong(home, briefs):
    path = write(briefs, "a.yaml", training={"epochs": 0}, data={"source": "digit"})
    with pytest.raises(BriefError) as refused:
        definitions.defs()
    assert str(refused.value).splitlines() == [
        f"{path}:12: training.epochs: found 0; expected greater than or equal to 1",
        f"{path}:2: data.source.name: found 'digit'; expected one of demand, digits, image_folder, series_files, sql, "
        "statsmodels_series (did you mean 'digits'?)",
    ]


def test_snapshots_show_what_was_run_from_elsewhere(home, briefs):
    write(briefs, "a.yaml", problem={**LITTLE["problem"], "description": "of the folder"})
    write(home.briefs, "little.yaml", problem={**LITTLE["problem"], "description": "of the home"})
    write(home.briefs, "other.yaml", project="other")
    found = definitions.load_briefs(home)
    assert list(found) == ["little", "other"]
    assert found["little"].problem.description == "of the folder", "what a user edits comes before what was run"


def test_a_wrong_snapshot_is_left_out(home, briefs, caplog):
    write(briefs, "a.yaml")
    path = write(home.briefs, "old.yaml", project="old", trainer="adam")
    with caplog.at_level(logging.WARNING):
        assert list(definitions.load_briefs(home)) == ["little"]
    (warning,) = caplog.messages
    start = f"the snapshot is left out: {path}:11: trainer: found 'trainer'; expected one of "
    assert warning.startswith(start)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"[1, 2"])
def test_a_damaged_snapshot_is_left_out(home, briefs, caplog, content):
    write(briefs, "a.yaml")
    (home.briefs / "old.yaml").write_bytes(content)
    assert list(definitions.load_briefs(home)) == ["little"]
    assert "the snapshot is left out" in caplog.text


def test_a_source_that_cannot_be_read_does_not_stop_the_others(home, briefs, tmp_path):
    nowhere = {"name": "image_folder", "params": {"path": str(tmp_path / "not_mounted")}}
    write(briefs, "a.yaml", project="gone", data={"source": nowhere})
    write(briefs, "b.yaml")
    found = "\n".join(describe(load()))
    assert "asset gone/raw_data" in found
    assert "    partitions daily from 2020-01-01 UTC, today + 0; backfill in one run" in found
    assert "    partitions daily from 2026-01-01 UTC, today + 0; backfill in one run" in found
