"""Section 4 with a study, with one that was not asked for, and without any: its rows, its table and its plots."""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ET

import pytest

from dl_pipelines.report.make import make_implementation_report
from dl_pipelines.report.verify import cells
from dl_pipelines.training.tuning import NOT_ASKED

PLOT = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><text id="a">plot</text></svg>'


def row(kind, label, brief, best, given, importance=None, edge=False):
    return {"row": kind, "field": f"training.{label.replace(' ', '_')}", "label": label, "brief": brief, "best": best,
            "range": given, "method": "TPE, ASHA", "importance": importance, "at_edge": edge}  # fmt: skip


STUDY = {
    "sampler": "tpe", "pruner": "asha", "metric": "loss", "better": "lower", "trials": 16, "confidence": 0.95,
    "train_rows": 700, "validation_rows": 150, "reason": None, "counts": {"complete": 3, "pruned": 12, "failed": 1},
    "rows": [
        row("LR", "learning rate", 0.002, 0.01, "0.0002 to 0.02, log", {"value": 0.613, "low": 0.4, "high": 0.8}),
        row("REG", "weight decay", 0.0001, 0.01, "1e-06 to 0.01, log", {"value": 0.1, "low": 0.0, "high": 0.25}, True),
        row("REG", "label smoothing", 0.0, 0.1, "0 to 0.2", {"value": 0.05, "low": 0.0, "high": 0.1}),
        row("OPT", "optimizer", "adamw", "sgd", "adamw, sgd"),
        row("other", "width", None, 24, "8 to 32"),
    ],
    "best": {"trial": 7, "value": 0.08, "params": {}}, "base": {"value": 0.1}, "history": [],
    "why": "configuration 7 of 16 has the best loss, 0.08; the brief's own have 0.1",
}  # fmt: skip


def made(line, partition, study, plots=()):
    def build(draft):
        draft.write_json("study.json", study)
        for name in plots:
            draft.write_text(name, PLOT)

    line.make("hyperparameter_study", partition, build, settings={"n": len(study["rows"])}, parents={})


@pytest.fixture
def found(line, partition, brief, task):
    """A function: the cells of a report, by place."""

    def read():
        artifact = make_implementation_report(line, partition, brief, task)
        assert artifact.gates[0].passed is True, artifact.gates[0].summary
        return artifact, dict(cells(artifact.read_json("report.json")))

    return read


def test_rows_say_what_the_study_found(line, partition, found):
    made(line, partition, STUDY, ("history.svg", "importance.svg", "parallel.svg", "slice.svg"))
    artifact, seen = found()
    at = "section 4: {}: {}"
    assert seen[at.format("Learning Rate", "Search Range")]["value"] == "0.0002 to 0.02, log"
    assert seen[at.format("Learning Rate", "Optimization Method")]["value"] == "TPE, ASHA"
    assert re.fullmatch(r"61% \[40%,\s80%\]", seen[at.format("Learning Rate", "Impact")]["value"])
    assert seen[at.format("Learning Rate", "Impact")]["source"]["field"] == "study.json#/rows/0/importance"
    told = seen[at.format("Regularization", "Search Range")]["value"]
    assert told == "weight decay 1e-06 to 0.01, log; label smoothing 0 to 0.2"
    assert seen[at.format("Optimizer", "Impact")]["reason"].endswith("too few configurations to tell an importance")
    assert seen[at.format("Epochs", "Search Range")]["reason"] == "not applicable: the search space has no such field"
    assert seen[at.format("Epochs", "Optimization Method")]["value"] == "none: set by the brief"

    text = artifact.file("report.md").read_text()
    assert "(weight decay: at the edge of its range)" in text
    assert "16 configurations: 3 trained to the end, 12 given up early, 1 failed; judged by" in text
    assert "| width (training.width) | not applicable: the brief sets none | 8 to 32 | " in text
    page = artifact.file("report.html").read_text()
    pictures = re.findall(r'<img class="plot" alt="([^"]+)" src="data:image/svg\+xml;base64,([^"]+)">', page)
    assert [name for name, _ in pictures] == [
        "Optimization history", "Importance of each field", "Configurations as lines", "Configurations by field",
    ]  # fmt: skip
    assert {ET.fromstring(base64.b64decode(data)).tag.rpartition("}")[2] for _, data in pictures} == {"svg"}
    assert not re.search(r"(src|href)=\"(?!#|data:image/svg)", page), "nothing is loaded from elsewhere"


def test_without_a_study_the_rows_say_so(line, partition, found):
    _, seen = found()
    place = "section 4: Learning Rate: Search Range"
    assert seen[place]["reason"] == "not measured: no search was run"
    made(line, partition, {**STUDY, "rows": [], "reason": NOT_ASKED})
    artifact, seen = found()
    assert seen[place]["reason"] == f"not measured: no search was run: {NOT_ASKED}"
    assert "What the search tried" not in artifact.file("report.md").read_text()
