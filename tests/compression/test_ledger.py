import json
import random
from dataclasses import replace

import pytest

from dl_pipelines.compression.ledger import Trial, as_markdown, as_rows, decide


def estimate(value, spread=0.0):
    return {"value": value, "low": value - spread, "high": value + spread}


def trial(variant, runtime="onnxruntime", p50=1.0, size=1.0, loss=0.0, loss_spread=0.0, speed_spread=0.01, **changes):
    made = Trial(
        variant,
        "none" if variant == "fp32" else "static_int8",
        runtime,
        "fp32" if variant == "fp32" else "int8",
        size_mb=size,
        latency={"p50_ms": p50, "low": p50 * 0.99, "high": p50 * 1.01},
        speed_up=estimate(1 / p50, speed_spread),
        loss=estimate(loss, loss_spread),
        metrics={"accuracy": estimate(0.97, 0.01)},
        parity_passed=True,
        parity="200 rows: fine",
    )
    return replace(made, **changes)


BASELINE = trial("fp32", speed_spread=0)


def judge(*others, objective="latency", max_loss=0.005):
    return decide([BASELINE, *others], objective, max_loss, "accuracy")


def chosen(judged):
    (found,) = [item for item in judged if item.chosen]
    return found


def test_the_fastest_within_the_budget_serves():
    judged = judge(trial("a", p50=0.8), trial("b", p50=0.5), trial("c", p50=0.7))
    assert chosen(judged).trial.variant == "b"
    assert [item.kept for item in judged] == [True, True, True, True]
    assert judged[2].reason == "2 [1.99, 2.01] times the speed of fp32 on onnxruntime; the fastest within the budget"
    assert judged[1].reason == "1.25 [1.24, 1.26] times the speed of fp32 on onnxruntime; b on onnxruntime is faster"
    assert judged[0].reason == "the baseline; b on onnxruntime is faster"


def test_nothing_better_keeps_the_baseline():
    judged = judge(trial("slow", p50=1.3, speed_spread=0.1), trial("same", p50=0.98, speed_spread=0.05))
    assert chosen(judged).trial is BASELINE
    assert judged[0].reason == "the baseline; the fastest within the budget"
    assert [item.kept for item in judged] == [True, False, False]
    assert judged[1].reason == "slower: 0.769 [0.669, 0.869] times the speed of fp32 on onnxruntime"
    assert (
        judged[2].reason == "not faster beyond its interval: 1.02 [0.97, 1.07] times the speed of fp32 on onnxruntime"
    )


@pytest.mark.parametrize(
    ("loss", "spread", "reason"),
    [
        (0.02, 0.005, "loses 0.02 [0.015, 0.025] accuracy; the budget is 0.005"),
        (0.006, 0.004, "loses 0.006 [0.002, 0.01] accuracy; the budget is 0.005"),
        (0.002, 0.004, "loses 0.002 [-0.002, 0.006] accuracy; its interval reaches beyond the budget of 0.005"),
    ],
)
def test_a_loss_that_is_not_shown_to_stay_in_the_budget_is_refused(loss, spread, reason):
    judged = judge(trial("int8", p50=0.2, loss=loss, loss_spread=spread))
    assert chosen(judged).trial is BASELINE
    assert judged[1].reason == reason
    assert not judged[1].kept


def test_a_loss_on_the_edge_of_the_budget_is_kept():
    assert chosen(judge(trial("int8", p50=0.5, loss=0.003, loss_spread=0.002))).trial.variant == "int8"


def test_a_gain_is_no_loss():
    assert chosen(judge(trial("int8", p50=0.5, loss=-0.03, loss_spread=0.01), max_loss=0)).trial.variant == "int8"


def test_parity_comes_before_speed_and_budget():
    judged = judge(trial("int8", p50=0.1, loss=0.5, parity_passed=False, parity="agreement 80.00%"))
    assert judged[1].reason == "parity failed: agreement 80.00%"
    assert not judge(trial("int8", p50=0.1, parity_passed=None))[1].kept


