"""What is right is left alone; what has changed, and all days after it, needs work."""

from __future__ import annotations

import shutil
from datetime import timedelta

import pytest

from dl_pipelines.data.plan import plan_days, settle_days
from dl_pipelines.data.raw import make_raw_days
from dl_pipelines.data.registry import SOURCES
from dl_pipelines.data.validation import make_validated_days
from dl_pipelines.store.workspace import Partition
from tests.data.conftest import FIRST

DAYS = [FIRST + timedelta(days=number) for number in range(4)]


@pytest.fixture
def shots(tmp_path, paint):
    """Three images a day."""
    root = tmp_path / "images"
    for number in range(12):
        paint(root / ("cat", "dog", "owl")[number % 3] / f"{number:02d}.png", number, DAYS[number // 3])
    return root


def work(home, data, task, days=DAYS) -> list[int]:
    """Positions of the days that need work."""
    return [DAYS.index(day) for day in plan_days(home, data, task, days).work]


def bring_in(home, data, task, days=DAYS) -> None:
    list(make_raw_days(home, days, data, task))
    list(make_validated_days(home, days, data, task))
    settle_days(home, data, task, days)


@pytest.fixture
def two_stages(animals, monkeypatch):
    """A task without stored copies."""
    monkeypatch.setattr(type(animals), "not_applicable", {"augmented_dataset": "it has none"})
    return animals


def test_nothing_is_right_before_it_was_settled(home, shots, data_of, two_stages):
    data = data_of(shots)
    assert work(home, data, two_stages) == [0, 1, 2, 3]
    bring_in(home, data, two_stages)
    plan = plan_days(home, data, two_stages, DAYS)
    assert list(plan.work) == []
    assert {stage: item.digest for stage, item in plan.right[DAYS[2]].items()} == {
        stage: home.get(stage, Partition(DAYS[2])).digest for stage in ("raw_data", "validated_data")
    }
    assert len(set(plan.marks.values())) == 4
    assert plan_days(home, data, two_stages, []).work == []


def test_a_new_day_needs_work_alone(home, shots, data_of, two_stages, paint):
    data = data_of(shots)
    bring_in(home, data, two_stages)
    paint(shots / "cat" / "new.png", 77, FIRST + timedelta(days=4))
    later = FIRST + timedelta(days=4)
    assert plan_days(home, data, two_stages, [*DAYS, later]).work == [later]


def test_a_day_that_changed_needs_work_and_then_those_after_it(home, shots, data_of, two_stages, paint):
    data = data_of(shots)
    bring_in(home, data, two_stages)
    before = plan_days(home, data, two_stages, DAYS).marks
    paint(shots / "dog" / "late.png", 78, DAYS[1])
    assert work(home, data, two_stages) == [1]
    assert plan_days(home, data, two_stages, DAYS, compare=False).work == [], "what was settled stands"
    bring_in(home, data, two_stages, [DAYS[1]])
    assert work(home, data, two_stages) == [2, 3], "they may repeat what is new"
    bring_in(home, data, two_stages, DAYS[2:])
    after = plan_days(home, data, two_stages, DAYS).marks
    assert {DAYS.index(day) for day in DAYS if after[day] != before[day]} == {1, 2, 3}


def test_another_brief_and_a_lost_artifact_need_work(home, shots, data_of, two_stages):
    data = data_of(shots)
    bring_in(home, data, two_stages)
    assert work(home, data_of(shots, window_days=2), two_stages) == [], "the window is no part of a day"
    assert work(home, data_of(shots, validation={"min_records": 2}), two_stages) == [0, 1, 2, 3]
    shutil.rmtree(home.get("validated_data", Partition(DAYS[3])).path)
    assert work(home, data, two_stages) == [3]


def test_a_day_that_failed_is_never_right(home, shots, data_of, two_stages, paint):
    paint(shots / "dog" / "again.png", 0, DAYS[2])
    data = data_of(shots)
    bring_in(home, data, two_stages)
    assert [item.name for item in home.get("validated_data", Partition(DAYS[2])).gates if not item.passed] == [
        "duplicates", "quarantine_share",
    ]  # fmt: skip
    assert work(home, data, two_stages) == [2]


def test_a_source_that_says_sooner_is_not_read(home, shots, data_of, two_stages, monkeypatch):
    data = data_of(shots)
    bring_in(home, data, two_stages)
    known = {day: SOURCES.make(data.source).digests(day, two_stages) for day in DAYS}
    kind = SOURCES.load("image_folder")
    monkeypatch.setattr(kind, "digests", lambda self, day, task: known[day])
    monkeypatch.setattr(kind, "read_day", lambda *_: pytest.fail("it was read"))
    assert work(home, data, two_stages) == []
    monkeypatch.setattr(kind, "digests", lambda self, day, task: {"records": "other"} if day == DAYS[0] else known[day])
    assert work(home, data, two_stages) == [0]
