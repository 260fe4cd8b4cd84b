"""Partitions against calendars counted by hand: days, windows, models, a day without records, the brief's time zone."""

import os
import random
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import dagster as dg
import pytest
from dagster._core.asset_graph_view.asset_graph_view import AssetGraphView

from assets import partitions
from assets.project import project_assets
from assets.stage import key_of
from dl_pipelines.brief import Brief
from resources.workspaces import RESOURCE, WorkspaceResource


def keys_at(brief: Brief, *when: int) -> list[str]:
    """The days that there are at a moment in UTC."""
    with dg.partition_loading_context(effective_dt=datetime(*when, tzinfo=UTC)):
        return list(partitions.days(brief).get_partition_keys())


def parents(brief: Brief, child: str, parent: str, key: str, experiments: list[str] | None = None) -> list[str]:
    """What a partition of one stage is made from, as Dagster sees it."""
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(partitions.experiments_name(brief), experiments or [])
        defs = dg.Definitions(project_assets(brief), resources={RESOURCE: WorkspaceResource()})
        view = AssetGraphView.for_test(defs, instance)
        node = view.asset_graph.get(key_of(brief, child))
        subset = view.get_subset_from_partition_keys(node.key, node.partitions_def, {key})
        found, missing = view.compute_parent_subset_and_required_but_nonexistent_subset(key_of(brief, parent), subset)
        assert missing.is_empty
        return sorted(item.partition_key for item in found.expensively_compute_asset_partitions())


def test_days_start_with_the_first_records(little):
    assert keys_at(little(), 2026, 1, 3, 12) == ["2026-01-01", "2026-01-02", "2026-01-03"]


def test_days_start_where_the_brief_says(little):
    assert keys_at(little(start="2026-01-02"), 2026, 1, 3, 12) == ["2026-01-02", "2026-01-03"]


@pytest.mark.parametrize(
    ("zone", "last"), [("UTC", "2026-02-01"), ("Asia/Tokyo", "2026-02-02"), ("America/New_York", "2026-02-01")]
)
def test_a_day_begins_in_the_time_zone_of_the_brief(little, zone, last):
    assert keys_at(little(timezone=zone), 2026, 2, 1, 15, 30)[-1] == last, "15:30 UTC is half past midnight in Tokyo"


def test_today_is_a_partition_before_it_is_over(little):
    assert keys_at(little(), 2026, 2, 1, 0, 0, 1)[-1] == "2026-02-01"


def test_records_that_are_ahead_of_today_have_partitions(little):
    first = datetime.now(UTC).date() + timedelta(days=3)
    arrivals = {"first_records": 60, "per_day": 20, "live_records": 1697, "first_day": first}
    found = partitions.days(little(source={"name": "digits", "params": arrivals})).get_partition_keys()
    assert list(found) == [str(first + timedelta(days=number)) for number in range(3)]


def test_a_source_that_cannot_be_read_has_days_all_the_same(little, tmp_path):
    brief = little(source={"name": "image_folder", "params": {"path": str(tmp_path / "nowhere")}})
    assert keys_at(brief, 2020, 1, 2, 12) == ["2020-01-01", "2020-01-02"]
    with pytest.raises(ValueError, match=r"found nothing at .*nowhere; expected a folder with one folder a class"):
        partitions.source_days(brief)


def test_a_day_without_files_is_not_a_day_of_the_source(little, tmp_path):
    for name, when in (("a.png", datetime(2026, 1, 1, 9, tzinfo=UTC)), ("b.png", datetime(2026, 1, 3, 9, tzinfo=UTC))):
        path = tmp_path / "0" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
        os.utime(path, (when.timestamp(), when.timestamp()))
    brief = little(source={"name": "image_folder", "params": {"path": str(tmp_path)}})
    assert partitions.source_days(brief) == [date(2026, 1, 1), date(2026, 1, 3)]
    assert keys_at(brief, 2026, 1, 3, 12) == ["2026-01-01", "2026-01-02", "2026-01-03"]


@pytest.mark.parametrize(
    ("length", "day", "expected"),
    [
        (None, 3, ["01", "02", "03"]),
        (2, 3, ["02", "03"]),
        (1, 3, ["03"]),
        (2, 1, ["01"]),
        (30, 2, ["01", "02"]),
    ],
)
def test_a_window_looks_back(little, length, day, expected):
    found = parents(little(window_days=length), "training_window", "augmented_dataset", f"2026-01-0{day}")
    assert found == [f"2026-01-{name}" for name in expected]


def test_all_history_reaches_back_ten_years(little):
    mapping = partitions.window(little())
    assert (mapping.start_offset, mapping.end_offset) == (-3649, 0)


def test_a_model_is_of_a_day_and_an_experiment(little):
    brief = little()
    day = parents(brief, "trained_model", "training_window", "2026-01-02|wide", ["base", "wide"])
    model = parents(brief, "evaluation", "trained_model", "2026-01-02|wide", ["base", "wide"])
    assert (day, model) == (["2026-01-02"], ["2026-01-02|wide"])


def test_experiments_are_made_by_users(little):
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("little_experiment", ["base", "wide"])
        instance.add_dynamic_partitions("other_experiment", ["deep"])
        now = datetime(2026, 1, 2, 12, tzinfo=UTC)
        with dg.partition_loading_context(effective_dt=now, dynamic_partitions_store=instance):
            found = sorted(partitions.Partitions.of(little()).models.get_partition_keys())
    assert found == ["2026-01-01|base", "2026-01-01|wide", "2026-01-02|base", "2026-01-02|wide"]


def test_a_source_is_looked_at_once_for_all_assets(little, monkeypatch):
    looks = []
    monkeypatch.setattr(partitions, "source_days", lambda brief: looks.append(brief) or [date(2026, 1, 1)])
    assert len(project_assets(little())) == 17
    assert len(looks) == 1


def test_ranges_have_no_gap():
    days = [date(2026, 1, number) for number in (1, 2, 5, 7, 8, 9)]
    assert partitions.contiguous(days, days) == [(days[0], days[1]), (days[2], days[2]), (days[3], days[5])]
    assert partitions.contiguous([], []) == []


def test_many_ranges_go_on_over_days_without_records():
    weeks = [date(2026, 1, 1) + timedelta(days=7 * number) for number in range(10)]
    assert partitions.contiguous(weeks, weeks) == [(weeks[0], weeks[9])]
    assert partitions.contiguous([*weeks[:4], *weeks[5:]], weeks) == [(weeks[0], weeks[3]), (weeks[5], weeks[9])]


def test_ranges_are_the_fewest_that_hold_these_days_and_no_other():
    rng = random.Random(5)
    for _ in range(200):
        there = sorted(
            date(2024, 2, 20) + timedelta(days=number) for number in rng.sample(range(30), rng.randint(1, 30))
        )
        chosen = sorted(rng.sample(there, rng.randint(1, len(there))))
        ranges = partitions.contiguous(chosen, there)
        held = [first + timedelta(days=step) for first, last in ranges for step in range((last - first).days + 1)]
        many = sum(later - earlier > timedelta(days=1) for earlier, later in pairwise(chosen)) + 1 >= partitions.MANY
        assert [day for day in held if day in there or not many] == chosen
        for (_, last), (first, _) in pairwise(ranges):
            between = [day for day in there if last < day < first]
            assert between if many else first - last > timedelta(days=1)
