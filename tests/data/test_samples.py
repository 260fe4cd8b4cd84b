"""What people see of records: a small picture of real pixels, a table that a file name can't break."""

from __future__ import annotations

import base64
import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dl_pipelines.data.samples import balance_table, reasons_table, sample_picture, show_records
from dl_pipelines.data.sources.base import Quarantined
from dl_pipelines.data.sources.digits import Digits
from dl_pipelines.tasks.forecasting import Forecasting
from dl_pipelines.tasks.image_classification import ImageClassification


@pytest.fixture(scope="module")
def first_day(digits_task):
    digits = Digits(Digits.Params())
    return digits.read_day(digits.days()[0], digits_task)[0]


def test_the_picture_shows_records_spread_over_the_table(first_day, digits_task):
    image = Image.open(io.BytesIO(sample_picture(first_day, digits_task) or b""))
    assert image.size == (400, 80)
    sheet, inputs = np.asarray(image.convert("L")), digits_task.rows(first_day).inputs
    for place in range(20):
        cell = sheet[place // 10 * 40 + 1 :, place % 10 * 40 + 1 :][:38, :38]
        wanted = Image.fromarray(inputs[place * 1017 // 20, ..., 0]).resize((38, 38), Image.Resampling.NEAREST)
        assert (cell == np.asarray(wanted)).all()


@pytest.mark.parametrize(("height", "channels", "kind"), [(8, 1, "PNG"), (48, 3, "JPEG")])
def test_what_is_shown_is_small(height, channels, kind):
    """Dagster keeps it with every materialisation: at most 20 KB, also of noise in colour, the hardest to pack."""
    params = ImageClassification.Params(classes=tuple("0123456789"), height=height, width=height, channels=channels)
    task, rng = ImageClassification(params), np.random.default_rng(0)
    digits = Digits(Digits.Params())
    table = digits.read_day(digits.days()[1], task)[0]
    if channels == 3:
        noise = pa.array(rng.integers(0, 256, 40 * height * height * 3, np.uint8))
        column = pa.FixedSizeListArray.from_arrays(noise, height * height * 3)
        table = table.set_column(table.schema.get_field_index("image"), table.schema.field("image"), column)
    shown = show_records(table, task)
    assert set(shown) == {"samples", "balance"}
    start, _, rest = shown["samples"]["md"].partition(";base64,")
    assert start == f"![samples](data:image/{kind.lower()}"
    assert Image.open(io.BytesIO(base64.b64decode(rest.rstrip(")")))).format == kind
    assert sum(len(value["md"]) for value in shown.values()) < 20_000


def test_few_records(first_day, digits_task):
    image = Image.open(io.BytesIO(sample_picture(first_day.slice(0, 3), digits_task) or b""))
    assert image.size == (400, 40)
    assert show_records(first_day.slice(0, 0), digits_task) == {}


def test_the_balance_counts_every_class(animals, first_day, digits_task):
    lines = balance_table(first_day, digits_task).splitlines()
    labels = np.bincount(first_day["label"].to_numpy(), minlength=10)
    assert lines[:2] == ["| class | records | share |", "|---|---:|---:|"]
    assert lines[2:] == [f"| {label} | {count} | {count / 1017:.1%} |" for label, count in enumerate(labels)]
    others = balance_table(first_day, animals).splitlines()[5:]
    assert f"| 7 (out of range) | {labels[7]} | {labels[7] / 1017:.1%} |" in others
    assert len(others) == 7


def test_reasons_are_one_line_each_whatever_the_name():
    odd = [Quarantined("a|b\n<img src=x>", "no | label"), *(Quarantined(f"{n}", "x" * 500) for n in range(30))]
    lines = reasons_table(odd).splitlines()
    assert lines[2] == "| a\\|b &lt;img src=x&gt; | no \\| label |"
    assert len(lines) == 2 + 20 + 1
    assert lines[-1] == "| 11 more | |"
    assert max(map(len, lines)) < 420


def test_numbers_are_summed_up_where_a_task_counts_no_classes():
    params = Forecasting.Params(target="units", known=("price",), categories=("kind",))
    task, values = Forecasting(params), [3.0, None, 0.0, float("nan"), 1200.5]
    columns = {field.name: pa.nulls(5, field.type) for field in task.arrow_schema()}
    columns |= {"units": pa.array(values), "price": pa.nulls(5, pa.float64())}
    table = pa.table(columns, schema=task.arrow_schema())
    shown = show_records(table, task)
    assert set(shown) == {"totals"}
    there = np.array([3, 0, 1200.5])
    assert shown["totals"]["md"].splitlines()[2:] == [
        f"| units | 3 | 2 | 1 | {there.sum():,.6g} | {there.min():g} | {there.max():,g} |",
        "| price | 0 | 5 | 0 | - | - | - |",
    ]
