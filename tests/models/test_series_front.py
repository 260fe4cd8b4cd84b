"""The front against a slow reference: fills, limits, calendar; whatever is missing, its numbers are finite."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest
import torch

from dl_pipelines.models.series_front import Front, Seen, _place
from dl_pipelines.tasks.series import code
from tests.series import demand, make_table, make_task

EPOCH = date(1970, 1, 1)
NAN = float("nan")


def front_of(values: np.ndarray | None = None, **changed: Any) -> Front:
    torch.manual_seed(0)
    task = make_task(**changed)
    table = make_table(task, demand(120) if values is None else values)
    return Front(task, task.fit(table, np.ones(table.num_rows, bool)), 4).eval()


def frame(history: list[float], item: str = "a", first: date = date(2025, 3, 3), **columns: list[float]) -> np.ndarray:
    """[9, 6] of a history of six values."""
    found = np.full((9, 6), np.nan, np.float32)
    found[:, 0] = (first - EPOCH).days + np.arange(9)
    found[:, 1], found[:, 5] = code(item), code("x")
    found[:6, 2], found[:6, 3], found[:, 4] = (
        history,
        columns.get("stock_out", [0] * 6),
        columns.get("price", [1.5] * 9),
    )
    return found


def see(front: Front, *frames: np.ndarray) -> Seen:
    with torch.no_grad():
        return front(torch.from_numpy(np.stack(frames)))


def filled(front: Front, values: list[float], item: int = 1) -> list[float]:
    given = torch.tensor([values])
    with torch.no_grad():
        return front._fill(given, torch.isfinite(given), 0, torch.tensor([item]))[0].tolist()


def by_season(values: list[float]) -> np.ndarray:
    row = np.array(values)
    same = [row[place::3][np.isfinite(row[place::3])] for place in range(3)]
    return np.array([np.median(same[day % 3]) if len(same[day % 3]) else np.nanmean(row) for day in range(len(row))])


def by_line(values: list[float]) -> np.ndarray:
    row, days = np.array(values), np.arange(len(values))
    return np.interp(days, days[np.isfinite(row)], row[np.isfinite(row)])


HOLES = [[1, NAN, 3, NAN, 5, 9], [NAN, NAN, 4, 8, NAN, NAN], [2, NAN, NAN, NAN, NAN, 12], [NAN, 7, NAN, NAN, NAN, NAN]]


@pytest.mark.parametrize("values", HOLES)
def test_each_strategy_is_what_numpy_says(values: list[float]):
    known = np.isfinite(values)
    assert filled(front_of(), values) == pytest.approx(np.where(known, values, by_season(values)))
    line = filled(front_of(missing={"value": "interpolate"}), values)
    assert line == pytest.approx(np.where(known, values, by_line(values)))
    drop = filled(front_of(missing={"value": "drop"}), values)
    assert drop == pytest.approx(np.where(known, values, np.nanmean(values)))
    model = front_of(missing={"value": "model"})
    weights = model.statistics.of("fill_0").tolist()
    assert weights != [1, 0, 0]
    expected = weights[0] * by_season(values) + weights[1] * by_line(values) + weights[2]
    assert filled(model, values) == pytest.approx(np.where(known, values, expected), rel=1e-5)


def test_a_seasonal_fill_is_the_median_so_that_an_outlier_fills_nothing():
    values = [1, 2, 3, 4, 900, NAN, 3, 5, 6, 2, NAN, 9, NAN, 4, 3]
    found = filled(front_of(history=15), values)
    assert found == pytest.approx(np.where(np.isfinite(values), values, by_season(values)))
    assert found[10] == 4.5


@pytest.mark.parametrize("how", ["seasonal", "interpolate", "drop"])
def test_a_history_of_nothing_is_the_mean_of_the_item(how: str):
    values = demand(120)
    front = front_of(values, missing={"value": how})
    assert filled(front, [NAN] * 6, 2) == pytest.approx([np.nanmean(values[1])] * 6, rel=1e-5)
    assert filled(front, [NAN] * 6, 0) == pytest.approx([np.nanmean(values)] * 6, rel=1e-5)


def test_level_profile_and_what_is_known():
    seen = see(front_of(outliers={"value": "keep"}), frame([2, 4, NAN, 4, 8, 6]))
    history = np.array([2, 4, 6, 4, 8, 6])
    assert seen.level.item() == pytest.approx(history.mean())
    weight = np.exp([-1.5, 0])
    assert seen.base[0].tolist() == pytest.approx((weight / weight.sum()) @ (history.reshape(2, 3) / 5), rel=1e-5)
    assert seen.history[0, :, 0].tolist() == pytest.approx(history / 5 - 1)
    assert seen.history[0, :, 1].tolist() == pytest.approx(np.log(history / 5 + 0.05), rel=1e-5)
    assert seen.history[0, :, 2].tolist() == [1, 1, 0, 1, 1, 1]


def test_sizes_are_those_it_tells():
    front = front_of(country="DE", outliers={"value": "flag", "price": "flag"}, censored_by="stock_out")
    seen = see(front, frame([1] * 6), frame([2] * 6, "new"))
    assert seen.history.shape == (2, 6, front.history_size)
    assert seen.future.shape == (2, 3, front.future_size)
    assert seen.static.shape == (2, front.static_size)


def test_outliers_are_limited_or_flagged():
    spike = frame([10, 10, 10, 10, 10, 1000])
    free, limited = see(front_of(outliers={"value": "keep"}), spike), see(front_of(), spike)
    high = front_of().statistics.of("high_0")[1].item()
    assert limited.history[0, :, 0].max().item() == pytest.approx(high - 1, rel=1e-5)
    assert free.history[0, :, 0].max().item() == pytest.approx(1000 / 175 - 1, rel=1e-5)
    flagged = see(front_of(outliers={"value": "flag"}), spike)
    assert torch.equal(flagged.history[..., :3], free.history[..., :3])
    assert flagged.history[0, -1, 4] == 1
    dear = frame([10] * 6, price=[1.5] * 8 + [900.0])
    capped = see(front_of(outliers={"price": "winsorise"}), dear).future[0, :, -7]
    assert capped.max() < see(front_of(), dear).future[0, :, -7].max() == 8


def test_what_was_cut_off_counts_as_missing():
    cut = frame([2, 4, 0, 4, 8, 6], stock_out=[0, 0, 1, 0, 0, NAN])
    missing = frame([2, 4, NAN, 4, 8, 6], stock_out=[0, 0, 1, 0, 0, NAN])
    front = front_of(censored_by="stock_out")
    for name in ("history", "future", "static", "level", "base"):
        assert torch.equal(getattr(see(front, cut), name), getattr(see(front, missing), name)), name
    assert see(front_of(), cut).level.item() == pytest.approx(4)


def test_twice_the_history_is_twice_the_level_and_else_alike():
    front, history = front_of(), [20.0, 40, 30, NAN, 80, 60]
    one, two = see(front, frame(history)), see(front, frame([2 * value for value in history]))
    assert two.level.item() == pytest.approx(2 * one.level.item())
    assert torch.allclose(one.history, two.history, atol=1e-5)
    assert torch.allclose(one.base, two.base, atol=1e-5)
    assert two.static[0, -1].item() - one.static[0, -1].item() == pytest.approx(np.log(2), abs=1e-4)


@pytest.mark.parametrize("negative", [False, True])
def test_all_is_finite_whatever_is_missing(negative: bool):
    front = front_of(country="DE", negative=negative, missing={"price": "model", "stock_out": "seasonal"})
    nothing = frame([NAN] * 6, "new", stock_out=[NAN] * 6, price=[NAN] * 9)
    nothing[:, 5] = np.nan
    three_days = frame([NAN, NAN, NAN, 1, 0, 2])
    seen = see(front, nothing, three_days, frame([0] * 6), frame([np.inf, 1, 2, 3, -np.inf, 5]))
    for name in ("history", "future", "static", "level", "base"):
        assert torch.isfinite(getattr(seen, name)).all(), name


def test_an_unknown_item_or_word_has_place_nought():
    known = torch.tensor([7, 5, 5, 9])
    values = torch.tensor([[9.0], [7.0], [4.0], [NAN], [5.0]])
    assert _place(values, known).tolist() == [4, 1, 0, 0, 3]  # of equal codes the last
    front = front_of()
    new, usual = see(front, frame([1] * 6, "new")).static[0, :4], see(front, frame([1] * 6)).static[0, :4]
    assert torch.equal(new, front.items.weight[0])
    assert torch.equal(usual, front.items.weight[1])


def test_what_may_be_negative_keeps_its_sign():
    front = front_of(-demand(120), negative=True, outliers={"value": "keep"})
    seen = see(front, frame([-2, -4, -6, -2, -4, -6]))
    assert seen.level.item() == pytest.approx(4)
    assert seen.base[0].tolist() == pytest.approx([-0.5, -1, -1.5], rel=1e-5)
    assert seen.future[0, :, -2].tolist() == pytest.approx([-0.5, -1, -1.5], rel=1e-5)


def test_the_place_in_the_week_is_that_of_the_date():
    front = front_of(season=7, history=7, horizon=3)
    first = date(2025, 3, 3)
    days = torch.tensor([[float((first - EPOCH).days + shift) for shift in range(14)]])
    with torch.no_grad():
        found = front._days(days)[0]
    for shift in range(14):
        weekday = (first + timedelta(days=shift)).weekday()
        assert found[shift, 12:19].nonzero().flatten().tolist() == [
            (weekday + 4) % 7
        ]  # 1970 began on a Thursday: place 3
    turn = 2 * np.pi * (days[0].numpy() % 365.25) / 365.25
    assert found[:, 0].numpy() == pytest.approx(np.sin(turn), abs=1e-5)
    assert found[:, 7].numpy() == pytest.approx(np.cos(2 * turn), abs=1e-5)


def test_holidays_are_seen_from_two_days_before_to_two_after():
    front = front_of(country="DE")
    assert front.holidays is not None
    kinds, first = front.statistics.of("kinds"), int(front.statistics.of("first_day"))
    christmas = (date(2026, 12, 25) - EPOCH).days
    days = torch.tensor([[christmas - 3.0, christmas, christmas + 2.0, 60_000.0, 100.0]])
    with torch.no_grad():
        found = front._days(days)[0, :, -20:].reshape(5, 5, 4)
        for row, day in enumerate(days[0].tolist()):
            for place, shift in enumerate((-2, -1, 0, 1, 2)):
                at = int(day) + shift - first
                kind = int(kinds[at]) if 0 <= at < len(kinds) else 0
                assert torch.equal(found[row, place], front.holidays.weight[kind])
    assert found[1, 2].any()
    assert found[1, 3].any()  # the second day of Christmas
    assert not found[0].any()
    assert not found[3:].any()
