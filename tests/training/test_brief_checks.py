"""What a brief may say of losses, candidates and the space of the search: each error with its line."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from dl_pipelines import catalog
from dl_pipelines.brief import BriefError

IMAGES = {"name": "image_classification", "params": {"classes": ["a", "b"]}}
SERIES = {"name": "forecasting"}


def problems(task: dict[str, Any] = IMAGES, **sections: Any) -> list[str]:
    """The lines of the error of a brief with these sections; none where it is valid."""
    source = "digits" if task is IMAGES else "demand"
    brief = {"project": "mine", "problem": {"task": task}, "data": {"source": source}, **sections}
    try:
        catalog.read_brief(yaml.safe_dump(brief, sort_keys=False), "b.yaml")
    except BriefError as error:
        return str(error).splitlines()
    return []


def space(**values: Any) -> dict[str, Any]:
    return {"search": {"trials": 4, "space": {key.replace("__", "."): value for key, value in values.items()}}}


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        ({"loss": "focal", "label_smoothing": 0.1, "class_weights": "balanced"}, []),
        ({"loss": "cross_entropy"}, []),
        ({"loss": "focall"}, ["b.yaml:12: training.loss: found 'focall'; expected one of cross_entropy, focal, which "
                              "the family cnn has (did you mean 'focal'?)"]),
    ],
)  # fmt: skip
def test_the_loss_is_one_of_the_familys(training: dict[str, Any], expected: list[str]):
    assert problems(training=training) == expected


def test_a_forecasters_loss_has_no_classes():
    assert problems(SERIES, training={"loss": "quantile_and_deviance"}) == []
    found = problems(SERIES, training={"loss": "focal", "label_smoothing": 0.1, "class_weights": "balanced"})
    assert found == [
        "b.yaml:8: training.loss: found 'focal'; expected one of quantile_and_deviance, which the family "
        "lstm_attention has",
        "b.yaml:9: training.label_smoothing: found 0.1; expected 0 with the family lstm_attention, whose loss "
        "(quantile_and_deviance) has no such setting",
        "b.yaml:10: training.class_weights: found 'balanced'; expected none with the family lstm_attention, whose loss "
        "(quantile_and_deviance) has no such setting",
    ]


def test_candidates_are_of_the_tasks_kind_and_differ():
    candidates = ["cnn", {"name": "cnn", "params": {"width": 8}}, "gru", "cnn", "vitt"]
    first, second, third = problems(architecture={"comparison": {"candidates": candidates}})
    # Names come before checks.
    assert first.startswith("b.yaml:20: architecture.comparison.candidates[4].name: found 'vitt'; expected one of auto")
    assert first.endswith("(did you mean 'vit'?)")
    assert second == (
        "b.yaml:18: architecture.comparison.candidates[2].name: found 'gru'; expected one that takes inputs of "
        "image_classification: autoencoder, cnn, conv_attention, gan, rnn_rows, vit"
    )
    assert third == (
        "b.yaml:19: architecture.comparison.candidates[3]: found cnn again, as candidates[0]; expected candidates that "
        "differ"
    )
    (wrong,) = problems(architecture={"comparison": {"candidates": [{"name": "vit", "params": {"width": 10}}]}})
    assert wrong == "b.yaml:15: architecture.comparison.candidates[0].params: expected width: a multiple of heads (4)"


def test_a_space_of_what_is_there_is_valid():
    given = space(
        training__learning_rate={"low": 1e-4, "high": 0.1, "log": True},
        training__optimizer={"choices": ["adamw", "muon"]},
        training__epochs={"low": 2, "high": 9},
        training__loss={"choices": ["cross_entropy", "focal"]},
        training__clip={"low": 0.5, "high": 2},
        architecture__family__params__width={"low": 8, "high": 64},
    )
    assert problems(training=given) == []


@pytest.mark.parametrize(
    ("path", "values", "expected"),
    [
        ("training__optimizer", {"choices": ["adamw", "adamax"]},
         ".training.optimizer.choices[1]: found 'adamax'; expected one of adamw, adam, sgd, rmsprop, muon (did you "
         "mean 'adam'?)"),
        ("training__optimizer", {"choices": ["sgd", 3]},
         ".training.optimizer.choices[1]: found 3; expected one of adamw, adam, sgd, rmsprop, muon"),
        ("training__epochs", {"low": 1.5, "high": 3},
         ".training.epochs.low: found 1.5; expected a valid integer, got a number with a fractional part"),
        ("training__learning_rate", {"low": 0.1, "high": 20},
         ".training.learning_rate.high: found 20.0; expected less than 10"),
        ("training__loss", {"choices": ["focl"]},
         ".training.loss.choices[0]: found 'focl'; expected one of cross_entropy, focal, which the family cnn has "
         "(did you mean 'focal'?)"),
        ("architecture__family__params__blocks", {"low": 1, "high": 9},
         ".architecture.family.params.blocks.high: found 9; expected less than or equal to 5"),
    ],
)  # fmt: skip
def test_values_that_a_field_cant_have_are_told(path: str, values: dict[str, Any], expected: str):
    (found,) = problems(training=space(**{path: values}))
    line, told = found.removeprefix("b.yaml:").split(": training.search.space", 1)
    assert told == expected
    assert int(line) in (16, 17, 18)  # of the value itself: its path is on line 15


def test_a_path_that_is_not_there_is_told():
    (found,) = problems(training=space(learning_rate={"low": 0.1, "high": 0.2}))
    assert found.startswith("b.yaml:15: training.search.space.learning_rate: found 'learning_rate'; expected one of ")
    assert found.endswith("(did you mean 'training.learning_rate'?)")
    for path in ("training__seed", "training__search", "architecture__family__params__heads"):
        (found,) = problems(training=space(**{path: {"choices": [1]}}))
        assert f": found '{path.replace('__', '.')}'; expected one of training.epochs, training.batch_size" in found


def test_what_the_familys_loss_does_not_go_by_is_not_searched():
    (found,) = problems(SERIES, training=space(training__label_smoothing={"low": 0, "high": 0.2}))
    assert found == (
        "b.yaml:11: training.search.space.training.label_smoothing: found 'label_smoothing'; expected no search of it "
        "with the family lstm_attention, whose loss (quantile_and_deviance) has no such setting"
    )


def test_the_metric_of_a_search_is_the_tasks():
    assert problems(training={"search": {"metric": "f1"}}) == []
    (found,) = problems(training={"search": {"metric": "acuracy"}})
    assert found.startswith("b.yaml:13: training.search.metric: found 'acuracy'; expected one of accuracy, auc,")
    assert found.endswith("(did you mean 'accuracy'?)")
