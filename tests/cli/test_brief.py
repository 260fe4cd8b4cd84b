"""What `dlp brief schema` and `dlp brief new` give: a schema that knows right from wrong, a brief that is valid."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from dl_pipelines import catalog
from dl_pipelines.brief import BriefError
from dl_pipelines.cli import brief as cli_brief

ROOT = Path(__file__).parent.parent.parent
TASK = "image_classification"


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json.loads(json.dumps(cli_brief.schema()))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("path", sorted((ROOT / "briefs").glob("*.yaml")), ids=lambda path: path.name)
def test_the_schema_takes_the_examples(validator: Any, path: Path):
    assert [error.message for error in validator.iter_errors(yaml.safe_load(path.read_text()))] == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("training", "epochs"), 0),
        (("training", "epoch"), 3),
        (("training", "optimizer"), "adamw2"),
        (("project",), "Digits"),
        (("data", "source"), "digit"),
        (("data", "source"), {"name": "digits", "params": {"per_days": 3}}),
        (("problem", "task", "params", "classes"), ["a"]),
        (("problem", "task", "params", "size"), 8),
        (("architecture", "family"), {"name": "cnn", "params": {"width": 1}}),
        (("problem", "targets", 0, "op"), ">"),
        (("trainin",), {}),
        (("monitoring", "traffic", "params", "days", 1, "shift", 0), {"name": "rotatio"}),
    ],
    ids=str,
)
def test_the_schema_refuses_what_the_check_refuses(validator: Any, path: tuple[str | int, ...], value: object):
    data = yaml.safe_load((ROOT / "briefs" / "digits.yaml").read_text())
    wrong: Any = copy.deepcopy(data)
    here = wrong
    for part in path[:-1]:
        here = here[part]
    here[path[-1]] = value
    assert not validator.is_valid(wrong)
    with pytest.raises(BriefError):
        catalog.read_brief(yaml.safe_dump(wrong), "b.yaml")


@pytest.mark.parametrize("field", ["project", "problem", "data"])
def test_the_schema_asks_for_what_has_no_default(validator: Any, field: str):
    data = yaml.safe_load((ROOT / "briefs" / "digits.yaml").read_text())
    del data[field]
    assert [error.message for error in validator.iter_errors(data)] == [f"{field!r} is a required property"]


@pytest.mark.parametrize("task", catalog.KINDS["task"].names)
def test_a_new_brief_of_each_task_is_valid_and_described(validator: Any, tmp_path: Path, task: str):
    path = cli_brief.new("mine", tmp_path / "briefs", task)
    assert path == tmp_path / "briefs" / "mine.yaml"
    brief = catalog.load_brief(path)
    assert (brief.project, brief.problem.task.name) == ("mine", task)
    assert validator.is_valid(yaml.safe_load(path.read_text()))
    assert "{name}" not in path.read_text()


def test_a_new_brief_is_of_a_task_that_there_is(tmp_path: Path):
    with pytest.raises(ValueError) as caught:
        cli_brief.new("mine", tmp_path, "../forecasting")
    assert str(caught.value) == "found --task '../forecasting'; expected one of forecasting, image_classification"
    assert list(tmp_path.iterdir()) == []


def test_a_new_brief_overwrites_nothing(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("kept")
    with pytest.raises(ValueError) as caught:
        cli_brief.new("mine", tmp_path, TASK)
    assert str(caught.value) == f"found {path} already; expected a new name; nothing was overwritten"
    assert path.read_text() == "kept"


@pytest.mark.parametrize("name", ["My Brief", "../up", "default", "a: b", ""])
def test_a_new_brief_needs_a_name_that_a_project_may_have(tmp_path: Path, name: str):
    with pytest.raises(BriefError, match=r"project|valid YAML"):
        cli_brief.new(name, tmp_path / "briefs", TASK)
    assert list(tmp_path.iterdir()) == []
