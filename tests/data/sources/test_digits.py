"""Digits as daily arrivals: every record once, the same in any process, some held back."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from dl_pipelines.data.sources.base import SourceError
from dl_pipelines.data.sources.digits import Digits
from dl_pipelines.store.records import records_digest
from dl_pipelines.tasks.image_classification import ImageClassification


def source(**params) -> Digits:
    return Digits(Digits.Params(**params))


def test_most_come_first_then_a_steady_number_and_some_are_held_back(digits_task):
    digits = source()
    counts = [digits.read_day(day, digits_task)[0].num_rows for day in digits.days()]
    assert counts == [1017, 40, 40, 40, 40, 40, 40, 40]
    assert digits.days() == [date(2026, 1, 1) + timedelta(days=number) for number in range(8)]
    assert digits.live(0, 500, digits_task).num_rows == 500


def test_every_digit_comes_once_as_scikit_learn_has_it(digits_task):
    from sklearn.datasets import load_digits

    digits = source()
    tables = [digits.read_day(day, digits_task)[0] for day in digits.days()] + [digits.live(0, 500, digits_task)]
    ids = [name for table in tables for name in table["id"].to_pylist()]
    assert sorted(ids) == [f"digit-{number:04d}" for number in range(1797)]
    bunch = load_digits()
    for table in (tables[0], tables[-1]):
        rows = digits_task.rows(table)
        places = [int(name.removeprefix("digit-")) for name in rows.ids]
        wanted = np.round(bunch.images[places] * 255 / 16).astype(np.uint8)
        assert (rows.inputs[..., 0] == wanted).all()
        assert (rows.targets == bunch.target[places]).all()


def test_a_day_is_the_same_in_another_process(digits_task):
    code = (
        "from datetime import date\n"
        "from dl_pipelines.data.sources.digits import Digits\n"
        "from dl_pipelines.store.records import records_digest\n"
        "from dl_pipelines.tasks.image_classification import ImageClassification as Task\n"
        "task = Task(Task.Params(classes=tuple('0123456789')))\n"
        "print(records_digest(Digits(Digits.Params()).read_day(date(2026, 1, 2), task)[0]))\n"
    )
    root = Path(__file__).parents[3]
    other = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    here = records_digest(source().read_day(date(2026, 1, 2), digits_task)[0])
    assert other.stdout.strip() == here


def test_a_record_says_when_it_was_taken(digits_task):
    table = source(first_day="2026-05-01").read_day(date(2026, 5, 2), digits_task)[0]
    assert set(table["date"].to_pylist()) == {date(2026, 5, 2)}
    assert set(table["event_time"].to_pylist()) == {datetime(2026, 5, 2, 12, tzinfo=UTC)}


def test_the_last_day_has_what_is_left(digits_task):
    digits = source(first_records=1000, per_day=250, live_records=500)
    assert [digits.read_day(day, digits_task)[0].num_rows for day in digits.days()] == [1000, 250, 47]
    assert digits.default_day() == digits.days()[-1]


def test_all_at_once(digits_task):
    digits = source(first_records=1297)
    assert len(digits.days()) == 1
    assert digits.read_day(date(2025, 12, 31), digits_task)[0].num_rows == 0


def test_days_begin_where_the_brief_says():
    assert source().days(date(2026, 1, 7)) == [date(2026, 1, 7), date(2026, 1, 8)]
    assert source().default_day() == date(2026, 1, 4)


def test_larger_and_coloured_images_repeat_pixels(digits_task):
    task = ImageClassification(ImageClassification.Params(classes=tuple("0123456789"), height=16, width=24, channels=3))
    large = task.rows(source().read_day(date(2026, 1, 2), task)[0]).inputs
    small = digits_task.rows(source().read_day(date(2026, 1, 2), digits_task)[0]).inputs
    assert large.shape == (40, 16, 24, 3)
    assert (large == np.kron(small, np.ones((1, 2, 3, 3), np.uint8))).all()


def test_too_few_are_held_back(digits_task):
    with pytest.raises(SourceError) as caught:
        source(live_records=100).live(50, 60, digits_task)
    assert str(caught.value) == (
        "found 100 held-back digits; expected 110 for live traffic; ask for fewer records in monitoring.traffic, or "
        "raise data.source.params.live_records"
    )


def test_there_are_only_so_many_digits():
    with pytest.raises(ValueError, match="first_records \\+ live_records at most 1797, the digits there are"):
        source(first_records=1500, live_records=500)


def test_another_task_is_refused():
    from dl_pipelines.tasks.forecasting import Forecasting

    with pytest.raises(SourceError) as caught:
        source().read_day(date(2026, 1, 1), Forecasting(Forecasting.Params()))
    assert str(caught.value) == (
        "found the task forecasting, of the kind series; expected image_classification for digits; change "
        "problem.task or data.source"
    )
