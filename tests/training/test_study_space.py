"""The space of a study: around the brief's own settings, or as the brief says; what is refused, in which words."""

from __future__ import annotations

import pytest

from dl_pipelines.brief.references import FamilyRef
from dl_pipelines.brief.sections import Architecture, Range, Training
from dl_pipelines.training.study_space import Dimension, StudyError, configured, dimensions, fitting

ARCHITECTURE = Architecture(family=FamilyRef(name="cnn", params={"width": 8}))
SERIES = Architecture(family=FamilyRef(name="gru"))


def of(space, training=None, architecture=ARCHITECTURE):
    return dimensions(architecture, training or Training(), {path: Range(**given) for path, given in space.items()})


def test_without_a_space_it_lies_around_the_briefs_own():
    found = {field.path: field for field in of({}, Training(learning_rate=0.004, epochs=6, batch_size=32))}
    assert {path: field.row for path, field in found.items()} == {
        "training.learning_rate": "LR", "training.batch_size": "BATCH", "training.epochs": "EPOCH",
        "training.optimizer": "OPT", "training.weight_decay": "REG", "training.label_smoothing": "REG",
        "training.loss": "LOSS",
    }  # fmt: skip
    assert found["training.learning_rate"].told() == "0.0004 to 0.04, log"
    assert found["training.batch_size"].told() == "8 to 128, log"
    assert found["training.epochs"].told() == "3 to 12, log"
    assert found["training.loss"].own == "cross_entropy" and all(field.fits for field in found.values())
    series = {field.path for field in of({}, architecture=SERIES)}
    assert "training.label_smoothing" not in series and "training.weight_decay" in series
    extreme = of({}, Training(learning_rate=3, epochs=1, batch_size=1, weight_decay=0))
    assert all(field.fits for field in extreme if field.name != "weight_decay" and field.name != "batch_size")


def test_any_number_of_the_model_and_any_field_of_training():
    width, ema, clip = of({
        "architecture.family.params.width": {"low": 4, "high": 32, "log": True},
        "training.ema": {"choices": (0.9, 0.99)}, "training.clip": {"low": 0.5, "high": 2},
    })  # fmt: skip
    assert (width.own, width.fits, width.row) == (8, True, "other")
    assert (ema.own, ema.fits, ema.row) == (None, False, "REG") and not clip.fits
    assert repr(width.distribution()) == "IntDistribution(high=32, log=True, low=4, step=1)"
    assert repr(clip.distribution()).startswith("FloatDistribution(high=2.0, log=False, low=0.5")
    (blocks,) = of({"architecture.family.params.blocks": {"low": 1, "high": 3}})
    assert blocks.own is not None, "the family's default"
    architecture, training = configured(ARCHITECTURE, Training(), {width.path: 16, "training.epochs": 3})
    assert architecture.family.params == {"width": 16} and training.epochs == 3


@pytest.mark.parametrize(
    ("path", "given", "message"),
    [
        ("training.learningrate", {"low": 1, "high": 2}, r"path 'training.learningrate' .* 'training.learning_rate'"),
        ("training.seed", {"low": 1, "high": 2}, "expected a field of training, or a parameter of the family as"),
        ("architecture.family.params.layers", {"low": 1, "high": 2}, "architecture.family.params.NAME"),
        ("training.optimizer", {"choices": ("adamw", "lion")}, "found 'lion' for training.optimizer .*: Input should"),
        ("training.learning_rate", {"low": 1, "high": 20}, r"found 20 for .* hold there: Input should be less than 10"),
        ("architecture.family.params.width", {"low": -1, "high": 4}, r"found -1 for architecture.family.params.width"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_refused(path, given, message):
    with pytest.raises(StudyError, match=message):
        of({path: given})


@pytest.mark.parametrize(
    ("given", "edge", "inside"),
    [
        ({"low": 1e-4, "high": 1e-2, "log": True}, [1e-4, 1.05e-4, 1e-2, 9.5e-3], [2e-4, 1e-3, 8e-3]),
        ({"low": 0, "high": 10}, [0, 10], [1, 9]),
        ({"choices": ("a", "b")}, [], ["a", "b"]),
    ],
)
def test_edges(given, edge, inside):
    field = Dimension("training.x", Range(**given), None)
    assert [field.at_edge(value) for value in [*edge, *inside]] == [True] * len(edge) + [False] * len(inside)


def test_grids_hold_both_ends_and_every_choice():
    assert Dimension("p", Range(low=1, high=100, log=True), 1).grid(3) == [1, 10, 100]
    assert Dimension("p", Range(low=0.5, high=1.5), 1).grid(3) == [0.5, 1.0, 1.5]
    assert Dimension("p", Range(low=1, high=2), 1).grid(9) == [1, 2]
    assert Dimension("p", Range(choices=("a", "b")), "a").grid(1) == ["a", "b"]


def test_of_a_family_that_a_comparison_chose_only_its_own_params_are_searched():
    space = {
        "training.learning_rate": Range(low=1e-4, high=1e-2, log=True),
        "architecture.family.params.width": Range(low=8, high=16),
        "architecture.family.params.hidden": Range(low=-8, high=16),
    }
    assert list(fitting(SERIES, Training(), space)) == ["training.learning_rate"]
    assert list(fitting(ARCHITECTURE, Training(), space)) == list(space)[:2]
