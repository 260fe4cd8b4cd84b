import pytest

from dl_pipelines.evaluation.wording import number, percent, plural
from dl_pipelines.report.cells import Found, interval, made, not_measured

SOURCE = {"stage": "evaluation", "digest": "0" * 64, "field": "metrics.json#/x"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (65834, "65,834"), (0.265952, "0.266"), (0.0270025, "0.027"), (4666.31, "4,666"), (3.0, "3"), (0, "0"),
        (0.00001834, "0.0000183"), (1.29531, "1.295"), (-0.5, "-0.5"), ("adamw", "adamw"),
    ],
)  # fmt: skip
def test_numbers_are_short_and_have_no_exponent(value, text):
    assert number(value) == text


def test_shares_are_told_in_percent():
    assert [percent(value) for value in (0.99359, 1.0, 0.1, 0.0005)] == ["99.36", "100", "10", "0.05"]
    assert interval({"low": 0.9808, "high": 1.0}, percent) == "[98.08,\N{NO-BREAK SPACE}100]"
    assert (plural(1, "day"), plural(1017, "day")) == ("1 day", "1,017 days")


@pytest.mark.parametrize(
    ("op", "values", "result"),
    [
        ("sum", [1, 2, 4], 7), ("ratio", [[3, 5], [4, 12]], 0.5),
        ("sum", [[1, 2], 4], 7), ("rest", [1, 4], 0.75), ("share", [2, 6], 0.25),
        ("count", [[1, 2, 3]], 3), ("megabytes", [77468], 0.077468),
    ],
)  # fmt: skip
def test_a_figure_made_of_several_cites_them_all(op, values, result):
    found = made(op, [Found(value, {**SOURCE, "field": f"f#/{place}"}) for place, value in enumerate(values)])
    assert found.value == result
    assert [item["field"] for item in found.source["of"]] == [f"f#/{place}" for place in range(len(values))]


def test_a_cell_is_four_keys_in_json():
    cell = Found(0.5, SOURCE).cell("share", percent, "of all")
    assert cell.plain() == {"value": 0.5, "unit": "share", "source": SOURCE, "reason": None}
    assert not_measured("no search was run").plain() == {
        "value": None, "unit": "", "source": None, "reason": "not measured: no search was run",
    }  # fmt: skip
