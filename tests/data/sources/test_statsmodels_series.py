"""A real series, with the gaps that it has."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from dl_pipelines.data.sources.base import SourceError
from dl_pipelines.data.sources.statsmodels_series import StatsmodelsSeries
from dl_pipelines.store.artifacts import StageSkipped
from dl_pipelines.tasks.forecasting import Forecasting

TASK = Forecasting(Forecasting.Params(target="co2", step_days=7, season=52, history=104, horizon=13, stride=13))


@pytest.fixture(scope="module")
def co2() -> StatsmodelsSeries:
    return StatsmodelsSeries(StatsmodelsSeries.Params())


def test_it_is_what_statsmodels_loads(co2):
    from statsmodels.datasets import co2 as package

    wanted = package.load_pandas().data["co2"]
    days = co2.days()
    assert days == [day.date() for day in wanted.index]
    table = pa.concat_tables([co2.read_day(day, TASK)[0] for day in days])
    assert np.array_equal(table["co2"].to_numpy(), wanted.to_numpy(), equal_nan=True)
    assert table["co2"].null_count == 59, "weeks without a value"


def test_a_week_is_a_record(co2):
    table, quarantined = co2.read_day(date(1958, 3, 29), TASK)
    assert not quarantined
    (record,) = table.to_pylist()
    assert record["id"] == "co2|1958-03-29" and record["event_time"] == datetime(1958, 3, 29, tzinfo=UTC)
    assert co2.default_day() == date(2001, 12, 29)
    with pytest.raises(StageSkipped, match="no records arrived on 1958-03-30"):
        co2.require_day(date(1958, 3, 30))


def test_windows_count_weeks(co2):
    table = pa.concat_tables([co2.read_day(day, TASK)[0] for day in co2.days(date(1995, 1, 1))])
    rows = TASK.rows(table)
    assert len(rows) > 10 and rows.inputs.shape[1] == 117
    assert (np.diff(rows.inputs[:, :, 0], axis=1) == 7).all()
    first = date.fromisoformat(rows.ids[0].partition("|")[2])
    assert first.weekday() == 5 and date(1970, 1, 1) + timedelta(days=int(rows.targets[0, -4])) == first


def test_another_column_is_refused(co2):
    with pytest.raises(SourceError) as caught:
        co2.read_day(date(1958, 3, 29), Forecasting(Forecasting.Params(target="co")))
    assert str(caught.value) == (
        "found the columns date, co2 in statsmodels.datasets.co2; expected co: no co; mend problem.task.params (is co "
        "called co2?)"
    )
