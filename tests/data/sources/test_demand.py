"""Simulated demand: the same on any machine, as hard as was written down, and an oracle that is calibrated."""

from __future__ import annotations

import hashlib
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest

from dl_pipelines.data.sources.base import SourceError
from dl_pipelines.data.sources.demand import Demand
from dl_pipelines.data.sources.demand_generator import generate, holidays_of
from dl_pipelines.data.sources.demand_oracle import foretell
from dl_pipelines.store.artifacts import StageSkipped
from dl_pipelines.tasks.forecasting import Forecasting
from dl_pipelines.tasks.series import EXTRA

COLUMNS = {"target": "demand", "observed": ["stock_out"], "known": ["price", "promotion"], "categories": ["category"]}
TASK = Forecasting(Forecasting.Params(**COLUMNS))
HORIZON = 28


def source(**params) -> Demand:
    return Demand(Demand.Params(**params))


@pytest.fixture(scope="module")
def last_year():
    """Forecasts of the last of the five years: rows, and the oracle's means of them."""
    demand = source()
    table = demand.series(demand_columns()).before(demand.days()[-1] + timedelta(days=1), TASK)
    asked = table["event_time"].to_numpy().astype("datetime64[D]") > np.datetime64("2024-12-31")
    rows = TASK.rows(table, asked)
    return rows, foretell(demand.truth, rows.ids, HORIZON, ())[..., 0]


def demand_columns():
    from dl_pipelines.data.sources.series_table import columns_of

    return columns_of(TASK, "demand")


def of_total(forecast: np.ndarray, rows) -> float:
    """MAPE of the total over items by origin and day, of what was recorded."""
    actual = rows.targets[:, :HORIZON].astype(np.float64)
    there, errors = np.isfinite(actual), []
    for origin in np.unique(rows.targets[:, -EXTRA]):
        mine = rows.targets[:, -EXTRA] == origin
        total = np.where(there, actual, 0)[mine].sum(axis=0)
        errors.append(np.abs(np.where(there, forecast, 0)[mine].sum(axis=0) - total) / total)
    return float(np.mean(errors))


