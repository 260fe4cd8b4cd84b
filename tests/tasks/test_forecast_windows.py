"""Windows against loops over plain arrays; what tells of the future is stopped; messages about short data and files."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dl_pipelines.brief.sections import Data, Split
from dl_pipelines.data.window import make_training_window
from dl_pipelines.store.artifacts import Artifact, Draft, Gate
from dl_pipelines.store.home import Home
from dl_pipelines.store.records import write_records
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.series import code
from tests.series import DAYS, FIRST, ITEMS, demand, make_table, make_task

LAST = FIRST + timedelta(days=DAYS - 1)
EPOCH = date(1970, 1, 1)


def slowly(task, values: np.ndarray, price: np.ndarray, chosen: range, stride: int) -> dict[str, tuple]:
    """Frame and targets by id, one value after the other."""
    given, found = task.params, {}
    first = (FIRST - EPOCH).days
    for origin in range(1, values.shape[1]):
        steps = range(origin, origin + given.horizon)
        if not all(step in chosen for step in steps) or (first + origin) % stride:
            continue
        for item, name in enumerate(ITEMS):
            past = range(origin - given.history, origin)
            frame = np.full((given.history + given.horizon, 6), np.nan)
            for row, step in enumerate((*past, *steps)):
                frame[row, :2] = first + step, code(name)
                if 0 <= step < values.shape[1]:
                    if step < origin:
                        frame[row, 2:4] = values[item, step], 0
                    frame[row, 4:] = price[item, step], code("x" if item else "y")
            known = [values[item, step] for step in past if step >= 0 and np.isfinite(values[item, step])]
            truth = [values[item, step] for step in steps]
            if len(known) < min(2 * given.season, given.history) or not np.isfinite(truth).any():
                continue
            apart = [
                abs(values[item, step] - values[item, step - given.season]) for step in range(given.season, origin)
            ]
            extra = first + origin, code(name), np.nanmean(apart), np.mean(known)
            found[f"{name}|{FIRST + timedelta(days=origin)}"] = frame, np.array([*truth, *extra])
    return found


@pytest.mark.parametrize("training", [False, True])
def test_windows_are_what_a_slow_loop_cuts_out(training: bool):
    task, values = make_task(train_stride=3), demand()
    values[:, 20:35] = np.nan_to_num(values[:, 20:35], nan=5.0)
    price = np.random.default_rng(1).uniform(1, 2, values.shape)
    price[1, 30] = np.nan
    table = make_table(task, values, price=price)
    chosen = range(10, 80)
    day = (table["event_time"].to_numpy() - np.datetime64(FIRST)) // np.timedelta64(1, "D")
    rows = task.rows(table, (day >= 10) & (day < 80), training)
    wanted = slowly(task, values, price, chosen, 3 if training else 2)
    assert len(wanted) > 10
    assert rows.ids.tolist() == list(wanted)
    assert rows.inputs == pytest.approx(np.stack([frame for frame, _ in wanted.values()]), nan_ok=True)
    assert rows.targets == pytest.approx(np.stack([target for _, target in wanted.values()]), nan_ok=True, rel=1e-5)
    assert (rows.inputs.dtype, rows.targets.dtype) == (np.float32, np.float32)
    assert rows.slices["item:b"].tolist() == [name.startswith("b|") for name in rows.ids]


def test_origins_do_not_depend_on_the_first_day():
    task = make_task(stride=4)
    values = np.nan_to_num(demand(), nan=3.0)
    whole = task.rows(make_table(task, values))
    later = task.rows(make_table(task, values[:, 5:], FIRST + timedelta(days=5)))
    assert set(later.ids) < set(whole.ids)
    assert {name for name in whole.ids if name[2:] >= "2025-02-01"} <= set(later.ids)


def test_a_history_holds_nothing_of_its_origin_or_later():
    task, values = make_task(stride=1), np.nan_to_num(demand(), nan=3.0)
    before = task.rows(make_table(task, values))
    changed = values.copy()
    changed[:, 40:] += 1000
    stock_out = np.zeros(values.shape)
    stock_out[:, 40:] = 1
    after = task.rows(make_table(task, changed, stock_out=stock_out))
    early = before.targets[:, -4] <= (FIRST - EPOCH).days + 40
    assert early.sum() > 50
    assert np.array_equal(before.inputs[early], after.inputs[early], equal_nan=True)
    assert np.array_equal(before.targets[early, -2:], after.targets[early, -2:])
    assert np.isnan(before.inputs[:, 6:, 2:4]).all()


def test_a_horizon_stays_within_the_chosen_days():
    task = make_task(stride=1)
    table = make_table(task, np.full((3, 40), 4.0))
    day = (table["event_time"].to_numpy() - np.datetime64(FIRST)) // np.timedelta64(1, "D")
    rows = task.rows(table, ((day >= 10) & (day < 15)) | ((day >= 20) & (day < 24)))
    origins = set((rows.targets[:, -4] - (FIRST - EPOCH).days).astype(int).tolist())
    assert origins == {10, 11, 12, 20, 21}


def test_days_without_records_belong_to_those_around_them():
    task, values = make_task(stride=1), np.full((3, 40), 4.0)
    values[:, 21] = np.inf
    table = make_table(task, values)
    day = (table["event_time"].to_numpy() - np.datetime64(FIRST)) // np.timedelta64(1, "D")
    rows = task.rows(table, (day >= 20) & (day < 24))
    assert np.isnan(rows.targets[:, 1]).sum() == 3
    assert len(rows) == 2 * 3


def test_an_item_of_three_days_is_left_out():
    task, values = make_task(), np.nan_to_num(demand(), nan=3.0)
    values[2, :-3] = np.inf
    rows = task.rows(make_table(task, values))
    assert len(rows)
    assert not rows.slices["item:c"].any()


def test_windows_with_a_gap_are_not_trained_on_where_a_column_is_dropped():
    task, values = make_task(missing={"value": "drop", "price": "drop"}, train_stride=1), np.full((3, 40), 4.0)
    values[0, 20] = np.nan
    price = np.ones(values.shape)
    price[1, 30] = np.nan
    rows = task.rows(make_table(task, values, price=price), training=True)
    origin = (rows.targets[:, -4] - (FIRST - EPOCH).days).astype(int)
    by_item = {name: set(origin[rows.slices[f"item:{name}"]].tolist()) for name in ITEMS}
    assert by_item["c"] == set(range(6, 38))
    assert by_item["a"] == set(range(6, 38)) - set(range(21, 27))
    assert by_item["b"] == set(range(6, 38)) - set(range(28, 37))
    assert len(task.rows(make_table(task, values, price=price))) > 0


def test_the_level_of_a_target_around_zero_is_its_size():
    task = make_task(negative=True, stride=1)
    values = np.tile([5.0, -5.0], (3, 20))
    assert task.rows(make_table(task, values)).targets[:, -1] == pytest.approx(5)


def splits_and_leaks(task, table):
    splits = task.split(table, LAST, Split())
    return splits, task.leaks(table, splits)


def shifted(values: np.ndarray, steps: int) -> Any:
    return np.roll(values, -steps, axis=1)


@pytest.mark.parametrize(
    ("column", "steps", "when"),
    [
        ("price", 0, "on the same day"),
        ("price", 3, "3 steps later"),
        ("price", -2, "2 steps before, which is in the horizon"),
        ("stock_out", 1, "1 steps later"),
    ],
)
def test_a_column_that_tells_of_the_future_is_found(column: str, steps: int, when: str):
    task, values = make_task(), demand()
    scale = np.array([[3.0], [0.1], [20.0]])
    planted: dict[str, Any] = {column: 5 + scale * shifted(values, steps)}
    _, (leak,) = splits_and_leaks(task, make_table(task, values, **planted))
    assert leak.startswith(f"found that {column} tells value {when} (correlation ")
    assert leak.endswith("expected a column that is known before the day; remove it from problem.task.params")


def test_what_may_be_known_is_no_leak():
    task, rng = make_task(), np.random.default_rng(0)
    walk = 100 + np.cumsum(rng.normal(0, 1, (3, DAYS)), axis=1)
    days = np.arange(DAYS)[None] * np.ones((3, 1))
    promotion = (rng.random((3, DAYS)) < 0.2).astype(float)
    sold = demand() * (1 + 0.5 * promotion)
    for values, price, stock_out in (
        (sold, promotion, sold),  # today's own sales, known today
        (sold, shifted(sold, -3), sold),  # a lag of a whole horizon
        (walk, promotion, walk),  # like its own past
        (0.1 * days, 0.3 * days, 0.7 * days),  # a trend
    ):
        table = make_table(task, values, price=price, stock_out=stock_out)
        assert splits_and_leaks(task, table)[1] == []
    smooth = make_task(season=6, history=6)  # seasonal differences of a walk over six steps are like each other
    assert splits_and_leaks(smooth, make_table(smooth, walk, stock_out=walk))[1] == []


@pytest.mark.parametrize("days", [1, 4, 5, 7])
def test_short_data_leak_nothing_and_can_not_be_trained_on(days: int):
    task = make_task()
    table = make_table(task, demand(days))
    splits = task.split(table, FIRST + timedelta(days=days - 1), Split())
    assert task.leaks(table, splits) == []
    assert "bring more days, a shorter horizon or gap, or another data.split" in str(task.untrainable(table, splits))


def test_days_in_two_splits_are_a_leak():
    task = make_task()
    table = make_table(task)
    splits = np.where(np.arange(table.num_rows) % 2, "train", "test")
    assert "90 days are in more than one split (2025-01-01): run validated_data again" in task.leaks(table, splits)


def test_how_much_is_missing_is_said():
    rest = ": bring more days, a shorter horizon or gap, or another data.split"
    for horizon, found in (
        (70, "found 70 steps in the train split; expected at least 76 for a horizon of 70, 6 of history and an origin "
         "every 1"),
        (9, "found 9 steps in the validation split; expected at least 10 for a horizon of 9 and an origin every 2"),
    ):  # fmt: skip
        task = make_task(horizon=horizon)
        table = make_table(task)
        splits = task.split(table, LAST, Split(validation=0.1, test=0.1))
        assert task.untrainable(table, splits) == found + rest
    task = make_task(horizon=8)
    assert task.untrainable(table, task.split(table, LAST, Split(validation=0.1, test=0.1))) is None


def lines(task, history: int = 6, item: str = "a") -> list[str]:
    days = [FIRST + timedelta(days=step) for step in range(history + task.params.horizon)]
    return ["date,item,value,stock_out,price,kind", *(f"{day},{item},{step},0,1.5,x" for step, day in enumerate(days))]


def test_a_csv_is_read_as_a_frame(tmp_path: Path):
    task = make_task()
    path = tmp_path / "a.csv"
    path.write_text("\ufeff" + "\n".join([lines(task)[0], *reversed(lines(task)[1:])]), encoding="utf-8")
    frame = task.read_input(str(path))
    assert (frame.shape, frame.dtype) == ((9, 6), np.float32)
    assert frame[:, 0].tolist() == [(FIRST - EPOCH).days + step for step in range(9)]
    assert frame[:6, 2].tolist() == [0, 1, 2, 3, 4, 5]
    assert np.isnan(frame[6:, 2:4]).all()
    assert frame[:, 4:].tolist() == [[1.5, code("x")]] * 9
    assert set(frame[:, 1]) == {code("a")}
    path.write_text("\n".join(lines(task, 2)), encoding="utf-8")
    short = task.read_input(str(path))
    assert np.isnan(short[:4, 2:]).all()
    assert np.isfinite(short[4:6]).all()
    assert np.diff(short[:, 0]).tolist() == [1] * 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda told: told[:1], "found no column date, item, value"),
        (lambda told: [told[0].replace("price", "cost"), *told[1:]], "found no column price in"),
        (lambda told: told[:4], r"found 3 lines in .*; expected 9: 6 of history and the 3 of the horizon"),
        (lambda told: [*told[:4], *told[5:]], "found days that are not 1 apart in .*; expected a line for each"),
        (lambda told: [*told, told[-1]], "found days that are not 1 apart"),
        (lambda told: [*told[:-1], told[-1].replace(",a,", ",b,")], r"found 2 items \(a, b\) in .*; expected the days"),
        (lambda told: [*told[:-1], told[-1].replace("1.5", "dear")], "found 'dear' as price in .*; expected a number"),
        (lambda told: [*told[:-1], told[-1].replace("1.5", "inf")], "found 'inf' as price in .*; expected a number"),
        (lambda told: [*told[:-1], "31.1.2025,a,,,1,x"], "found '31.1.2025' as day in .*, or a date as 2026-01-31"),
        (
            lambda told: ["item,value,stock_out,price,kind,date", *told[1:], "a"],
            "found 'x' as day in .*, or a date as 2026-01-31",
        ),
    ],
)
def test_a_csv_that_is_wrong_says_how(tmp_path: Path, change, message: str):
    task = make_task()
    path = tmp_path / "a.csv"
    path.write_text("\n".join(change(lines(task))), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        task.read_input(str(path))


def test_no_csv_at_all(tmp_path: Path):
    with pytest.raises(ValueError, match="expected a CSV file with a header; give another"):
        make_task().read_input(str(tmp_path / "none.csv"))


@pytest.mark.parametrize("planted", [False, True])
def test_a_window_with_a_planted_column_may_not_be_used(tmp_path: Path, planted: bool):
    task, values = make_task(), demand()
    columns: dict[str, Any] = {"price": shifted(values, 2)} if planted else {}
    table = make_table(task, values, **columns)
    workspace, partition = Workspace(Home(tmp_path).prepare(), "planted"), Partition(LAST)
    parents: dict[str, Artifact] = {}
    for stage in ("raw_data", "validated_data"):

        def build(draft: Draft) -> None:
            write_records(draft, table)
            draft.gate(Gate("fine", True, "", blocking=True))

        parents = {stage: workspace.make(stage, partition, build, settings={}, parents=parents)}
    source = {"name": "demand", "params": {"items": 1, "first_day": str(LAST - timedelta(days=1)), "days": 2}}
    data = Data.model_validate({"source": source, "start": LAST})
    window = make_training_window(workspace, partition, data, task)
    gate = next(gate for gate in window.gates if gate.name == "no_leak")
    assert gate.passed is not planted
    assert gate.blocking
    assert gate.summary.startswith("found that price tells value 2 steps later" if planted else "nothing is in more")
