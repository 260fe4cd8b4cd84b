"""What a training takes over from stages that choose, and for how long a choice holds."""

from __future__ import annotations

from datetime import date

import pytest

from dl_pipelines.brief.references import FamilyRef
from dl_pipelines.brief.sections import Architecture, Pretrained, Training
from dl_pipelines.store import durable
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.training.selected import CHOICE, kept, replaced, selected

STAGE = "architecture_comparison"


@pytest.fixture
def workspace(tmp_path):
    return Workspace(Home(tmp_path).prepare(), "choosing")


def day(number, experiment="base"):
    return Partition(date(2026, 1, number), experiment)


def choose(workspace, partition, overrides=None, settings=None, stage=STAGE, days=3, parents=None):
    """As a stage does that keeps its choice."""
    given = {"settings": settings or {"seeds": 3}, "parents": parents or {}}
    text = {"overrides": overrides or {}, "why": "by hand"}
    found = kept(workspace, stage, partition, days=days, **given)
    return found or workspace.make(stage, partition, lambda draft: draft.write_json(CHOICE, text), **given)


def test_what_was_chosen_replaces_the_briefs_own(workspace):
    family = {"name": "cnn", "params": {"width": 48}}
    first = choose(workspace, day(1), {"architecture.family": family, "training.loss": None})
    second = choose(workspace, day(1), {"training.learning_rate": 0.02}, stage="hyperparameter_study")
    given = Architecture(), Training(loss="cross_entropy")
    architecture, training, parents = selected(workspace, day(1), *given)
    assert architecture.family == FamilyRef(name="cnn", params={"width": 48})
    assert (training.learning_rate, training.loss) == (0.02, None)
    assert parents == {STAGE: first, "hyperparameter_study": second}
    assert selected(workspace, day(1), *given, stages=(STAGE,))[1].learning_rate == given[1].learning_rate


def test_pretrained_weights_are_of_the_briefs_own_family(workspace):
    given = Architecture(pretrained=Pretrained(weights="weights.safetensors"))
    for number, family, kept_ in ((1, {"name": "cnn", "params": {}}, True), (2, {"name": "vit", "params": {}}, False)):
        choose(workspace, day(number), {"architecture.family": family}, settings={"n": number})
        architecture = selected(workspace, day(number), given, Training())[0]
        assert (architecture.pretrained is not None) == kept_
    choose(workspace, day(3), {"architecture.family.params.dropout": 0.2}, stage="hyperparameter_study")
    assert selected(workspace, day(3), given, Training())[0].pretrained == given.pretrained


def test_a_choice_of_nothing_is_no_parent(workspace):
    choose(workspace, day(1))
    given = Architecture(), Training()
    assert selected(workspace, day(1), *given) == (*given, {})


def test_an_override_is_checked_as_the_brief_is():
    with pytest.raises(ValueError, match="learning_rate"):
        replaced(Training(), "training", {"training.learning_rate": -1})


def test_a_choice_holds_for_so_many_days_and_is_then_made_anew(workspace):
    made = {number: choose(workspace, day(number)).settings["day"] for number in range(1, 7)}
    assert made == {1: "2026-01-01", 2: "2026-01-01", 3: "2026-01-01", 4: "2026-01-01", 5: "2026-01-05",
                    6: "2026-01-05"}  # fmt: skip
    assert workspace.find(STAGE, day(4)) == workspace.find(STAGE, day(1)), "it is pointed at"


def test_other_settings_or_another_experiment_choose_anew(workspace):
    first = choose(workspace, day(1))
    assert choose(workspace, day(2), settings={"seeds": 5}).settings["day"] == "2026-01-02"
    assert choose(workspace, day(2, "wide")).settings["day"] == "2026-01-02"
    assert choose(workspace, day(3)) == first, "the newest with these settings"
    kept(workspace, STAGE, day(1), settings={"seeds": 3}, parents={}, days=3)
    assert workspace.find(STAGE, day(1)) == first


def test_a_partition_stays_with_what_it_goes_by(workspace):
    first = choose(workspace, day(1))
    assert choose(workspace, day(4)) == first
    between = choose(workspace, day(3), settings={"seeds": 3}, days=1)
    assert between.settings["day"] == "2026-01-03"
    assert choose(workspace, day(4)) == first, "a day that was filled in later changes nothing"
    assert choose(workspace, day(5)) == between
    assert choose(workspace, day(1)) == first


def test_a_damaged_choice_is_passed_over(workspace):
    first = choose(workspace, day(1))
    newer = choose(workspace, day(2), days=0)
    durable.write_text(newer.path / "manifest.json", "{}")
    assert choose(workspace, day(3)) == first
