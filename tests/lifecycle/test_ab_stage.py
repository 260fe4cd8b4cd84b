"""The artifact of a live experiment, and the drawing of its evidence."""

import xml.etree.ElementTree as ET
from datetime import date

import pytest

from dl_pipelines.brief.live import Lifecycle
from dl_pipelines.lifecycle import ledger
from dl_pipelines.lifecycle.ab_picture import courses, pictures, together, units, worded
from dl_pipelines.lifecycle.ab_stage import make_ab_experiment
from dl_pipelines.serving.champion import append
from dl_pipelines.store.artifacts import Gate
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Partition, Workspace

from .experiments import Written, shadow, split

DAY, LIVE = Partition(date(2026, 1, 2), "base"), Lifecycle(evidence="live")


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A project of which `tiny__new` is published."""
    monkeypatch.delenv("DLP_DATABASE_URL", raising=False)
    found = Workspace(Home(tmp_path / "home").prepare(), "tiny")

    def build(draft):
        draft.write_json("model.json", {"model": "tiny__new"})
        draft.gate(Gate("live_parity", True, "by a test", blocking=True))

    for stage in ("triton_repository", "prediction_log"):
        found.make(stage, DAY, build, settings={}, parents={})
    return found


def gates(artifact):
    return {gate.name: (gate.passed, gate.blocking) for gate in artifact.gates}


def test_a_held_out_project_has_none_and_says_so(workspace):
    artifact = make_ab_experiment(workspace, DAY, Lifecycle())
    told = artifact.read_json("experiment.json")
    assert told["reason"].startswith("lifecycle.evidence is held_out: challengers are compared on held-out rows")
    assert told["experiments"] == []
    assert gates(artifact) == {"guardrails": (True, False), "sample_ratio": (True, False)}
    assert make_ab_experiment(workspace, DAY, Lifecycle()).digest == artifact.digest and len(workspace.made) == 3


def test_a_model_that_waits_says_for_what(workspace):
    told = make_ab_experiment(workspace, DAY, LIVE).read_json("experiment.json")["reason"]
    assert told == "tiny__new has had no experiment: it was no challenger of what serves, or none has begun yet"
    Written(workspace, "tiny__other").row("stage")
    told = make_ab_experiment(workspace, DAY, LIVE).read_json("experiment.json")["reason"]
    assert told == "tiny__new has had no experiment: another one is running"


def test_what_was_shown_in_each_stage_and_decided(workspace):
    mine = Written(workspace).row("stage").look(shadow(50, 0.1)).look(shadow(200, 0.0))
    running = make_ab_experiment(workspace, DAY, LIVE)
    assert running.read_json("experiment.json")["state"] == "running"
    mine.row("stage", 1).look(split(100, 0.2)).look(split(4000, 0.3)).row("promoted", 1, "better")
    artifact = make_ab_experiment(workspace, DAY, LIVE)
    assert artifact.digest != running.digest, "there is more to tell"
    told = artifact.read_json("experiment.json")
    assert (told["state"], told["stage"], told["looks"], told["units"]) == ("promoted", 1, 4, 200 + 8000)
    assert [row["event"] for row in told["rows"]] == ["stage", "stage", "promoted"]
    assert [stage["evidence"]["champion"]["units"] for stage in told["stages"]] == [200, 4000], "the last look of each"
    assert told["last"]["action"] == "promote"
    assert gates(artifact) == {"guardrails": (True, False), "sample_ratio": (True, False)}
    assert ET.fromstring(artifact.read_text("evidence.svg")).tag.endswith("svg")
    (line,) = told["experiments"]
    assert (line["state"], line["stage"], line["by"], line["seconds"]) == ("promoted", 1, "sensor", None)


def test_harm_and_a_wrong_split_fail_their_gates(workspace):
    mine = Written(workspace).row("stage").row("stage", 1).look(split(400, 0.0, failed=200))
    artifact = make_ab_experiment(workspace, DAY, LIVE)
    (gate,) = (gate for gate in artifact.gates if gate.name == "guardrails")
    assert (gate.passed, gate.summary, gate.blocking) == (False, "stage 1: failures is harmed", False)
    assert gates(artifact)["sample_ratio"] == (True, False)
    mine.look(split(3000, 0.0, ours=1000))
    artifact = make_ab_experiment(workspace, DAY, LIVE)
    (gate,) = (gate for gate in artifact.gates if gate.name == "sample_ratio")
    assert gate.passed is False and gate.summary.startswith("stage 1: 1000 of 4000 units are the challenger's (25.00%)")


def test_how_long_it_took_to_take_a_challenger_out_is_in_the_ledgers(workspace):
    Written(workspace).row("stage").look(shadow(400, 0.5)).row("rolled_back", reason="harmed")
    (found,) = ledger.experiments(workspace)
    gone = found.end["at"].replace("+00:00", "")
    later = f"{gone[:-3]}{(int(gone[-3:]) + 250) % 1000:03d}+00:00"
    append(
        workspace, event="withdrawn", model="tiny__new", digest="d" * 64, partition=DAY.key, reason="harmed",
        evidence={"revision": found.end["id"]}, at=max(later, found.end["at"]),
    )  # fmt: skip
    (line,) = make_ab_experiment(workspace, DAY, LIVE).read_json("experiment.json")["experiments"]
    assert line["state"] == "rolled_back" and line["seconds"] in (0.25, 0.0)


def test_the_course_of_each_bound_goes_on_over_the_stages(workspace):
    mine = Written(workspace).row("stage").look(shadow(50, 0.1)).look(shadow(200, 0.1))
    mine.row("stage", 1).look(split(100, 0.2)).look(split(300, 0.2))
    looks = ledger.looks(workspace)
    found = courses(looks)
    assert [course.name for course in found] == ["score", "failures", "latency p95"]
    score = found[0]
    assert score.units == [50, 200, 400, 800] and score.stages == {0: 0, 1: 200}
    assert score.value == pytest.approx([-0.1, -0.1, 0.2, 0.2])
    assert all(low <= value <= high for low, value, high in zip(score.low, score.value, score.high, strict=True))
    assert [units(look["evidence"]) for look in looks] == [50, 200, 200, 600]
    drawn = ET.fromstring(together(pictures(looks)))
    texts = [node.text for node in drawn.iter() if node.tag.endswith("text")]
    assert texts.count("stage 1") == 3 and "score: challenger against champion, above 0 is better" in texts
    assert texts.count("units seen; dashed: what it may be at worst, 0") == 1
    assert "units seen; dashed: what it may be at worst, -0.5%" in texts
    assert "no look at the evidence has been taken yet" in together([])


def test_differences_in_words():
    assert (worded(-0.0312, "share of requests"), worded(0.5, "score"), worded(1, "score")) == ("-3.12%", "0.5", "1")
