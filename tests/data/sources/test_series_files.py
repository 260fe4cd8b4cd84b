"""Files of series as records: every form that a user may have, and every way in which one is wrong."""

from __future__ import annotations

import os
import time
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from dl_pipelines.data.cleaning import clean
from dl_pipelines.data.sources import series_table
from dl_pipelines.data.sources.base import SourceError
from dl_pipelines.data.sources.series_files import SeriesFiles
from dl_pipelines.store.records import records_digest
from dl_pipelines.tasks.forecasting import Forecasting

TASK = Forecasting(Forecasting.Params(target="sold", known=("price",), categories=("kind",)))
ONE = Forecasting(Forecasting.Params(target="sold"))
DAY = date(2024, 3, 30)
LINES = """date,shop,sold,price,kind
2024-03-30,north,5,1.5,tea
2024-03-30,south,7,2.5,coffee
2024-03-31,north,6,1.5,tea
"""


@pytest.fixture
def at(tmp_path: Path):
    """at(text, name, **params): a source of one file with this text."""

    def make(text: str | bytes, name: str = "sales.csv", **params) -> SeriesFiles:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return source(file, **params)

    return make


def source(path: Path, **params) -> SeriesFiles:
    return SeriesFiles(SeriesFiles.Params(**({"path": str(path), "item": "shop"} | params)))


def records(found: SeriesFiles, day: date = DAY, task=TASK) -> list[dict]:
    return found.read_day(day, task)[0].to_pylist()


def reasons(found: SeriesFiles, day: date = DAY, task=TASK) -> list[str]:
    return [f"{item.uri}: {item.reason}" for item in found.read_day(day, task)[1]]


def refusal(found: SeriesFiles, task=TASK) -> str:
    with pytest.raises(SourceError) as caught:
        found.read_day(found.days()[0], task)
    return str(caught.value)


def test_a_line_is_a_record(at):
    found = at(LINES)
    table, quarantined = found.read_day(DAY, TASK)
    assert table.schema.equals(TASK.arrow_schema()) and not quarantined
    first = table.to_pylist()[0]
    assert len(first.pop("sha256")) == 64
    assert first == {"id": "north|2024-03-30", "date": DAY, "event_time": datetime(2024, 3, 30, tzinfo=UTC),
                     "group": "north", "sold": 5.0, "price": 1.5, "kind": "tea", "uri": "sales.csv"}  # fmt: skip
    assert found.days() == [DAY, date(2024, 3, 31)] and found.default_day() == date(2024, 3, 31)
    assert found.days(date(2024, 3, 31)) == [date(2024, 3, 31)]
    assert found.read_day(date(2024, 4, 1), TASK)[0].num_rows == 0
    assert found.overlooked() == []


def test_the_order_of_lines_changes_nothing(at):
    header, *lines = LINES.splitlines()
    sorted_one, turned = at(LINES, "a/sales.csv"), at("\n".join([header, *lines[::-1]]), "b/sales.csv")
    assert sorted_one.days() == turned.days()
    for day in turned.days():
        assert records_digest(sorted_one.read_day(day, TASK)[0]) == records_digest(turned.read_day(day, TASK)[0])


def test_one_series_needs_no_item(at):
    found = at("date,sold\n2024-03-30,5\n", item=None, series="all")
    assert [record["id"] for record in records(found, task=ONE)] == ["all|2024-03-30"]


def test_parquet_csv_and_packed_csv_hold_the_same(at, tmp_path):
    plain = at(LINES)
    table = pyarrow.csv.read_csv(tmp_path / "sales.csv")
    pyarrow.parquet.write_table(table, tmp_path / "sales.parquet")
    with pa.CompressedOutputStream(str(tmp_path / "sales.csv.gz"), "gzip") as out:
        out.write(LINES.encode())
    wanted = records(plain)
    for name in ("sales.parquet", "sales.csv.gz"):
        found = records(source(tmp_path / name))
        assert [record | {"uri": "sales.csv"} for record in found] == wanted, name


