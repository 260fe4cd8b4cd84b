import pytest

from dl_pipelines.compression.budget import budget_told


def row(variant, high, *, step=1, chosen=False, slices=None, runtime="openvino"):
    loss = None if high is None else {"value": high - 0.002, "low": high - 0.004, "high": high}
    slices = {name: {"value": end - 0.01, "low": end - 0.02, "high": end} for name, end in (slices or {}).items()}
    return {"variant": variant, "runtime": runtime, "step": step, "chosen": chosen, "loss": loss, "slices": slices}


BASELINE = {**row("fp32", 0.002, step=0), "loss": {"value": 0.0, "low": 0.0, "high": 0.0}}


def test_what_serves_is_within_the_budget():
    passed, summary, facts = budget_told([BASELINE, row("int8", 0.004, chosen=True)], 0.005, "accuracy", 200)
    assert passed
    assert summary == "int8 on openvino loses 0.002 [0, 0.004] accuracy; the budget is 0.005 (200 validation rows)"
    assert facts == {"budget": 0.005, "value": pytest.approx(0.002), "low": 0, "high": 0.004, "rows": 200}


def test_a_budget_that_nothing_meets_says_by_how_much():
    rows = [{**BASELINE, "chosen": True}, row("int8", 0.03), row("pruned", 0.001, slices={"class:7": 0.022})]
    passed, summary, facts = budget_told(rows, 0.005, "accuracy", 200)
    assert not passed
    assert summary == (
        "none of the 2 that were tried meets the budget of 0.005: pruned on openvino comes closest and loses 0.012 "
        "[0.002, 0.022] accuracy on class:7; fp32 on openvino serves (200 validation rows)"
    )
    assert facts["nearest"] == {
        "variant": "pruned", "runtime": "openvino", "value": pytest.approx(0.012), "low": pytest.approx(0.002),
        "high": 0.022,
    }  # fmt: skip
    assert facts["high"] == 0


def test_one_that_meets_it_but_is_no_better_is_enough():
    rows = [{**BASELINE, "chosen": True}, row("int8", 0.03), row("pruned", 0.004)]
    passed, summary, facts = budget_told(rows, 0.005, "accuracy", 200)
    assert passed and "nearest" not in facts
    assert summary == "fp32 on openvino loses 0 [0, 0] accuracy; the budget is 0.005 (200 validation rows)"


def test_without_anything_tried_the_baseline_is_within():
    assert budget_told([{**BASELINE, "chosen": True}, row("int8", None)], 0.005, "accuracy", 200)[0]


def test_a_runtime_that_loses_breaks_it_too():
    passed, summary, _ = budget_told([row("fp32", 0.01, step=0, chosen=True)], 0.005, "accuracy", 200)
    assert not passed
    assert summary == "fp32 on openvino loses 0.008 [0.006, 0.01] accuracy; the budget is 0.005 (200 validation rows)"


def test_a_loss_that_was_not_measured_is_not_within():
    passed, summary, facts = budget_told([row("fp32", None, step=0, chosen=True)], 0.005, "auc", 200)
    assert (passed, facts) == (False, {"budget": 0.005, "rows": 200})
    assert summary == "the loss of auc could not be measured on the validation rows (200 validation rows)"


@pytest.mark.parametrize("high", [0.0, 0.03])
def test_with_too_few_rows_it_is_undecided(high):
    """Where none of five rows changes, the interval is [0, 0] whatever the model is worth."""
    rows = [{**BASELINE, "chosen": True}, row("int8", high)]
    passed, summary, facts = budget_told(rows, 0.005, "accuracy", 5)
    assert passed is None
    assert summary.startswith("only 5 validation rows, 100 are needed to decide; ")
    assert facts["rows"] == 5
    assert budget_told(rows, 0.005, "accuracy", 99)[0] is None
    assert budget_told(rows, 0.005, "accuracy", 100)[0] is (high == 0)
