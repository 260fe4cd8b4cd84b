"""Section 10's row of A/B tests: what the brief asks for, and what the ledger of experiments says."""

import pytest
import yaml

from dl_pipelines import catalog
from dl_pipelines.report import charts
from dl_pipelines.report.facts import Document, Facts
from dl_pipelines.report.sections.lifecycle import TITLE, cells, extras
from dl_pipelines.tasks.image_classification import ImageClassification
from tests.small import small


def line(challenger, state, seconds=None, stage=0):
    ended = None if state == "running" else "2026-01-02T10:00:00.000+00:00"
    return {
        "challenger": challenger, "champion": "small__00", "began": "2026-01-02T09:00:00.000+00:00", "state": state,
        "stage": stage, "ended": ended, "by": "sensor" if ended else None, "reason": f"why {state}", "seconds": seconds,
    }  # fmt: skip


@pytest.fixture
def facts():
    """A function: the facts of a brief and an artifact `ab_experiment`, or none."""

    def do(told=None, **lifecycle):
        brief = catalog.read_brief(yaml.safe_dump(small(lifecycle=lifecycle)), "small.yaml").model_dump(mode="json")
        files = {"experiment.json": told, "evidence.svg": "<svg><style>.a{b}</style><text>it</text></svg>"}
        documents = {"ab_experiment": Document("ab_experiment", "d" * 64, files)} if told else {}
        return Facts("2026-01-03|base", brief, documents, {}, {}, ImageClassification.metrics, "accuracy")

    return do


def test_held_out_evidence_is_told_as_such(facts):
    found = cells(facts({"reason": "held out", "experiments": []}))
    assert "live traffic is not split" in found["AB_PROCESS"].text
    assert found["AB_ROLLBACK"].source["field"] == "dl_pipelines.serving.traffic"
    assert extras(facts({"reason": "held out", "experiments": []})) == [] == extras(facts())


def test_live_evidence_tells_stages_rules_and_what_was_tried(facts):
    experiments = [
        line("small__aa", "rolled_back", 0.31),
        line("small__bb", "promoted"),
        line("small__st", "stopped", 7.5),
        line("small__cc", "running", stage=2),
    ]
    given = facts(
        {"state": "running", "experiments": experiments}, evidence="live", margin=0.01, promotion="manual",
        rollout={"shares": [0, 0.05, 0.5], "alpha": 0.02, "min_units": 3000},
    )  # fmt: skip
    found = cells(given)
    assert found["AB_PROCESS"].text == (
        "stages of shadow, 5%, 50% of the units, then all; at least 3,000 units and 1 h each, labels after 24 h; by "
        "assigned arm; promotion: manual"
    )
    assert found["AB_VAL"].text.startswith("at alpha 0.02, however often it is looked at: the lower bound")
    assert "lies above -0.01 and no guardrail" in found["AB_VAL"].text
    assert found["AB_VAL"].text.endswith(
        "4 experiments so far: 1 promoted, 1 rolled back, 1 running, 1 stopped; this model's: running"
    )
    assert "the last time 0.31 s after the decision" in found["AB_ROLLBACK"].text
    assert found["AB_ROLLBACK"].source["of"][0]["field"] == "experiment.json#/experiments"
    (table,) = extras(given)
    assert (table.title, [name for name, _ in table.rows]) == (TITLE, [
        "small__aa", "small__bb", "small__st", "small__cc",
    ])  # fmt: skip
    assert [cell.text or cell.reason for cell in table.rows[3][1]] == [
        "small__00", "2026-01-02 09:00 UTC", "running in stage 2", "not measured: it has not ended", "why running",
    ]  # fmt: skip
    assert table.rows[0][1][2].source["field"] == "experiment.json#/experiments/0/state"
    drawn = str(charts.experiment(given))
    assert "<text>it</text>" in drawn and "<style>" not in drawn


def test_an_experiment_that_only_stopped_is_no_harm_that_was_taken_out(facts):
    told = {"state": "stopped", "experiments": [line("small__st", "stopped", 7.5), line("small__bb", "promoted", 2.5)]}
    text = cells(facts(told, evidence="live"))["AB_ROLLBACK"].text
    assert "in manual mode too, which has not happened yet;" in text
    assert "7.5" not in text and "2.5" not in text


def test_a_live_project_without_an_experiment_says_so(facts):
    for told in (None, {"reason": "none has begun", "experiments": []}):
        found = cells(facts(told, evidence="live"))
        assert found["AB_VAL"].text.endswith("no experiment so far")
        assert "the version that last served" in found["AB_ROLLBACK"].text
    assert charts.experiment(facts(evidence="live")) is None
