"""Days judged together have the results that Great Expectations itself gives each of them alone."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from dl_pipelines.data.expecting import validate_days
from dl_pipelines.tasks.base import BETWEEN, IN_SET, NOT_NULL, Expectation

SUITE = [
    Expectation("enough", "ExpectColumnSumToBeBetween", {"column": "kept", "min_value": 3}, "at least 3"),
    Expectation("present", NOT_NULL, {"column": "id", "mostly": 0.75}, "an id"),
    Expectation("unique", "ExpectColumnValuesToBeUnique", {"column": "id", "mostly": 0.6}, "no id twice"),
    Expectation("range", BETWEEN, {"column": "value", "min_value": 0, "max_value": 9, "mostly": 0.8}, "0 to 9"),
    Expectation("known", IN_SET, {"column": "mode", "value_set": ["L"]}, "a known mode", blocking=False),
]


def day(ids, values, kept=None, modes=None) -> pd.DataFrame:
    return pd.DataFrame({"id": ids, "value": values, "kept": kept or [1] * len(ids), "mode": modes or ["L"] * len(ids)})


DAYS = {
    "2026-01-01": day(["a", "b", "c", "d"], [1, 2, 3, 4]),
    "2026-01-02": day(["a", "b", "c", "d"], [1.5, None, 12.0, 4.0], [1, 0, 0, 1], ["L", "RGB", None, "L"]),
    "2026-01-03": day(["a", "a", None, "d", "e"], [-1, -2, 3, 4, 5]),
    "2026-01-04": day(["a", "a", "b", "b"], [None] * 4, [0] * 4, ["CMYK"] * 4),
    "2026-01-05": day([None, None, "c"], [10, 9, 0], [1, 1, 1]),
}


def alone(frame: pd.DataFrame) -> dict[str, tuple[bool, str]]:
    """What Great Expectations says of one day by itself, from its own summary."""
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_pandas("p").add_dataframe_asset("a")
    batch = source.add_batch_definition_whole_dataframe("b").get_batch({"dataframe": frame})
    rules = [getattr(gx.expectations, item.kind)(**item.arguments, meta={"name": item.name}) for item in SUITE]
    found = {}
    for checked in batch.validate(gx.ExpectationSuite("s", expectations=rules), result_format="SUMMARY").results:
        result = checked.result
        if "observed_value" in result:
            told = str(result["observed_value"])
        else:
            examples = ", ".join(str(item) for item in result["partial_unexpected_list"][:3])
            told = f"{result['unexpected_count']} of {result['element_count']} otherwise"
            told += f" ({examples})" if examples else ""
        found[checked.expectation_config.meta["name"]] = (bool(checked.success), told)
    return found


@pytest.fixture(scope="module")
def docs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("docs")


@pytest.fixture(scope="module")
def together(docs) -> dict[str, list[dict]]:
    return validate_days(DAYS, SUITE, docs, "all")


@pytest.mark.parametrize("name", ["2026-01-02", "2026-01-03", "2026-01-04", "2026-01-05"])
def test_a_day_is_judged_as_great_expectations_judges_it_alone(together, name):
    found = {item["name"]: (item["success"], item["observed"]) for item in together[name]}
    assert found == alone(DAYS[name])
    assert len({success for success, _ in found.values()}) == 2, "some fail and some don't"


def test_the_same_whichever_days_are_beside_it(together, docs):
    assert all(item["success"] for item in together["2026-01-01"]), "ids of other days are no repetition"
    assert validate_days({"2026-01-03": DAYS["2026-01-03"]}, SUITE, docs, "one") == {
        "2026-01-03": together["2026-01-03"]
    }


def test_a_result_is_plain_and_in_the_order_of_the_suite(together):
    assert [item["name"] for item in together["2026-01-02"]] == [item.name for item in SUITE]
    assert together["2026-01-02"][4] == {
        "name": "known", "expectation": IN_SET, "sentence": "a known mode", "column": "mode",
        "kwargs": {"column": "mode", "value_set": ["L"]}, "success": False, "blocking": False,
        "observed": "1 of 4 otherwise (RGB)",
    }  # fmt: skip


def test_a_day_without_a_record_that_could_be_judged(docs):
    found = validate_days({"empty": DAYS["2026-01-01"].iloc[:0], "full": DAYS["2026-01-01"]}, SUITE, docs, "empty")
    assert [(item["success"], item["observed"]) for item in found["empty"]] == [
        (False, "0"), *[(True, "0 of 0 otherwise")] * 4,
    ]  # fmt: skip
    assert all(item["success"] for item in found["full"])
