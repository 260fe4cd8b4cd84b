"""The index of earlier records says what a search through all earlier days says, also when one was made again."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest

from dl_pipelines.data import earlier
from dl_pipelines.data.cleaning import Known
from dl_pipelines.store.artifacts import Gate
from dl_pipelines.store.records import write_records
from dl_pipelines.store.workspace import Partition
from tests.data.conftest import FIRST

DAYS = [FIRST + timedelta(days=number) for number in range(12)]


def records(seed: int, count: int = 8) -> pa.Table:
    """Few ids and contents, so that they often meet."""
    rng = np.random.default_rng(seed)
    contents = rng.choice(40, count, replace=False)
    return pa.table({
        "sha256": [f"s{number}" for number in contents],
        "id": [f"i{number}" for number in rng.choice(40, count, replace=False)],
        "label": rng.integers(0, 3, count),
    })  # fmt: skip


def searched(days: dict[date, pa.Table], arrived: pa.Table) -> dict[str, Known]:
    """By looking through every record of every earlier day."""
    contents, ids, met = set(arrived["sha256"].to_pylist()), set(arrived["id"].to_pylist()), {}
    for day, table in days.items():
        for row in table.to_pylist():
            if row["sha256"] in contents or row["id"] in ids:
                met.setdefault(row["sha256"], Known(row["id"], row["label"], day.isoformat()))
    return dict(sorted(met.items()))


@pytest.mark.parametrize("split", [0, 5, 12])
def test_it_finds_what_a_search_finds(animals, split):
    days = {day: records(number) for number, day in enumerate(DAYS)}
    index = behind = earlier.Earlier()
    for number, (day, table) in enumerate(days.items()):
        if number == split:
            index = earlier.Earlier(behind)
        index.add(day.isoformat(), day, table, animals)
    for seed in range(100, 140):
        expected = searched(days, records(seed))
        assert index.met(records(seed)) == expected
        assert list(index.met(records(seed))) == list(expected)
    assert len(expected) > 3


def store(home, day: date, table: pa.Table, passed: bool = True):
    def build(draft):
        write_records(draft, table)
        draft.gate(Gate("enough", passed, "", blocking=True))
        draft.gate(Gate("missing", False, "only a warning"))

    return home.make("validated_data", Partition(day), build, settings={"of": str(table.to_pylist())}, parents={})


def test_days_that_are_there_are_read_once_and_one_that_is_made_again_counts(home, animals, monkeypatch):
    days = {day: records(number) for number, day in enumerate(DAYS[:4])}
    for day, table in days.items():
        store(home, day, table)
    read = []
    monkeypatch.setattr(earlier, "records_of", lambda artifact, task, really=earlier.records_of: (
        read.append(artifact.digest), really(artifact, task))[1])  # fmt: skip
    arrived = records(99)
    assert earlier.before(home, DAYS[:3], animals).met(arrived) == searched(dict(list(days.items())[:3]), arrived)
    assert len(read) == 3
    assert earlier.before(home, DAYS[:4], animals).met(arrived) == searched(days, arrived)
    assert len(read) == 4, "only the day that was appended"
    days[DAYS[1]] = records(55)
    store(home, DAYS[1], days[DAYS[1]])
    assert earlier.before(home, DAYS[:4], animals).met(arrived) == searched(days, arrived)


def test_a_day_that_failed_or_is_not_there_does_not_count(home, animals):
    store(home, DAYS[0], records(0), passed=False)
    store(home, DAYS[1], records(1))
    arrived = records(0)
    assert earlier.before(home, DAYS[:5], animals).met(arrived) == searched({DAYS[1]: records(1)}, arrived)