def naive(rows) -> np.ndarray:
    """The last recorded value of the same weekday."""
    history = rows.inputs[:, :-HORIZON, 2]
    weeks = history.reshape(len(history), -1, 7)[:, ::-1]
    last = np.take_along_axis(weeks, np.isfinite(weeks).argmax(axis=1)[:, None], axis=1)[:, 0]
    return np.tile(last, HORIZON // 7)


def test_it_is_as_hard_as_was_written_down(last_year):
    rows, oracle = last_year
    assert of_total(naive(rows), rows) == pytest.approx(0.136, abs=0.002)
    assert of_total(oracle, rows) == pytest.approx(0.035, abs=0.001)


def test_the_oracle_is_calibrated(last_year):
    rows, mean = last_year
    there = np.isfinite(rows.targets[:, :HORIZON])
    assert mean[there].sum() / rows.targets[:, :HORIZON][there].sum() == pytest.approx(1, abs=0.01)
    some = rows.take(np.arange(0, len(rows), 7))
    actual, forecast = some.targets[:, :HORIZON], source().oracle(some, TASK).astype(np.float64)
    there = np.isfinite(actual)
    assert np.array_equal(forecast[..., 0], mean[::7])
    for place, level in enumerate(TASK.params.quantiles):
        below = (actual < forecast[..., 1 + place])[there].mean()
        upto = (actual <= forecast[..., 1 + place])[there].mean()
        assert below - 0.025 <= level <= upto + 0.025, level
    assert (np.diff(forecast[..., 1:], axis=-1) >= 0).all()


def test_the_oracle_knows_the_generators_mean():
    """Many worlds with one state of affairs: their mean is the oracle's."""
    from dl_pipelines.data.sources import demand_generator as made

    truth = generate(3, date(2021, 1, 1), 400, 5)
    answer = foretell(truth, np.array(["item-002|2021-06-01"]), HORIZON, (0.1, 0.5, 0.9))[0]
    rng, day, worlds = np.random.default_rng(0), (date(2021, 6, 1) - truth.first).days, 40_000
    item, common = np.full(worlds, truth.item_regime[day - 1, 1]), np.full(worlds, truth.common_regime[day - 1])
    out = np.full(worlds, bool(truth.stock_out[day - 1, 1]))
    for step in range(HORIZON):
        for state, (spread, memory) in ((item, made.ITEM_REGIME), (common, made.COMMON_REGIME)):
            keep = np.exp(-1 / memory)
            state[:] = keep * state + spread * np.sqrt(1 - keep**2) * rng.standard_normal(worlds)
        out = rng.random(worlds) < np.where(out, made.STOCK_OUT_STAYS, made.STOCK_OUT_STARTS)
        noise = made.COMMON_SHOCK * rng.standard_normal(worlds) + made.ITEM_NOISE * rng.standard_normal(worlds)
        rate = np.exp(truth.expected[day + step, 1] + item + common + noise) * np.where(out, made.STOCK_OUT_LEFT, 1)
        sold = rng.poisson(rate)
        wrong = np.where(rng.random(worlds) < made.OUTLIERS, made.OUTLIER_FACTOR, 1)
        assert answer[step, 0] == pytest.approx((sold * wrong).mean(), rel=0.01)
        assert answer[step, 1:] == pytest.approx(np.quantile(sold, (0.1, 0.5, 0.9)), abs=1.01), "whole units"


def test_the_bytes_are_the_same_on_any_machine():
    truth = generate(12, date(2021, 1, 1), 400, 7)
    found = hashlib.sha256()
    for name in ("demand", "stock_out", "price", "promotion", "recorded"):
        found.update(np.ascontiguousarray(getattr(truth, name)).tobytes())
    assert found.hexdigest() == "a1ded04455a16db31c3e164957495c3e68c0afbf6637ca97167fe5f36127996b"


def test_later_days_change_no_earlier_one():
    short, long = generate(4, date(2021, 1, 1), 50, 7), generate(4, date(2021, 1, 1), 300, 7)
    for name in ("demand", "stock_out", "price", "promotion", "recorded", "expected", "item_regime"):
        assert np.array_equal(getattr(short, name), getattr(long, name)[:510], equal_nan=name in ("demand", "price"))


def test_every_ingredient_is_there():
    truth = source().truth
    seen = np.where(truth.recorded, truth.demand, np.nan)[:1826]
    rare = np.arange(50) % 12 == 11
    assert (np.nanmean(seen == 0, axis=0)[rare] > 0.1).all(), "intermittent items"
    assert 0.005 < 1 - truth.recorded[:1826, ~(np.arange(50) % 25 == 24)].mean() + np.isnan(truth.demand).mean() < 0.01
    assert np.isnan(seen[:400, 24]).all() and np.isfinite(seen[700:, 24]).any(), "an item that comes later"
    assert 0.001 < truth.stock_out.mean() < 0.01
    out = (truth.stock_out == 1) & ~rare
    assert np.nanmean(seen[out[:1826]]) < 0.1 * np.nanmean(seen[~out[:1826]]), "next to nothing is sold"
    usual = np.exp(truth.expected[:1826])
    assert 10 < (seen / usual > 3)[:, ~rare].sum() < 100, "recording errors"
    holiday, before = holidays_of(truth.first, 1826)
    assert np.nanmean(seen[holiday]) < 0.8 * np.nanmean(seen) < np.nanmean(seen[before])
    assert 0.1 < truth.promotion.mean() < 0.2 and (truth.promotion.sum(axis=1) > 20).mean() > 0.05, "campaigns"


def test_holidays_move_with_easter():
    holiday, before = holidays_of(date(2025, 1, 1), 365)
    named = {(date(2025, 1, 1) + timedelta(days=int(day))).isoformat() for day in np.flatnonzero(holiday)}
    assert named == {"2025-01-01", "2025-04-18", "2025-04-21", "2025-05-01", "2025-05-29", "2025-06-09", "2025-10-03",
                     "2025-12-25", "2025-12-26"}  # fmt: skip
    assert before[(date(2025, 4, 17) - date(2025, 1, 1)).days] and before[-1], "31 December as well"


def test_a_day_is_one_record_an_item():
    demand = source(items=5, days=60)
    table, quarantined = demand.read_day(date(2021, 2, 3), TASK)
    assert table.schema.equals(TASK.arrow_schema()) and not quarantined
    assert table["id"].to_pylist() == [f"item-{number:03d}|2021-02-03" for number in range(1, 6)]
    assert set(table["date"].to_pylist()) == {date(2021, 2, 3)}
    assert len(set(table["sha256"].to_pylist())) == 5
    assert demand.read_day(date(2021, 3, 2), TASK)[0].num_rows == 0, "held back"
    assert demand.read_day(date(2020, 12, 31), TASK)[0].num_rows == 0


def test_five_years_arrive_and_a_run_is_about_the_last_but_seven():
    demand = source()
    assert len(demand.days()) == 1826 and demand.days()[-1] == date(2025, 12, 31)
    assert demand.default_day() == date(2025, 12, 24)
    assert demand.days(date(2025, 12, 30)) == [date(2025, 12, 30), date(2025, 12, 31)]
    demand.require_day(date(2025, 12, 31))
    with pytest.raises(StageSkipped, match="no records arrived on 2026-01-01; the last day with records is 2025-12-31"):
        demand.require_day(date(2026, 1, 1))


def test_live_rows_are_the_days_after_the_last_arrivals():
    demand = source(items=5, days=200, live_days=3)
    rows = demand.live_rows(2, 8, TASK)
    names = [f"item-{item:03d}|2021-07-{day}" for day in (20, 21, 22) for item in range(1, 6)]
    assert rows.ids.tolist() == names[2:10]
    length = TASK.params.history
    history = [demand.read_day(date(2021, 7, 19) - timedelta(days=back), TASK)[0] for back in range(length)]
    target = pa.concat_tables(history[::-1]).filter(pa.array(["item-003|" in name for table in history[::-1]
                                                              for name in table["id"].to_pylist()]))  # fmt: skip
    wanted = target["demand"].to_numpy(zero_copy_only=False)
    assert len(wanted) == length
    assert np.array_equal(rows.inputs[0, :length, 2], wanted.astype(np.float32), equal_nan=True)
    assert np.isfinite(rows.targets[:, :HORIZON]).mean() > 0.9, "what comes to pass is known"
    assert demand.oracle(rows, TASK).shape == (8, HORIZON, 8)


def test_too_few_are_held_back():
    with pytest.raises(SourceError) as caught:
        source(items=5, days=200, live_days=3).live_rows(10, 6, TASK)
    assert str(caught.value) == (
        "found 15 held-back forecasts (3 days of 5 items); expected 16 for live traffic; ask for fewer records in "
        "monitoring.traffic, or raise data.source.params.live_days"
    )


def test_another_task_is_refused(digits_task):
    with pytest.raises(SourceError) as caught:
        source().read_day(date(2021, 1, 1), digits_task)
    assert str(caught.value) == (
        "found the task image_classification, of the kind image; expected forecasting for demand; change "
        "problem.task or data.source"
    )


def test_other_columns_are_refused():
    task = Forecasting(Forecasting.Params(**(COLUMNS | {"known": ["prize"]})))
    with pytest.raises(SourceError) as caught:
        source().read_day(date(2021, 1, 1), task)
    assert str(caught.value) == (
        "found the columns demand, stock_out, price, promotion, category in the source demand; expected demand, "
        "stock_out, prize, category: no prize; mend problem.task.params (is prize called price?)"
    )


def test_the_oracle_knows_no_other_item():
    rows = source(items=5, days=200).live_rows(0, 1, TASK)
    rows.ids[0] = "shoes|2021-07-20"
    with pytest.raises(SourceError, match="found the row shoes\\|2021-07-20; expected one of the 5 simulated items"):
        source(items=5, days=200).oracle(rows, TASK)


def test_all_that_tells_of_it_says_simulated():
    told = source().describe()
    assert all("simulated" in told[name] for name in ("update_frequency", "access", "types"))
