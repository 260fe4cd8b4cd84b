"""Panels against loops; codes."""

from __future__ import annotations

import zlib
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from dl_pipelines.tasks.series import code, days_of, make_panel
from tests.series import FIRST, ITEMS, demand, make_table, make_task


def test_a_code_is_exact_in_float32():
    assert code("a") == zlib.crc32(b"a") & 0xFFFFFF
    for text in ("", "ä", "item 17", "x" * 1000):
        assert int(np.float32(code(text))) == code(text) < 2**24


@pytest.mark.parametrize("step", [1, 7])
def test_a_panel_holds_each_record_at_its_place(step: int):
    task, values = make_task(step_days=step), demand(12)
    values[1, :4] = np.inf
    table = make_table(task, values)
    shuffled = table.take(pa.array(np.random.default_rng(0).permutation(table.num_rows)))
    panel = make_panel(shuffled, None, task.columns, task.params.categories, step)
    assert panel.items == list(ITEMS)
    assert panel.columns == ("value", "stock_out", "price", "kind")
    assert panel.days.tolist() == [(FIRST - FIRST.replace(1970, 1, 1)).days + step * place for place in range(12)]
    assert panel.chosen.all()
    assert panel.values[..., 0] == pytest.approx(np.where(np.isinf(values), np.nan, values), nan_ok=True)
    assert np.isnan(panel.values[1, :4]).all()
    assert set(panel.values[0, :, 3]) == {code("y")}


def test_of_equal_days_the_last_counts_and_an_infinite_value_is_none():
    task = make_task()
    table = make_table(task, np.full((3, 4), 5.0), price=np.full((3, 4), np.inf))
    again = table.slice(0, 1).set_column(4, table.schema.field(4), pa.array([9.0]))
    panel = task.panel(
        pa.concat_tables([table, again])
    )  # fmt: skip
    assert panel.values[0, 0, 0] == 9
    assert np.isnan(panel.values[..., 2]).all()


def test_the_chosen_records_choose_their_days():
    task = make_task()
    table = make_table(task, np.full((3, 5), 5.0))
    chosen = days_of(table) == days_of(table)[0] + 2
    assert task.panel(table, chosen).chosen.tolist() == [False, False, True, False, False]
    assert task.panel(table.slice(0, 0)).values.shape == (0, 0, 4)


def test_days_are_counted_from_1970():
    table = make_table(make_task(), np.full((1, 2), 5.0), FIRST.replace(1970, 1, 1) - timedelta(days=1))
    assert days_of(table).tolist() == [-1, 0]
