"""Experiments: values are YAML, names follow from the overrides, what experiments share is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from dl_pipelines import catalog
from dl_pipelines.brief import BASE, Brief, BriefError, experiment_name, parse_settings
from dl_pipelines.brief.overrides import check_experiment_name

DIGITS = Path(__file__).parent.parent.parent / "briefs" / "digits.yaml"


@pytest.fixture(scope="module")
def digits() -> Brief:
    return catalog.load_brief(DIGITS)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("a=20", 20),
        ("a=0.5", 0.5),
        ("a=[1, 2]", [1, 2]),
        ("a={b: 1}", {"b": 1}),
        ("a=horovod", "horovod"),
        ("a=two words", "two words"),
        ("a='20'", "20"),
        ("a=true", True),
        ("a=null", None),
        ("a=", None),
        ("a=b=c", "b=c"),
        (" a = 3 ", 3),
    ],
)
def test_a_value_is_yaml(setting: str, value: object):
    parsed = parse_settings([setting])
    assert parsed == {"a": value}
    assert type(parsed["a"]) is type(value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("a", "--set: brief: found 'a'; expected path=value, such as training.epochs=20"),
        ("=3", "--set: brief: found '=3'; expected path=value, such as training.epochs=20"),
        ("a=[1", "--set: a: found '[1'; expected a YAML value"),
        ("a=2026-02-30", "--set: a: found '2026-02-30'; expected a YAML value"),
        (
            "a=!!python/object/apply:os.system [ls]",
            "--set: a: found '!!python/object/apply:os.system [ls]'; expected a YAML value",
        ),
    ],
)
def test_a_setting_that_is_none(setting: str, message: str):
    with pytest.raises(BriefError) as caught:
        parse_settings([setting])
    assert str(caught.value) == message


def test_overrides_replace_numbers_lists_params_and_thresholds(digits: Brief):
    changed = catalog.with_overrides(
        digits,
        {
            "training.epochs": 20,
            "compression.runtimes": ["openvino"],
            "architecture.family.params.blocks": 3,
            "compression.techniques.0.params.ranges": ["full"],
            "problem.targets.0.value": 0.5,
            "evaluation.thresholds.recall": 0.9,
        },
    )
    assert changed.training.epochs == 20
    assert changed.compression.runtimes == ("openvino",)
    assert changed.architecture.family.params == {"width": 32, "blocks": 3}
    assert changed.compression.techniques[0].params == {"ranges": ["full"]}
    assert changed.problem.targets[0].value == 0.5
    assert changed.evaluation.thresholds == {"accuracy": 0.97, "f1": 0.97, "recall": 0.9}
    assert changed.data == digits.data
    assert digits.training.epochs == 12


def test_all_techniques_can_be_asked_for(digits: Brief):
    assert catalog.with_overrides(digits, {"compression.techniques": "all"}).compression.techniques == "all"


@pytest.mark.parametrize(
    "path", ["data", "data.window_days", "data.source.params.per_day", "project", "problem", "problem.task",
             "problem.task.params.width", "lifecycle.keep"]
)  # fmt: skip
def test_what_experiments_share_is_refused(digits: Brief, path: str):
    with pytest.raises(BriefError) as caught:
        catalog.with_overrides(digits, {path: 3})
    assert str(caught.value) == (
        f"--set: {path}: expected a field outside project, problem.task, data, lifecycle, which every experiment of a "
        "brief shares"
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"training.epoch": 3}, "--set: training.epoch: found 'epoch'; expected one of accumulate, batch_size, "
                                "checkpoint_steps, class_weights, clip, compile, device, ema, epochs, label_smoothing, "
                                "learning_rate, loss, optimizer, patience, precision, schedule, search, seed, "
                                "warm_epochs, warmup_epochs, weight_decay (did you mean 'epochs'?)"),
        ({"training.epochs": 0}, "--set: training.epochs: found 0; expected greater than or equal to 1"),
        ({"training.epochs.more": 1}, "--set: training.epochs.more: found 'more'; expected no such field"),
        ({"problem.targets.9.value": 1}, "--set: problem.targets.9: found '9'; expected no such field"),
        ({"architecture.family.params.deep": 1}, "--set: architecture.family.params.deep: found 'deep'; expected one "
                                                 "of blocks, depths, dropout, network, width, widths (did "
                                                 "you mean 'depths'?)"),
        ({"evaluation.thresholds.acuracy": 1}, "--set: evaluation.thresholds.acuracy: found 'acuracy'; expected one of "
                                               "accuracy, auc, calibration_error, f1, loss, precision, recall (did "
                                               "you mean 'accuracy'?)"),
        ({"window": 1}, "--set: window: found 'window'; expected one of architecture, compression, data, distributed, "
                        "evaluation, lifecycle, monitoring, problem, project, serving, training"),
        ({"data.x": 1, "trainin.epochs": 1},
         "--set: data.x: expected a field outside project, problem.task, data, lifecycle, which every experiment of a "
         "brief shares\n"
         "--set: trainin: found 'trainin'; expected one of architecture, compression, data, distributed, evaluation, "
         "lifecycle, monitoring, problem, project, serving, training (did you mean 'training'?)"),
    ],
)  # fmt: skip
def test_a_wrong_override(digits: Brief, overrides: dict[str, object], message: str):
    with pytest.raises(BriefError) as caught:
        catalog.with_overrides(digits, overrides)
    assert str(caught.value) == message


def test_a_name_follows_from_the_overrides_in_any_order():
    assert experiment_name({}) == BASE
    # A literal: a name that changes from version to version would train every old experiment again.
    assert experiment_name({"training.epochs": 20}) == "set-fe9433b6"
    assert experiment_name({"a": 1, "b": [2]}) == experiment_name({"b": [2], "a": 1})
    names = [experiment_name(item) for item in ({"a": 1}, {"a": 2}, {"b": 1}, {"a": [1]}, {"a": "1"})]
    assert len(set(names)) == len(names)
    assert all(check_experiment_name(name) == name for name in names)


@pytest.mark.parametrize("name", ["", "Upper", "a|b", "../up", "a b", "-a", "a" * 41, "é", "base\n", "a/b", "a.b"])
def test_a_bad_name_is_refused(name: str):
    with pytest.raises(ValueError) as caught:
        check_experiment_name(name)
    assert str(caught.value) == (
        f"found the experiment name {name!r}; expected up to 40 lower case letters, digits, - and _, starting with a "
        "letter or digit"
    )
