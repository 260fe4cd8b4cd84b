import pytest

from dl_pipelines.evaluation.wording import percent
from dl_pipelines.report.cells import Found, interval, made, not_measured

SOURCE = {"stage": "evaluation", "digest": "0" * 64, "field": "metrics.json#/x"}


def test_an_interval_is_not_torn_by_a_line_break():
    assert interval({"low": 0.9808, "high": 1.0}, percent) == "[98.08,\N{NO-BREAK SPACE}100]"


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
