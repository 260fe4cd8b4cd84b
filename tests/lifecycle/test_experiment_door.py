"""Which challenger has the next live experiment, and which has none."""

import pytest

from dl_pipelines.lifecycle import door, experiment, ledger

from .worlds import ADVANCE, HARMED, PROMOTE


def test_the_newest_challenger_waits_and_takes_the_place_of_one_that_waits(world):
    world.step()
    for day, model in ((3, "third"), (4, "fourth")):
        world.publish(day, model)
        world.compared(model, "old")
        assert world.step() == [], "the one that runs goes on"
    done = world.step(HARMED)
    assert done[2:] == [
        "tiny__fourth begins its experiment against tiny__old", "tiny__fourth sees all and answers nobody",
    ]  # fmt: skip
    world.step(HARMED)
    assert world.events[-1] == ("rolled_back", 0, "fourth") and not world.due().needed, "third was passed over"


def test_one_that_waited_is_compared_with_the_new_champion_first(world, monkeypatch):
    asked = []

    def compare(workspace, partition, *given):
        asked.append(partition.key)
        world.compared("third", "new", *bounds)
        return door.evidence_after(workspace, 0)[-1]

    monkeypatch.setattr(door, "compare_with_champion", compare)
    world.step()
    world.publish(3, "third")
    world.compared("third", "old")
    world.step(ADVANCE)
    world.step(ADVANCE)
    bounds = (-0.3, -0.2)
    world.step(PROMOTE)
    assert asked == ["2026-01-03|base"] and ledger.running(world.workspace) is None, "worse than what serves now"
    assert not world.due().needed
    world.publish(4, "fourth")
    world.compared("fourth", "new")
    world.step()
    assert world.events[-1] == ("stage", 0, "fourth")


@pytest.mark.parametrize("low_high_rows", [(-0.3, -0.2, 100), (0.1, 0.2, 0)])
def test_a_model_that_is_worse_on_held_out_rows_or_was_not_compared_has_no_experiment(world, low_high_rows):
    world.publish(3, "worse")
    world.compared("worse", "old", *low_high_rows)
    assert world.due().told == "tiny__new waits for its experiment"
    world.step()
    world.step(HARMED)
    assert world.due().told == "no challenger waits"
    assert world.step() == [] and world.events == [("stage", 0, "new"), ("rolled_back", 0, "new")]


def test_a_model_that_is_older_or_published_otherwise_by_now_has_none(world):
    world.publish(2, "again")
    assert world.step() == [] and world.due().told == "no challenger waits"
    world.serve("again")
    world.publish(1, "earlier")
    world.compared("earlier", "again")
    assert world.step() == [] and world.events == []


def test_a_worse_newer_one_does_not_take_the_place_of_one_that_waits(world):
    world.step()
    for day, model, bounds in ((3, "good", (0.01, 0.03)), (4, "worse", (-0.3, -0.2))):
        world.publish(day, model)
        world.compared(model, "old", *bounds)
    assert world.step(HARMED)[2] == "tiny__good begins its experiment against tiny__old"
    world.step(HARMED)
    assert not world.due().needed and world.events[-1] == ("rolled_back", 0, "good"), "worse has none"


def test_of_several_that_are_to_be_compared_anew_the_newest_that_is_not_worse_begins(world, monkeypatch):
    bounds = {"2026-01-03|base": ("third", 0.01, 0.03), "2026-01-04|base": ("fourth", -0.3, -0.2)}

    def compare(workspace, partition, *given):
        model, *found = bounds[partition.key]
        world.compared(model, "new", *found)
        return door.evidence_after(workspace, 0)[-1]

    monkeypatch.setattr(door, "compare_with_champion", compare)
    world.step()
    for day, model in ((3, "third"), (4, "fourth")):
        world.publish(day, model)
        world.compared(model, "old")
    world.step(ADVANCE)
    world.step(ADVANCE)
    assert world.step(PROMOTE)[2] == "tiny__third begins its experiment against tiny__new"
    world.step(HARMED)
    assert not world.due().needed


def test_the_same_model_of_another_day_has_no_second_experiment_and_is_not_due(world):
    world.step()
    world.step(HARMED)
    world.publish(3, "new")  # a model is called by its bytes
    world.compared("new", "old")
    for _ in range(2):
        assert world.due() == experiment.Due(False, "no challenger waits") and world.step() == []
    assert world.events == [("stage", 0, "new"), ("rolled_back", 0, "new")]
