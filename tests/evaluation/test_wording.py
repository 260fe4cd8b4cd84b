import pytest

from dl_pipelines.evaluation.wording import in_unit, number, percent, plural


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
    assert (plural(1, "day"), plural(1017, "day")) == ("1 day", "1,017 days")


def test_a_value_has_its_unit_and_a_share_is_in_percent():
    assert [in_unit(0.0391, "share"), in_unit(12.5, "units"), in_unit(0.7, "")] == ["3.91%", "12.5 units", "0.7"]