@pytest.mark.parametrize(
    ("form", "params"),
    [
        ("date;shop;sold;price;kind\n30.03.2024;north;5;1,5;tea", {"time_format": "%d.%m.%Y", "decimal": ","}),
        ("date\tshop\tsold\tprice\tkind\n20240330\tnorth\t5\t1.5\ttea", {}),
        ("\ufeffdate , shop,sold,price,kind\r\n2024-03-30, north ,5, 1.5 ,tea\r\n", {}),
        ('date,shop,sold,price,kind\n"2024-03-30","north","5","1.5","tea"\n', {}),
        ("date,shop,sold,price,kind\n2024-03-30T23:59:59,north,5e0,1.5,tea", {"format": "csv"}),
    ],
)
def test_other_ways_to_write_the_same(at, form, params):
    (record,) = records(at(form, **params))
    assert (record["id"], record["sold"], record["price"], record["kind"]) == ("north|2024-03-30", 5.0, 1.5, "tea")


def test_an_encoding_can_be_named(at):
    text = LINES.replace("north", "köln").encode("latin-1")
    assert records(at(text, encoding="latin-1"))[0]["group"] == "köln"
    with pytest.raises(ValueError, match="an encoding that Python knows, such as utf-8, latin-1 or cp1252"):
        at(text, encoding="latin-99")


def test_names_that_look_like_numbers_stay_names(at):
    found = records(at("date,shop,sold,price,kind\n2024-03-30,007,5,1.5,NA\n2024-03-30,7,5,1.5,1\n"))
    assert [(record["group"], record["kind"]) for record in found] == [("007", "NA"), ("7", "1")]


def test_missing_values_are_missing(at):
    found = records(at("date,shop,sold,price,kind\n2024-03-30,a,,NaN,\n2024-03-30,b,null,n/a, \n"))
    assert [[record[name] for name in ("sold", "price", "kind")] for record in found] == [[None] * 3] * 2
    assert found[0]["sha256"] != found[1]["sha256"]


def test_folders_with_partitions_and_globs(at, tmp_path):
    for year, shop in ((2023, "north%20pole"), (2024, "south")):
        at(f"date,sold,price,kind\n{year}-03-30,5,1.5,tea\n", f"lake/year={year}/shop={shop}/part-0.csv")
    at("not read", "lake/_SUCCESS")
    at("not read", "lake/.hidden/a.csv")
    at("x", "lake/year=2024/notes.md")
    lake = source(tmp_path / "lake")
    assert lake.days() == [date(2023, 3, 30), DAY]
    (record,) = records(lake, date(2023, 3, 30))
    assert (record["group"], record["uri"]) == ("north pole", "year=2023/shop=north%20pole/part-0.csv")
    assert [f"{item.uri}: {item.reason}" for item in lake.overlooked()] == [
        "year=2024/notes.md: not named as a CSV or Parquet file"
    ]
    assert source(tmp_path / "lake/year=*/**/*.csv").days() == lake.days()
    assert source(tmp_path / "lake/year=2024/*/part-*").days() == [DAY]


