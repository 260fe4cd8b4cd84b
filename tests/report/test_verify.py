import copy
import json

import pytest

from dl_pipelines.report.make import make_implementation_report
from dl_pipelines.report.template import framework, parse
from dl_pipelines.report.verify import Reader, cells, problems

OWN = ("brief.json", "signature.json", "described.json", "production.json")


@pytest.fixture
def finished(whole, partition, brief, task):
    artifact = make_implementation_report(whole, partition, brief, task)
    read = Reader(whole, {name: artifact.read_json(name) for name in OWN})
    return artifact.file("report.md").read_text(), artifact.read_json("report.json"), read


def check(text, report, read):
    return problems(framework(), parse(text), text, report, read)


def test_a_finished_report_is_complete(finished):
    assert check(*finished) == []


def number_cell(report):
    return next(cell for place, cell in cells(report) if place == "section 6: Accuracy: Test")


def test_a_number_that_is_not_its_fields_is_found(finished):
    text, report, read = finished
    changed = copy.deepcopy(report)
    real = number_cell(report)["value"]
    number_cell(changed)["value"] = real - 0.01
    (problem,) = check(text, changed, read)
    assert problem.startswith(f"section 6: Accuracy: Test: found {real - 0.01!r}; its source says {real!r}")


def test_every_number_of_the_report_is_checked(finished):
    """Change each number in turn: none passes."""
    text, report, read = finished
    places = [place for place, cell in cells(report) if isinstance(cell["value"], int | float)]
    assert len(places) > 50
    for position in range(len(places)):
        changed = copy.deepcopy(report)
        numbers = [cell for _, cell in cells(changed) if isinstance(cell["value"], int | float)]
        if numbers[position]["source"]["stage" if "stage" in numbers[position]["source"] else "op"] == "template":
            continue
        numbers[position]["value"] += 1
        assert any(places[position] in problem for problem in check(text, changed, read)), places[position]


def test_a_source_that_is_not_there_is_found(finished):
    text, report, read = finished
    for field, error in (("metrics.json#/test/nothing", "KeyError"), ("other.json#/a", "ArtifactError")):
        changed = copy.deepcopy(report)
        number_cell(changed)["source"]["field"] = field
        (problem,) = check(text, changed, read)
        assert f"its source can't be read ({error}" in problem


def test_a_cell_without_value_and_reason_is_found(finished):
    text, report, read = finished
    for reason in (None, "unknown", "not measured: "):
        changed = copy.deepcopy(report)
        number_cell(changed).update(value=None, reason=reason)
        assert check(text, changed, read) == ["section 6: Accuracy: Test: has neither a value nor a reason"]


def test_a_value_without_a_source_is_found(finished):
    text, report, read = finished
    number_cell(report)["source"] = None
    (problem,) = check(text, report, read)
    assert problem.endswith("without a source")


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("### 3. Model Architecture Design", "### 3. Design", "expected the template's, in order"),
        ("| **Metric** | **Training** |", "| **Metric** | **Train** |", "section 6 has"),
        ("- Timeout:", "- Time:", "section 8 has"),
        ("| Dropout |", "| Drop |", "section 3 has"),
        ("Develop deep learning solution", "We built", "the opening sentence is missing"),
        ("**Optimization Techniques:**", "", "section 7 has"),
    ],
)
def test_a_change_of_shape_is_found(finished, before, after, told):
    text, report, read = finished
    assert before in text
    assert any(told in problem for problem in check(text.replace(before, after), report, read))


def test_a_placeholder_that_is_left_is_found(finished):
    text, report, read = finished
    assert check(text + "\n[RAW_VOLUME]\n", report, read) == ["the placeholder [RAW_VOLUME] is left"]


def test_a_target_without_a_nearest_option_is_found(finished):
    text, report, read = finished
    report["verdict"]["targets"][0].update(met=False, nearest=None)
    name = report["verdict"]["targets"][0]["name"]
    assert check(text, json.loads(json.dumps(report)), read) == [
        f"target {name}: is missed, and no nearest option is named"
    ]