def test_what_could_not_be_made_is_in_the_ledger_with_its_reason():
    failed = Trial("int8", "static_int8", "openvino", "int8", failure="found no operator that int8 covers")
    judged = judge(failed)
    assert judged[1].reason == "could not be made: found no operator that int8 covers"
    row = as_rows(judged)[1]
    assert row["latency_p50_ms"] is row["size_mb"] is row["loss"] is row["speed_up"] is None
    assert "| int8 | openvino | not measured | not measured |" in as_markdown(as_rows(judged), "accuracy")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"loss": None}, "the loss of accuracy could not be measured on the validation rows; the budget is 0.005"),
        ({"speed_up": None}, "its latency could not be measured"),
    ],
)
def test_what_was_not_measured_does_not_serve(changes, reason):
    judged = judge(replace(trial("int8", p50=0.1), **changes))
    assert (judged[1].kept, judged[1].reason) == (False, reason)


def test_of_two_that_time_cant_tell_apart_the_one_that_loses_less_serves():
    judged = judge(trial("full", p50=0.5, loss=0.004), trial("reduced", p50=0.504, loss=0.001))
    assert chosen(judged).trial.variant == "reduced"
    assert judged[1].reason.endswith("; reduced on onnxruntime is as fast and loses no more")
    assert chosen(judge(trial("full", p50=0.5, loss=0.004), trial("reduced", p50=0.6))).trial.variant == "full"


def test_for_size_the_smallest_serves_however_slow():
    judged = judge(trial("a", size=0.5, p50=3), trial("b", size=0.3, p50=2), trial("c", size=1.2), objective="size")
    assert chosen(judged).trial.variant == "b"
    assert judged[2].reason == "0.300 MB against 1.000 MB of fp32 on onnxruntime; the smallest within the budget"
    assert judged[1].reason == "0.500 MB against 1.000 MB of fp32 on onnxruntime; b on onnxruntime is smaller"
    assert judged[3].reason == "not smaller: 1.200 MB against 1.000 MB of fp32 on onnxruntime"
    assert judged[0].reason == "the baseline; b on onnxruntime is smaller"


def test_equal_sizes_go_to_the_faster():
    judged = judge(trial("a", size=0.5, p50=3), trial("b", size=0.5, p50=2), objective="size")
    assert chosen(judged).trial.variant == "b"


@pytest.mark.parametrize(
    ("trials", "found"),
    [
        ([], "none"),
        ([Trial("fp32", "none", "openvino", "fp32", failure="cut file")], "cut file"),
        ([replace(BASELINE, latency=None)], "one that was not measured"),
    ],
)
def test_there_is_always_a_baseline(trials, found):
    with pytest.raises(ValueError, match=rf"found no usable baseline \({found}\)"):
        decide(trials, "latency", 0.005, "accuracy")


def test_any_ledger_has_one_that_serves_and_it_keeps_the_rules():
    rng = random.Random(0)
    for _ in range(500):
        others = [
            trial(
                f"v{place}",
                p50=rng.uniform(0.5, 1.5),
                size=rng.uniform(0.2, 1.5),
                loss=rng.uniform(-0.01, 0.01),
                loss_spread=rng.uniform(0, 0.004),
                speed_spread=rng.uniform(0, 0.2),
                parity_passed=rng.random() > 0.2,
            )
            for place in range(rng.randrange(6))
        ]
        judged = judge(*others)
        best = chosen(judged)
        assert best.kept
        assert [item.trial for item in judged] == [BASELINE, *others]
        for item in judged[1:]:
            fine = item.trial.parity_passed and item.trial.loss["high"] <= 0.005 and item.trial.speed_up["low"] > 1
            assert item.kept == bool(fine)
        fastest = min((item.trial.latency["p50_ms"] for item in judged if item.kept), default=1)
        assert best.trial.latency["low"] <= fastest * 1.01


def test_the_ledger_is_plain_data():
    rows = as_rows(judge(trial("a", p50=0.8)))
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert set(rows[0]) == {
        *("variant", "technique", "runtime", "precision", "size_mb", "latency_p50_ms", "latency_low", "latency_high"),
        *("speed_up", "metrics", "loss", "parity", "kept", "chosen", "reason"),
    }


def test_the_table_is_readable():
    table = as_markdown(as_rows(judge(trial("a", p50=0.8))), "accuracy").splitlines()
    assert table[0] == "| Variant | Runtime | Size (MB) | Latency p50 (ms) | Speed-up | accuracy | Loss | Verdict |"
    latency, numbers = "0.8000 [0.7920, 0.8080]", "1.25 [1.24, 1.26] | 0.97 [0.96, 0.98] | 0 [0, 0]"
    assert table[3].startswith(f"| a | onnxruntime | 1.000 | {latency} | {numbers} | **serves**: ")
    assert len({line.count("|") for line in table}) == 1
