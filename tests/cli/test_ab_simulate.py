"""`dlp ab simulate`: its figures, and what it says to a person."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from dl_pipelines.cli.app import app
from dl_pipelines.store.home import Home
from tests.cli.test_lifecycle import brief_of

SMALL = ("--runs", "4", "--processes", "1")


def simulated(*options):
    return CliRunner().invoke(app, ["ab", "simulate", *options])


def figures(*options):
    found = simulated(*SMALL, "--json", *options)
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        (("--harm", "errors"), {"more_failures": 0.2}),
        (("--harm", "latency"), {"added_ms": 200}),
        (("--harm", "accuracy"), {"effect": -0.03}),
        (("--harm", "errors", "--size", "0.5"), {"more_failures": 0.5}),
        (("--effect", "-0.2", "--accuracy", "0.9"), {"effect": -0.2, "accuracy": 0.9}),
    ],
)
def test_a_harmful_challenger_as_json(options, changed):
    told = figures(*options)
    assert told["actions"]["roll_back"] == told["detected"]["count"] == told["runs"] == 4
    assert told["false_promotions"]["count"] == 0
    assert {name: told["scenario"][name] for name in changed} == changed


def test_no_difference_as_json():
    told = figures("--aa", "--max-units", "300", "--seed", "5", "--accuracy", "0.9")
    assert told["rules"]["max_units"] == 300
    assert told["actions"] == {"promote": 0, "roll_back": 0, "stop": 4}
    assert told["false_promotions"] == {
        "count": 0,
        "rate": 0,
        "lower_95": 0,
        "upper_95": pytest.approx(0.527, abs=1e-3),
    }
    assert told["power"] is None
    assert told["seed"] == 5


def test_the_rules_are_those_of_the_project(tmp_path, monkeypatch):
    monkeypatch.setenv("DLP_HOME", "set by the command, taken back after the test")
    home = Home(tmp_path / "home").prepare()
    brief = brief_of("mine", margin=0.02, rollout={"shares": [0.5], "min_units": 100})
    plain = brief.model_dump(mode="json")
    plain["serving"]["router"] = {"timeout_ms": 300, "breaker": 7}
    (home.briefs / "mine.yaml").write_text(yaml.safe_dump(plain))
    told = figures("mine", "--effect", "0", "--accuracy", "0.9", "--home", str(home.root), "--rate", "5")
    assert {name: told["scenario"][name] for name in ("timeout_ms", "breaker", "rate")} == {
        "timeout_ms": 300, "breaker": 7, "rate": 5,
    }  # fmt: skip
    assert told["rules"]["shares"] == [0.5]
    assert told["margin"] == 0.02
    assert told["power"]["count"] == 4


def test_a_margin_makes_as_good_a_challenger_one_to_promote():
    told = figures("--aa", "--margin", "0.1", "--accuracy", "0.9")
    assert told["margin"] == 0.1
    assert told["power"]["count"] == 4
    assert figures("--effect", "-0.1", "--margin", "0.1", "--max-units", "100")["false_promotions"]["count"] == 0


def test_a_person_sees_a_table_and_how_far_it_is():
    found = simulated(*SMALL, "--harm", "latency")
    assert found.exit_code == 0
    assert "4 imagined rollouts, seed 0; bounds: 95 % each" in found.stdout
    assert "0 promote, 4 roll_back, 0 stop" in found.stdout
    assert "median 200, 95 % by 200, at most 200" in found.stdout
    assert "4/4 rollouts" in found.stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "found none; expected one of --aa, --effect, --harm"),
        (("--aa", "--effect", "0.1"), "found --aa and --effect; expected one of --aa, --effect, --harm"),
        (("--harm", "fire"), "found --harm fire; expected one of errors, latency, accuracy"),
        (("--harm", "errors", "--size", "0"), "found --size 0; expected above 0"),
        (("--aa", "--size", "1"), "found --size without --harm; expected --harm with it"),
        (("--effect", "0.1"), "found accuracies 0.97 and 1.07; expected both from 0 to 1"),
    ],
)
def test_what_can_not_be_is_refused_in_a_sentence(options, told):
    found = simulated(*SMALL, *options)
    assert found.exit_code == 2
    assert found.stderr == f"error: {told}\n"
