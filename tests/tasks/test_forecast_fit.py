"""Statistics against numpy, scikit-learn and the package holidays; nothing but train records goes into them."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import holidays
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from dl_pipelines.tasks.forecast_fit import described, public_holidays
from dl_pipelines.tasks.series import code
from tests.series import FIRST, ITEMS, demand, make_table, make_task

EPOCH = date(1970, 1, 1)


def fitted(task, values: np.ndarray, **columns: Any) -> dict:
    table = make_table(task, values, **columns)
    return task.fit(table, np.ones(table.num_rows, bool))


def ratios(values: np.ndarray, history: int) -> np.ndarray:
    """Each value over the mean of those before it, by a loop."""
    found = np.full(values.shape, np.nan)
    for item, row in enumerate(values):
        for day in range(1, len(row)):
            known = row[max(0, day - history) : day]
            known = known[np.isfinite(known)]
            if len(known):
                found[item, day] = row[day] / known.mean()
    return found


def test_only_the_chosen_records_matter():
    task, values = make_task(country="DE", missing={"value": "model"}), demand(160)
    chosen = np.arange(160) < 100
    changed, price = values.copy(), np.random.default_rng(0).uniform(1, 2, values.shape)
    changed[:, ~chosen] *= 100
    found = []
    for made, cost in ((values, price), (changed, np.where(chosen, price, 50))):
        table = make_table(task, made, price=cost)
        day = (table["event_time"].to_numpy().astype("datetime64[D]") - np.datetime64(FIRST)).astype(int)
        found.append(task.fit(table, chosen[day]))
    assert found[0] == found[1]
    assert found[0]["last_day"] == (FIRST - EPOCH).days + 99


def test_means_and_spreads_are_numpys():
    values, price = demand(), np.random.default_rng(0).uniform(1, 2, (3, 90)) * [[1], [2], [3]]
    price[0, :10] = np.nan
    price[1] = np.nan
    found = fitted(make_task(), values, price=price)["numbers"]
    assert found["value"]["by_item"] == pytest.approx(np.nanmean(values, axis=1), rel=1e-6)
    assert found["value"]["mean"] == pytest.approx(np.nanmean(values), rel=1e-6)
    means = [np.nanmean(price[0]), np.nanmean(price), np.nanmean(price[2])]
    assert found["price"]["by_item"] == pytest.approx(means, rel=1e-6)
    assert found["price"]["spread"] == pytest.approx(np.nanstd(price - np.array(means)[:, None]), rel=1e-5)
    assert fitted(make_task(), values)["items"] == {"names": list(ITEMS), "codes": [code(name) for name in ITEMS]}
    assert fitted(make_task(), values)["words"] == {"kind": sorted([code("x"), code("y")])}


def test_limits_are_quantiles_or_robust_deviations():
    values = demand(200)
    values[2, :160] = np.nan  # too few for limits of its own
    ratio = ratios(values, 6)
    found = fitted(make_task(), values)["limits"]["value"]
    for item in (0, 1):
        expected = np.nanquantile(ratio[item], (0.002, 0.998))
        assert (found["low"][item], found["high"][item]) == pytest.approx(tuple(expected), rel=1e-5)
    assert found["all"] == pytest.approx(np.nanquantile(ratio, (0.002, 0.998)), rel=1e-5)
    assert [found["low"][2], found["high"][2]] == found["all"]
    clipped = fitted(make_task(outliers={"value": "clip"}), values)["limits"]["value"]
    middle = np.nanmedian(ratio[0])
    reach = 6 * 1.4826 * np.nanmedian(np.abs(ratio[0] - middle))
    assert (clipped["low"][0], clipped["high"][0]) == pytest.approx((middle - reach, middle + reach), rel=1e-5)
    assert fitted(make_task(outliers={"value": "keep"}), values)["limits"]["value"]["all"] == [-1e9, 1e9]


def test_a_column_that_is_mostly_zero_is_not_clipped_to_nothing():
    stock_out = (np.random.default_rng(0).random((3, 200)) < 0.1).astype(float)
    stock_out[2] = 0
    limits = fitted(make_task(outliers={"stock_out": "clip"}), demand(200), stock_out=stock_out)["limits"]["stock_out"]
    assert limits["high"][0] == pytest.approx(6 * 1.253314 * stock_out[0].mean(), rel=1e-5)
    assert limits["high"][2] == 1e9


def test_the_level_of_targets_around_zero_is_their_size():
    values = np.tile([4.0, -4.0], (3, 100))
    found = fitted(make_task(negative=True), values)["limits"]["value"]
    assert found["all"] == pytest.approx([-1, 1])


def test_imputation_is_a_linear_regression():
    values, season = demand(150), 3
    found = fitted(make_task(missing={"value": "model"}), values)["imputation"]["value"]
    inputs, outputs = [], []
    for row in values:
        for day in range(2 * season, len(row) - 2 * season):
            around = [row[day + shift] for shift in (-2 * season, -season, season, 2 * season)]
            near = (row[day - 1] + row[day + 1]) / 2
            if np.isfinite(row[day]) and np.isfinite(near) and np.isfinite(around).any():
                inputs.append([np.nanmedian(around), near])
                outputs.append(row[day])
    reference = LinearRegression().fit(inputs, outputs)
    assert found == pytest.approx([*reference.coef_, reference.intercept_], rel=1e-4)
    assert fitted(make_task(missing={"value": "model"}), demand(14))["imputation"]["value"] == [1, 0, 0]


def test_holidays_are_those_of_the_package():
    found = fitted(make_task(country="DE"), demand())["holidays"]
    reference = holidays.country_holidays("DE", years=range(2024, 2036))
    assert [EPOCH + timedelta(days=day) for day in found["days"]] == sorted(reference)
    assert found["names"][found["kinds"][found["days"].index((date(2025, 12, 25) - EPOCH).days)] - 1] == reference.get(
        date(2025, 12, 25)
    )
    assert fitted(make_task(), demand())["holidays"] == {"days": [], "kinds": [], "names": []}


def test_an_unknown_country():
    with pytest.raises(ValueError, match="found the country 'XX'; expected an ISO 3166 code that the package holidays"):
        public_holidays("XX", 2025, 2025)


def test_what_is_missing_or_beyond_limits_is_counted():
    values = demand(100)
    values[2, :50] = np.inf  # no records yet
    stock_out = np.zeros(values.shape)
    stock_out[0, :7] = 1
    task = make_task(censored_by="stock_out", outliers={"price": "winsorise"})
    price = np.random.default_rng(3).uniform(1, 2, values.shape)
    found = fitted(task, values, stock_out=stock_out, price=price)
    plain = np.where(np.isinf(values), np.nan, values)
    living = np.isfinite(price)
    living[2, :50] = False
    ratio = ratios(plain, 6)
    counts = found["counts"]
    assert counts["value"]["cells"] == 250
    assert counts["value"]["missing"] == (living & np.isnan(plain)).sum()
    assert counts["value"]["censored"] == np.isfinite(plain[0, :7]).sum()
    beyond = 0
    for item, row in enumerate(ratio):
        low, high = np.nanquantile(row if np.isfinite(row).sum() >= 50 else ratio, (0.002, 0.998))
        beyond += ((row < low) | (row > high)).sum()
        assert (found["limits"]["value"]["low"][item]) == pytest.approx(low, rel=1e-5)
    assert counts["value"]["outliers"] == beyond
    assert counts["price"]["outliers"] == 2 * 3
    assert "outliers" not in counts["kind"]


def test_it_is_told_in_words():
    task = make_task(country="DE", censored_by="stock_out", outliers={"price": "clip"})
    statistics = fitted(task, demand())
    words = described(statistics, task)
    for name in task.columns:
        assert f"{name}: " in words["missing"]
    assert "cut off, where stock_out is 1" in words["missing"]
    assert "kind: 0 of 270 cells, taken as an unknown word" in words["missing"]
    assert "price: 0 beyond the limits, clipped at 6 robust deviations" in words["outliers"]
    assert "item: a vector for each of 3, one for all unknown; kind: a vector for each of 2" in words["encoding"]
    assert "public holidays of DE" in words["transformations"]
    assert words["dimensions"] == "9 steps x 6 columns"
