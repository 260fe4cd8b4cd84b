"""What the command line does with the life of a model: `dlp gc`, and the retraining that `dlp run` stores."""

import os
import time
from datetime import date
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from dl_pipelines import catalog
from dl_pipelines.cli.app import app
from dl_pipelines.cli.run import retraining, snapshot
from dl_pipelines.lifecycle.retraining import requested
from dl_pipelines.serving.carry import carry_log
from dl_pipelines.serving.prediction_log import answered_ids
from dl_pipelines.store.artifacts import Gate
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Partition, Workspace
from tests.logged import answer, writer_of

ROOT = Path(__file__).parent.parent.parent
ALARM = {"windows": [{"name": "shifted", "decision": "alarm", "features": [{"name": "mean", "drifted": True}]}]}


def brief_of(project="digits", serving=None, **lifecycle):
    data = yaml.safe_load((ROOT / "briefs" / "digits.yaml").read_text())
    data |= {"project": project, "lifecycle": lifecycle, "serving": {**data.get("serving", {}), **(serving or {})}}
    return catalog.read_brief(yaml.safe_dump(data), "digits.yaml")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.delenv("DLP_DATABASE_URL", raising=False)
    monkeypatch.setenv("DLP_HOME", "set by the command, taken back after the test")
    return Home(tmp_path / "home").prepare()


def put(home, project, number, stage="trained_model", content=None):
    def build(draft):
        draft.write_json("report.json", content or {"day": number})
        draft.gate(Gate("made", True, "by a test", blocking=True))

    partition = Partition(date(2026, 1, number), "base")
    return Workspace(home, project).make(stage, partition, build, settings={}, parents={})


def gc(home, *options):
    result = CliRunner().invoke(app, ["gc", "--home", str(home.root), *options])
    assert result.exit_code == 0, result.output
    assert os.environ["DLP_HOME"] == str(home.root)
    return result.stdout.splitlines()


def test_gc_follows_the_retention_of_each_brief(home):
    for project, keep in (("one", 1), ("two", 2)):
        snapshot(home, brief_of(project, keep=keep))
        for number in (1, 2, 3):
            put(home, project, number)
    kept = {project: Workspace(home, project) for project in ("one", "two")}
    planned = gc(home, "--dry-run")
    assert planned[-1] == "3 would be removed"
    assert [len(workspace.partitions("trained_model")) for workspace in kept.values()] == [3, 3]

    told = gc(home)
    assert told[:-1] == planned[:-1]
    assert told[-1] == "3 removed"
    assert [line.endswith(f"is not among the newest {keep}") for line, keep in zip(told[:-1], (1, 1, 2), strict=True)]
    assert sorted(line.split(" of ")[1].split(" (")[0] for line in told[:-1]) == [
        "2026-01-01|base", "2026-01-01|base", "2026-01-02|base",
    ]  # fmt: skip
    assert [len(workspace.partitions("trained_model")) for workspace in kept.values()] == [1, 2]
    assert gc(home) == ["0 removed"]


def test_gc_removes_old_answers_unless_it_only_tells(home):
    snapshot(home, brief_of("one", serving={"log": {"keep_days": 30}}))
    snapshot(home, brief_of("two", serving={"log": {"keep_days": None}}))
    for project in ("one", "two"):
        writer = writer_of(Workspace(home, project))
        for name, days in (("old", 31), ("young", 29)):
            answer(writer, name, at=time.time() - 86_400 * days)
        writer.close()
        carry_log(Workspace(home, project))

    def kept():
        return [sorted(answered_ids(Workspace(home, project))) for project in ("one", "two")]

    assert gc(home, "--dry-run") == ["0 would be removed"]
    assert kept() == [["old", "young"]] * 2
    assert gc(home) == ["1 rows and segments of one's log older than serving.log.keep_days", "0 removed"]
    assert kept() == [["young"], ["old", "young"]]
    assert gc(home) == ["0 removed"]


def test_gc_of_an_empty_home(home):
    assert gc(home) == ["0 removed"]


def test_gc_stops_at_a_damaged_manifest(home):
    snapshot(home, brief_of(keep=1))
    artifacts = [put(home, "digits", number) for number in (1, 2)]
    manifest = artifacts[1].path / "manifest.json"
    manifest.write_text(manifest.read_text().replace("report.json", "another.json"))
    result = CliRunner().invoke(app, ["gc", "--home", str(home.root)])
    assert result.exit_code == 1
    assert "that was changed after it was written" in " ".join(result.output.split())
    assert artifacts[0].path.exists()


def test_a_run_stores_the_retraining_that_its_report_asks_for_once(home):
    brief, partition = brief_of(), Partition(date(2026, 1, 4), "base")
    assert retraining(home, brief, partition) is None, "it has no report"
    report = put(home, "digits", 4, "drift_report", ALARM)
    first = retraining(home, brief, partition)
    assert (first.day, first.experiment, first.key) == (date(2026, 1, 8), "base", f"drift:{report.short}:base")
    assert first.reason == "drift in shifted (mean)"
    assert retraining(home, brief, partition) == first
    assert list(requested(Workspace(home, "digits")).values()) == [first]


def test_a_run_of_the_newest_day_or_of_another_mind_asks_for_none(home):
    put(home, "digits", 8, "drift_report", ALARM)
    assert retraining(home, brief_of(), Partition(date(2026, 1, 8), "base")) is None
    put(home, "digits", 4, "drift_report", ALARM)
    assert retraining(home, brief_of(retrain_on_drift=False), Partition(date(2026, 1, 4), "base")) is None
    assert requested(Workspace(home, "digits")) == {}