def test_files_with_other_types_go_together(tmp_path):
    for number, sold in enumerate(([1], [1.5], ["2"])):
        columns = {"date": [date(2024, 3, 30 + number // 2)], "shop": [f"s{number}"], "sold": sold}
        pyarrow.parquet.write_table(pa.table(columns), tmp_path / f"{number}.parquet")
    found = source(tmp_path)
    assert [record["sold"] for day in found.days() for record in records(found, day, ONE)] == [1.0, 1.5, 2.0]


def test_a_changed_file_is_read_again(at, monkeypatch):
    found = at(LINES)
    assert len(records(found)) == 2
    monkeypatch.setattr(series_table, "REUSE", 0)
    series_table._REMEMBERED.clear()
    at(LINES + "2024-03-30,west,1,1.0,tea\n")
    assert len(records(found)) == 3


def test_what_was_looked_at_is_kept_for_as_long_as_it_took(monkeypatch):
    calls, clock = [], iter([0.0, 0.5, 1.0, 10.0, 11.0, 12.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(series_table, "_REMEMBERED", {})
    look = lambda: series_table.remembered("key", lambda: calls.append(1) or len(calls))  # noqa: E731
    assert [look(), look(), look(), look()] == [1, 1, 1, 2]  # it took half a second: until 10.5


def test_five_years_of_fifty_items_are_read_in_no_time(tmp_path):
    days = [date.fromordinal(date(2021, 1, 1).toordinal() + number) for number in range(1826)]
    shops, count = [str(item) for item in range(50)], 91_300
    table = pa.table({"date": [day for day in days for _ in shops], "shop": shops * 1826,
                      "sold": [1.0] * count, "price": [1.0] * count, "kind": ["tea"] * count})  # fmt: skip
    pyarrow.parquet.write_table(table, tmp_path / "all.parquet")
    source(tmp_path).read_day(days[0], TASK)
    start = time.process_time()
    for day in days[:200]:
        one = source(tmp_path)  # as each stage makes its own
        one.require_day(day)
        one.read_day(day, TASK)
    assert (time.process_time() - start) / 200 < 0.002


# what is wrong with records


def test_a_day_belongs_to_the_time_zone(at):
    text = "date,shop,sold,price,kind\n" + "".join(
        f"{moment},{shop},1,1.0,tea\n"
        for moment, shop in (
            ("2024-03-29T23:00:00Z", "a"),  # midnight in Berlin, an hour ahead
            ("2024-03-30T22:59:59+00:00", "b"),  # the last second of that day
            ("2024-03-30T23:00:00Z", "c"),  # the day of 23 hours begins
            ("2024-03-31T21:59:59Z", "d"),  # and ends an hour early
            ("2024-03-31T22:00:00Z", "e"),
            ("2024-03-31T02:30:00", "f"),  # an hour that isn't: local already, its day is right
            ("2024-10-27T00:30:00+02:00", "g"),  # the hour that comes twice
            ("2024-10-27T23:30:00+01:00", "g2"),
            ("2024-10-27T23:00:00Z", "h"),
        )
    )
    found = at(text, timezone="Europe/Berlin")
    wanted = {DAY: "a b", date(2024, 3, 31): "c d f", date(2024, 4, 1): "e", date(2024, 10, 27): "g g2",
              date(2024, 10, 28): "h"}  # fmt: skip
    assert {day: " ".join(record["group"] for record in records(found, day)) for day in found.days()} == wanted


def test_times_of_parquet_belong_to_the_time_zone(tmp_path):
    moments = [datetime(2024, 3, 30, 23, 30, tzinfo=UTC), datetime(2024, 3, 31, 22, 30, tzinfo=UTC), None]
    table = pa.table({"date": pa.array(moments, pa.timestamp("ns", "UTC")), "sold": [1, 2, 3]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    berlin = source(tmp_path, item=None, timezone="Europe/Berlin")
    assert berlin.days() == [date(2024, 3, 31), date(2024, 4, 1)]
    assert source(tmp_path, item=None).days() == [DAY, date(2024, 3, 31)]
    assert [f"{item.uri}: {item.reason}" for item in berlin.overlooked()] == ["a.parquet, record 3: no date, the time"]


def test_equal_records_repeat_and_cleaning_counts_them(at):
    found = at(LINES + "2024-03-30,north,5,1.50,tea\n")
    table, quarantined = found.read_day(DAY, TASK)
    assert table.num_rows == 3 and not quarantined
    cleaned = clean(table, TASK, {})
    assert cleaned.table.num_rows == 2 and cleaned.duplicates == 1
    assert cleaned.quarantined[0].reason == "repeats north|2024-03-30 of the same day"


def test_of_records_that_differ_none_is_kept(at):
    found = at(LINES + "2024-03-30,north,9,1.5,tea\n")
    assert [record["group"] for record in records(found)] == ["south"]
    reason = (
        "2 records of north on 2024-03-30 that differ (5, 9); nobody knows which is right: expected one an item and day"
    )
    assert reasons(found) == [f"sales.csv, record 1: {reason}", f"sales.csv, record 4: {reason}"]


def test_a_forgotten_item_is_told(at):
    found = at(LINES, item=None)
    assert records(found) == []
    assert reasons(found)[0] == (
        "sales.csv, record 1: 2 records of series on 2024-03-30 that differ (5, 7); nobody knows which is right: "
        "expected one an item and day; data.source.params.item names the column of the item"
    )


def test_values_that_are_no_numbers_are_kept_out(at):
    found = at("date,shop,sold,price,kind\n2024-03-30,a,inf,1,t\n2024-03-30,b,1,-Infinity,t\n2024-03-30,c,many,1,t\n"
               "2024-03-30,d,1_000,1,t\n2024-03-30,e,True,1,t\n2024-03-30,,1,1,t\n2024-03-30,f,-3,1,t\n")  # fmt: skip
    assert [(record["group"], record["sold"]) for record in records(found)] == [("e", 1.0), ("f", -3.0)]
    expected = "expected a number with '.' as decimal sign (data.source.params.decimal)"
    assert reasons(found) == [
        "sales.csv, record 1: sold is infinite",
        "sales.csv, record 2: price is infinite",
        f"sales.csv, record 3: found the sold 'many'; {expected}",
        f"sales.csv, record 4: found the sold '1_000'; {expected}",
        "sales.csv, record 6: no shop, the item",
    ]


def test_a_negative_number_is_kept_out_by_cleaning(at):
    table, quarantined = at(LINES + "2024-03-30,west,-3,1.0,tea\n").read_day(DAY, TASK)
    assert not quarantined
    assert [item.reason for item in clean(table, TASK, {}).quarantined] == [
        "sold -3.0 out of range; expected at least 0"
    ]
    free = Forecasting(Forecasting.Params(target="sold", known=("price",), categories=("kind",), negative=True))
    assert not clean(table, free, {}).quarantined


def test_a_decimal_comma_has_to_be_said(at):
    assert reasons(at("date;shop;sold;price;kind\n2024-03-30;a;1,5;1;t\n")) == [
        "sales.csv, record 1: found the sold '1,5'; expected a number with '.' as decimal sign "
        "(data.source.params.decimal)"
    ]
    assert (
        "found the sold '1.234,5'" in reasons(at("date;shop;sold;price;kind\n2024-03-30;a;1.234,5;1;t", decimal=","))[0]
    )


def test_times_that_cannot_be_read_have_no_day(at):
    found = at(LINES + "soon,north,1,1,t\n,north,1,1,t\n2024-02-30,north,1,1,t\n0001-01-01T00:00+14:00,a,1,1,t\n")
    hint = "expected ISO 8601 such as 2024-03-31; data.source.params.time_format says another form"
    assert [f"{item.uri}: {item.reason}" for item in found.overlooked()] == [
        f"sales.csv, record 4: found the date 'soon'; {hint}",
        "sales.csv, record 5: no date, the time",
        f"sales.csv, record 6: found the date '2024-02-30'; {hint}",
        f"sales.csv, record 7: found the date '0001-01-01T00:00+14:00'; {hint}",
    ]
    assert len(records(found)) == 2


def test_no_time_at_all_is_an_error(at):
    assert refusal(at("date,shop,sold\n03/30/2024,a,1\n")).endswith(
        "sales.csv; the first: sales.csv, record 1: found the date '03/30/2024'; expected ISO 8601 such as 2024-03-31; "
        "data.source.params.time_format says another form"
    )


def test_a_line_with_other_values_is_overlooked(at):
    found = at(LINES + "2024-03-30,west,1\n2024-03-30,west,1,1.0,tea,more\n")
    assert [f"{item.uri}: {item.reason}" for item in found.overlooked()] == [
        "sales.csv, line 5: found 3 values; expected 5",
        "sales.csv, line 6: found 6 values; expected 5",
    ]
    assert len(records(found)) == 2


# what is wrong with files and columns


def test_a_missing_column_is_named_with_the_closest(at):
    found = at("date,shop,sales,prize,kind\n2024-03-30,a,1,1,t\n", "a.csv")
    assert refusal(found).endswith(
        "a.csv; expected sold, price, kind: no sold, no price; mend problem.task.params (is price called prize?)"
    )
    assert refusal(found).startswith("found the columns date, shop, sales, prize, kind in ")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"time": "dates"}, "expected dates, the time of a record; mend data.source.params.time (is it date?)"),
        ({"item": "store"}, "expected store, the item of a record; mend data.source.params.item"),
    ],
)
def test_a_missing_time_or_item_is_named(at, params, message):
    wanted = f"found the columns date, shop, sold, price, kind in sales.csv; {message}"
    assert refusal(at(LINES, **params)) == wanted


def test_a_column_that_disappears_is_missing_from_then_on(at, tmp_path):
    at(LINES, "years/2024.csv")
    at("date,shop,sold,kind\n2025-01-01,north,5,tea\n", "years/2025.csv")
    found = source(tmp_path / "years")
    assert records(found)[0]["price"] == 1.5
    table = found.read_day(date(2025, 1, 1), TASK)[0]
    assert table["price"].to_pylist() == [None]
    assert TASK.facts(table)["has_price"].tolist() == [0], "the expectation has_price counts it"


def test_a_target_does_not_disappear(at, tmp_path):
    at(LINES, "years/2024.csv")
    at("date,shop,price,kind\n2025-01-01,north,5,tea\n", "years/2025.csv")
    assert refusal(source(tmp_path / "years")) == (
        "found the columns date, shop, price, kind in 2025.csv; expected sold, the target, as in the other files; mend "
        "the file"
    )


def test_a_column_twice_is_an_error(at):
    message = refusal(at("date,shop,sold,sold\n2024-03-30,a,1,2\n"))
    assert message.startswith("found the column sold twice in ") and message.endswith("expected each once; rename one")


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"", "a.csv", "found nothing in {}: empty; expected a header and a line for each item and day"),
        (b"date,shop,sold\n", "a.csv", "found no record in {}; expected a header and a line for each item and day"),
        (b"\x89PNG\r\n\x1a\n\0\0", "a.csv", "found no readable CSV at {} ('utf-8' codec can't decode byte 0x89"),
        (b"PAR1\0\0nothing", "a.csv", "found no readable CSV at {} (a zero byte in its header); expected one with"),
        ("date,shop\n2024-03-30,köln\n".encode("latin-1"), "a.csv", "found no readable CSV at {} ("),
        (LINES.encode(), "a.parquet", "found no readable Parquet at {} (Parquet magic bytes not found in footer"),
    ],
)
def test_a_file_that_is_none_is_named(at, tmp_path, content, name, message):
    assert refusal(at(content, name)).startswith(message.format(tmp_path / name))


