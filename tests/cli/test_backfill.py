"""`dlp backfill`: which days are chosen, what is said beforehand, what is passed over, the order of models."""

from __future__ import annotations

import shutil
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from dl_pipelines import catalog
from dl_pipelines.cli.backfill import Backfill, chosen_days, plan_backfill, settle_model
from dl_pipelines.cli.report import plan_table
from dl_pipelines.cli.run import Failed, Ran, fill
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Partition
from tests.small import small, write

DAYS = [date(2026, 1, number) for number in (1, 2, 3)]


def part(number: int) -> Partition:
    return Partition(date(2026, 1, number), "base")


@pytest.fixture(scope="session")
def loaded(brief: Path):
    return catalog.load_brief(brief)


def test_days_are_chosen_at_least_so_far_apart(loaded):
    assert chosen_days(loaded, DAYS[0], date(2026, 2, 1), 1) == [*DAYS, date(2026, 1, 4)]
    assert chosen_days(loaded, DAYS[0], DAYS[2], 2) == [DAYS[0], DAYS[2]]
    assert chosen_days(loaded, DAYS[1], DAYS[2], 7) == [DAYS[1]]
    with pytest.raises(ValueError, match="found --every 0; expected at least 1 day"):
        chosen_days(loaded, DAYS[0], DAYS[2], 0)


def test_a_plan_of_an_empty_home(loaded, brief, dlp, tmp_path):
    asked = plan_backfill(Home(tmp_path / "home"), loaded, DAYS, ["base"])
    assert asked.plain() == {
        "models": [{"partition": f"{day}|base", "finished": False} for day in DAYS],
        "days": 3,
        "days_to_bring_in": [day.isoformat() for day in DAYS],
        "seconds_a_model": None,
        "seconds": None,
    }
    assert plan_table(asked) == [
        "3 models: 0 finished, 3 to train",
        "to train: 2026-01-01|base, 2026-01-02|base, 2026-01-03|base",
        "to bring in: 3 of 3 days of data, 2026-01-01, 2026-01-02, 2026-01-03",
        "how long it takes is not known: no model was trained in this home yet",
    ]
    days = (
        "--from",
        "2026-01-01",
        "--to",
        "2026-01-03",
        "--every",
        2,
        "--plan",
        "--home",
        tmp_path / "other",
        "--json",
    )
    said = dlp("backfill", brief, *days)
    assert (said.code, [item["partition"] for item in said.json["models"]]) == (
        0,
        ["2026-01-01|base", "2026-01-03|base"],
    )
    assert "2 models: 0 finished, 2 to train" in said.err
    assert not (tmp_path / "other" / "artifacts" / "small").exists(), "nothing was made"


def test_a_long_list_is_cut():
    partitions = [Partition(date(2026, 1, number), "base") for number in range(1, 11)]
    days = [item.day for item in partitions]
    assert plan_table(Backfill(partitions, frozenset(partitions[:2]), days, [], 12.04)) == [
        "10 models: 2 finished, 8 to train",
        "to train: 2026-01-03|base, 2026-01-04|base, 2026-01-05|base ... 2026-01-10|base",
        "all 10 days of data are there",
        "about 0:01:36: 12 s a model, as the last ones took",
    ]


@pytest.mark.slow
def test_what_is_finished_is_known_until_something_of_it_changes(made, copy, loaded):
    home = Home(copy)
    asked = plan_backfill(home, loaded, DAYS, ["base"])
    assert (asked.missing, list(asked.work)) == ([], [])
    assert asked.seconds is not None and asked.seconds > 0
    wider = catalog.load_brief(write(copy.parent / "briefs", small(training={"epochs": 3})))
    assert plan_backfill(home, wider, DAYS, ["base"]).missing == [part(1), part(2), part(3)]
    shutil.rmtree(copy / "index" / "small" / "evaluation" / "partitions")
    assert plan_backfill(home, loaded, DAYS, ["base"]).missing == [part(1), part(2), part(3)]


@pytest.mark.slow
def test_a_day_that_is_gone_needs_its_data_and_the_models_from_there_on(made, copy, loaded):
    home = Home(copy)
    (stage,) = (item for item in made.run.json["stages"]
                if (item["asset"], item["partition"]) == ("validated_data", "2026-01-02"))  # fmt: skip
    shutil.rmtree(copy / Path(stage["artifact"]).relative_to(made.home))
    asked = plan_backfill(home, loaded, DAYS, ["base"])
    assert list(asked.work) == [DAYS[1]]
    assert asked.missing == [part(2), part(3)]
    settle_model(home, loaded, part(3))
    assert plan_backfill(home, loaded, DAYS, ["base"]).missing == [part(2), part(3)], "it can't be finished"


@pytest.mark.slow
def test_a_second_backfill_runs_nothing(made):
    assert "3 models: 3 finished, 0 to train" in made.again.err
    assert "trained_model" not in made.again.err.partition("all 3 days of data are there")[2].partition("backfill")[0]


class Recorded:
    """A line that only notes what it is asked for."""

    def __init__(self, refused: list[Failed]):
        self.asked: list[Any] = []
        self.refused = refused

    def bring_in(self, days: Any, tags: Any) -> Ran:
        self.asked.append(("data", len(days)))
        return Ran(part(3), failures=list(self.refused))

    def run(self, day: date, experiment: str, tags: Any, days: Any) -> Ran:
        assert days == (), "the data was brought in before"
        self.asked.append(str(day))
        failed = [Failed("training_window", "missing", False)] if self.refused and day == DAYS[2] else []
        return Ran(Partition(day, experiment), failures=failed)

    def finished(self, partition: Partition) -> Ran:
        return Ran(partition)


def filled(line: Any, finished: set[Partition]) -> list[Ran]:
    return fill(line, Backfill([part(1), part(2), part(3)], frozenset(finished), DAYS, DAYS[1:], 1.0), {})


def test_data_comes_in_once_and_models_follow_in_order():
    line = Recorded([])
    assert [ran.partition for ran in filled(line, {part(2)})] == [part(1), part(2), part(3)]
    assert line.asked == [("data", 3), "2026-01-01", "2026-01-03"]
    done = Recorded([])
    filled(done, {part(1), part(2), part(3)})
    assert done.asked == []


def test_why_data_was_refused_is_told_where_a_model_lacks_it():
    line = Recorded([Failed("validated_data", "too few", False)])
    told = [[item.message for item in ran.failures] for ran in filled(line, set())]
    assert told == [[], [], ["too few", "missing"]]
