"""What `dlp ab status` shows and draws, and what `dlp ab step` says where nothing is due."""

import io
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from dl_pipelines import catalog
from dl_pipelines.cli.ab_status import evidence, plot, status
from dl_pipelines.cli.demo import DAYS, brief_of, unexpected
from dl_pipelines.cli.report import _tried_live
from dl_pipelines.cli.run import snapshot
from dl_pipelines.lifecycle.ab_picture import Course
from dl_pipelines.serving.champion import append
from dl_pipelines.serving.server import TritonServer
from dl_pipelines.store import durable
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.wire.routing import CHAMPION, Arm, only
from tests.lifecycle.experiments import Written, shadow, split
from tests.small import small


@pytest.fixture
def workspace(tmp_path):
    home = Home(tmp_path / "home").prepare()
    snapshot(home, catalog.read_brief(yaml.safe_dump(small(lifecycle={"evidence": "live"})), "small.yaml"))
    return Workspace(home, "small")


@pytest.fixture
def tried(workspace):
    """One experiment that was rolled back, one that runs in its second stage."""
    Written(workspace, "small__aa", "small__00").row("stage").look(shadow(400, 0.5)).row("rolled_back", reason="harmed")
    mine = Written(workspace, "small__bb", "small__00").row("stage").look(shadow(200, 0.0))
    mine.row("stage", 1, "enough").look(split(100, 0.2)).look(split(300, 0.2, failed=3))
    return workspace


def test_nothing_was_tried_yet(workspace, dlp):
    said = dlp("ab", "status", "small", "--home", workspace.home.root)
    assert (said.code, said.out) == (0, "small has had no live experiment (lifecycle.evidence: live begins one)\n")
    said = dlp("ab", "status", "small", "--home", workspace.home.root, "--json")
    assert said.json == {"project": "small", "experiments": []}
    assert dlp("ab", "status", "smal", "--home", workspace.home.root).code == 2


def test_the_experiments_and_the_evidence_of_the_newest(tried, dlp):
    said = dlp("ab", "status", "small", "--home", tried.home.root)
    assert said.code == 0
    lines = said.out.splitlines()
    (rolled,) = [line for line in lines if "small__aa" in line]
    assert "rolled back" in rolled and "harmed" in rolled
    (runs,) = [line for line in lines if "small__bb" in line]
    assert "running" in runs and "50.0%" in runs and "enough" in runs
    assert [line for line in lines if line.startswith("Stage ")] == [
        f"Stage {stage}: score against the champion, above 0 is better" for stage in (0, 1)
    ]
    assert "600 units in 2.00 h" in " ".join(said.out.split()) and "latency p95" in said.out


def test_an_open_bound_in_the_reason_is_no_markup(workspace, dlp):
    looked = shadow(400, 0.5)
    Written(workspace, "small__aa", "small__00").row("stage").look(looked)
    found = status(workspace)
    found["experiments"][0]["looks"][-1]["decision"]["reason"] = "harmed: latency p95 worse by 6.762 [open, -1.653]"
    (*_, table) = evidence(found["experiments"][0])
    screen = Console(width=100, file=io.StringIO(), record=True)
    screen.print(table)
    said = " ".join(screen.export_text().split())
    assert said.endswith("roll_back: harmed: latency p95 worse by 6.762 [open, -1.653]")


def test_the_same_as_one_object(tried, dlp):
    first, second = dlp("ab", "status", "small", "--home", tried.home.root, "--json").json["experiments"]
    assert (first["challenger"], first["state"], len(first["looks"])) == ("small__aa", "rolled back", 1)
    assert (second["state"], second["stage"], second["share"], len(second["looks"])) == ("running", 1, 0.5, 3)
    assert second["looks"][-1]["evidence"]["challenger"]["failed"] == 3
    assert [row["event"] for row in second["rows"]] == ["stage", "stage"]


def test_it_is_drawn_as_svg_and_as_a_page(tried, dlp, tmp_path):
    picture, page = tmp_path / "out" / "ab.svg", tmp_path / "ab.html"
    said = dlp("ab", "status", "small", "--home", tried.home.root, "--out", picture)
    assert said.code == 0 and said.err.endswith("ab.svg: 1 drawn\n")
    drawn = ET.fromstring(picture.read_text())
    kinds = [node.attrib.get("class", "").split()[0] for node in drawn.iter() if node.attrib.get("class")]
    assert kinds.count("band") == 6, "score, failures and latency of two stages"
    assert kinds.count("whisker") == 3, "the first stage was looked at once"
    assert dlp("ab", "status", "small", "--home", tried.home.root, "--out", page).err.endswith("ab.html: 2 drawn\n")
    text = page.read_text()
    assert text.count("<h2>") == text.count("<table>") == 2
    assert 'name="viewport"' in text and "overflow-x:auto" in text, "a narrow window scrolls a table, not the page"
    assert text.index("small__aa against small__00: rolled back") < text.index("small__bb against small__00: running")
    said = dlp("ab", "status", "small", "--home", tried.home.root, "--out", "ab.png")
    assert (said.code, said.err) == (2, "error: found --out ab.png; expected a name that ends in .svg or .html\n")
    assert not Path("ab.png").exists()


