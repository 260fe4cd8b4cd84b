"""The catalog: every name can be imported, experiments are kept in the home and never change under their name."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dl_pipelines import catalog
from dl_pipelines.brief import Brief, BriefError, Params
from dl_pipelines.store.home import Home
from dl_pipelines.tasks.image_classification import ImageClassification
from tests.small import small


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in catalog.KINDS for name in catalog.KINDS[kind].names]
)
def test_every_name_has_a_class_with_params(kind: str, name: str):
    model = catalog.KINDS[kind].params_model(name)
    assert issubclass(model, Params)
    assert model.model_config.get("frozen")
    assert model.model_config.get("extra") == "forbid"


def test_the_task_is_made_with_its_params(brief: Brief):
    task = catalog.task_of(brief)
    assert isinstance(task, ImageClassification)
    assert task.shape == (8, 8, 1)
    assert task.params.classes == tuple("0123456789")


def test_an_experiment_is_kept(home: Home, brief: Brief):
    assert catalog.experiments(home, brief.project) == ["base"]
    catalog.save_experiment(home, brief, "longer", {"training.epochs": 7})
    catalog.save_experiment(home, brief, "longer", {"training.epochs": 7})
    catalog.save_experiment(home, brief, "a", {"training.seed": 1})
    assert catalog.experiments(home, brief.project) == ["base", "a", "longer"]
    assert catalog.brief_of(home, brief, "longer").training.epochs == 7
    assert catalog.brief_of(home, brief, "base") is brief
    assert catalog.brief_of(home, brief, None) is brief


def test_an_experiment_never_changes_under_its_name(home: Home, brief: Brief):
    catalog.save_experiment(home, brief, "longer", {"training.epochs": 7})
    with pytest.raises(ValueError) as caught:
        catalog.save_experiment(home, brief, "longer", {"training.epochs": 8})
    assert str(caught.value) == (
        "found the experiment 'longer' with other overrides ({'training.epochs': 7}); expected a new name"
    )
    assert catalog.brief_of(home, brief, "longer").training.epochs == 7


def test_the_base_has_no_overrides(home: Home, brief: Brief):
    catalog.save_experiment(home, brief, "base", {})
    with pytest.raises(ValueError, match="found overrides for 'base'; expected none; give another --experiment"):
        catalog.save_experiment(home, brief, "base", {"training.epochs": 7})
    assert catalog.experiments(home, brief.project) == ["base"]


def test_what_is_wrong_is_not_kept(home: Home, brief: Brief):
    with pytest.raises(BriefError, match=r"--set: training\.epochs: found 0"):
        catalog.save_experiment(home, brief, "none", {"training.epochs": 0})
    with pytest.raises(ValueError, match=r"found the experiment name '\.\./none'"):
        catalog.save_experiment(home, brief, "../none", {})
    assert not home.experiments.exists()


def test_an_unknown_experiment_is_told_with_those_there_are(home: Home, brief: Brief):
    catalog.save_experiment(home, brief, "longer", {"training.epochs": 7})
    with pytest.raises(ValueError) as caught:
        catalog.brief_of(home, brief, "shorter")
    assert str(caught.value) == (
        f"found no experiment 'shorter' of {brief.project}; expected one of base, longer; make it with --set path=value"
    )


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"source": "digits", "timezone": "Europe/Berlin"}, None),
        ({"source": {"name": "image_folder", "params": {"path": "x"}}}, None),
        (
            {
                "source": {"name": "image_folder", "params": {"path": "x", "timezone": "Asia/Tokyo"}},
                "timezone": "Asia/Tokyo",
            },
            None,
        ),
        ({"source": {"name": "image_folder", "params": {"path": "x"}}, "timezone": "Europe/Berlin"}, "'UTC'"),
        ({"source": {"name": "image_folder", "params": {"path": "x", "timezone": "Asia/Tokyo"}}}, "'Asia/Tokyo'"),
    ],
)
def test_a_source_begins_its_days_where_the_brief_does(brief: Brief, data: dict, expected: str | None):
    given = {**brief.model_dump(mode="json", exclude={"data"}), "data": data}
    problems = list(catalog.check_timezone(Brief.model_validate(given)))
    wanted = data.get("timezone", "UTC")
    assert [problem.describe("b.yaml") for problem in problems] == (
        [f"b.yaml: data.source.params.timezone: found {expected}; expected '{wanted}', as data.timezone says"]
        if expected
        else []
    )


def test_a_live_experiment_needs_answers_until_their_labels_are_due():
    def problems(log, **lifecycle):
        brief = small(serving={"log": log}, lifecycle=lifecycle)
        try:
            catalog.read_brief(yaml.safe_dump(brief), "small.yaml")
        except BriefError as error:
            return [(problem.path, problem.describe("small.yaml").partition(": ")[2]) for problem in error.problems]
        return []

    none = {"sample": 0, "keep_days": 1}
    assert problems(none) == [] == problems({"keep_days": 2}, evidence="live")
    assert problems({"sample": 0.01, "keep_days": 1}, evidence="live", rollout={"label_hours": 23.9}) == []
    sample, days = problems(none, evidence="live")
    assert sample == (
        "serving.log.sample",
        "serving.log.sample: found 0; expected above 0 where lifecycle.evidence is live: answers are judged",
    )
    assert days == (
        "serving.log.keep_days",
        "serving.log.keep_days: found 1 (24 hours); expected more than the 24 hours of lifecycle.rollout.label_hours",
    )
    told = "lifecycle.rollout.max_hours: found {}; expected more than {}, as rollout.min_hours or .label_hours says"
    for rules, found, expected in (
        ({"label_hours": 336}, 336, 336),
        ({"max_hours": 2, "label_hours": 1, "min_hours": 3}, 2, 3),
    ):
        assert problems({}, rollout=rules) == []
        (hours,) = problems({}, evidence="live", rollout=rules)
        assert hours == ("lifecycle.rollout.max_hours", told.format(found, expected))