def test_an_empty_file_beside_others_is_overlooked(at, tmp_path):
    at(LINES, "all/a.csv")
    at("", "all/b.csv")
    found = source(tmp_path / "all")
    assert [f"{item.uri}: {item.reason}" for item in found.overlooked()] == ["b.csv: an empty file"]
    assert found.days()[0] == DAY


def test_nothing_there_says_what_lies_there(at, tmp_path):
    at("x", "docs/readme.md")
    assert refusal(source(tmp_path / "docs")) == (
        f"found no CSV or Parquet file at {tmp_path / 'docs'} (1 others, the first: readme.md); expected a file, a "
        "folder or a glob; mend data.source.params.path, or run from the folder that it is relative to"
    )
    for name in ("nothing", "nothing/*.csv", "docs/*.csv"):
        assert refusal(source(tmp_path / name)).startswith(f"found no CSV or Parquet file at {tmp_path / name}; ")


def test_nested_values_are_refused(tmp_path):
    pyarrow.parquet.write_table(pa.table({"date": [DAY], "sold": [[1, 2]]}), tmp_path / "a.parquet")
    assert refusal(source(tmp_path / "a.parquet", item=None), ONE).startswith(
        "found the type list<element: int64> of sold in "
    )


def test_another_task_is_refused(at, digits_task):
    assert refusal(at(LINES), digits_task) == (
        "found the task image_classification, of the kind image; expected forecasting for series_files; change "
        "problem.task or data.source"
    )


def test_nothing_is_held_back(at):
    with pytest.raises(SourceError, match="found no held-back records in the source series_files; expected one that"):
        at(LINES).live_rows(0, 1, TASK)


def test_a_time_zone_is_known():
    with pytest.raises(ValueError, match="an IANA time zone such as UTC or Europe/Berlin"):
        source(Path(os.devnull), timezone="Berlin")