def test_a_plot_of_characters_has_the_difference_its_bounds_and_the_margin():
    course = Course(
        "score", "score", 0.0, "undecided", [0, 50, 100], [None, -0.5, 0.5], [None, -1, 0.0], [None, 0, 1], {0: 0}
    )
    lines = plot(course, "Stage 0: score").plain.splitlines()
    assert lines[0] == "Stage 0: score against the champion, above 0 is better"
    body = [line[11:] for line in lines[1:-1]]
    columns = ["".join(row[at] for row in body) for at in (0, 32, 63)]
    assert columns == ["    -    ", "    ||o||", "||o||    "]
    assert [line[:10].strip() for line in lines[1:-1]] == ["1", "", "", "", "0", "", "", "", "-1"]
    assert lines[-1].split() == ["units", "0", "100"]


def test_a_step_where_nothing_is_due_says_so(workspace, dlp):
    said = dlp("ab", "step", "small", "--home", workspace.home.root, "--json")
    assert (said.code, said.json, said.err) == (0, {"done": []}, "no challenger waits\n")


def test_a_person_stops_what_runs(workspace, dlp, monkeypatch):
    told = []
    monkeypatch.setattr("dl_pipelines.lifecycle.mend.end_trial", lambda workspace, revision: told.append(revision))
    monkeypatch.setattr("getpass.getuser", lambda: "ann")
    said = dlp("ab", "stop", "small", "--home", workspace.home.root)
    assert said.code == 1 and said.err.startswith("error: found no live experiment of small that runs; expected one")
    row = {"model": "small__00", "digest": "d" * 64, "partition": "2026-01-01|base", "reason": "r", "actor": "run"}
    version = append(workspace, event="champion", evidence={}, **row)
    Written(workspace, "small__bb", "small__00", version).row("stage", 0)
    arms = (Arm(CHAMPION, "small__00", 1),)
    table = replace(only("small", "small__00", version), arms=arms, shadow="small__bb", revision=1, salt="s")
    durable.write_json(TritonServer(workspace.home).routing("small"), table.plain())
    said = dlp("ab", "stop", "small", "--reason", "no labels", "--home", workspace.home.root, "--json")
    assert said.code == 0 and told == [2]
    assert said.err.endswith("small__bb: stopped by ann (no labels); small__00 has the traffic\n")
    assert said.json | {"at": ""} == {
        "experiment": "bb-vs-00-1", "event": "stopped", "champion": "small__00", "challenger": "small__bb",
        "reason": "no labels", "actor": "ann", "at": "",
    }  # fmt: skip


def test_a_run_says_which_challenger_is_tried_and_which_waits(tried, monkeypatch):
    brief = catalog.read_brief(yaml.safe_dump(small(lifecycle={"evidence": "live"})), "small.yaml")
    assert _tried_live(tried, brief) == ["live experiment: small__bb is in stage 1; `dlp ab status` shows it"]
    monkeypatch.setattr("dl_pipelines.lifecycle.door.waiting", lambda workspace, rules: {"challenger": "small__cc"})
    told = "small__cc waits for its live experiment; `make ui` begins it, or `dlp ab step`"
    assert _tried_live(tried, brief)[1:] == [told]


def test_the_demo_has_a_champion_and_two_challengers_tried_live():
    briefs = [brief_of(day) for day in DAYS]
    assert {brief.project for brief in briefs} == {"demo_ab"} and len({day.day for day in DAYS}) == 3
    assert {(brief.lifecycle.evidence, brief.lifecycle.promotion) for brief in briefs} == {("live", "automatic")}
    assert all(brief.lifecycle == briefs[0].lifecycle for brief in briefs), "the rules are not made to fit the model"
    assert briefs[1].data.augmentation.online == () != briefs[0].data.augmentation.online


def test_a_demo_that_ends_otherwise_says_so():
    def ended(day, state):
        return {"partition": f"{day}|base", "state": state, "rows": [{"reason": "harmed: latency p95"}]}

    first, second = ended("2026-01-02", "rolled back"), ended("2026-01-03", "promoted")
    assert unexpected([first, second]) == [] == unexpected([first])
    (told,) = unexpected([first, ended("2026-01-03", "rolled back")])
    assert told.startswith(
        "not as on an idle machine: the challenger of 2026-01-03 is rolled back, not promoted (harmed: latency p95). "
    )
