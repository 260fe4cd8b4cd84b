import json
import random
from dataclasses import replace

import pytest

from dl_pipelines.compression.ledger import Rules, Trial, as_markdown, as_rows, decide


def estimate(value, spread=0.0):
    return {"value": value, "low": value - spread, "high": value + spread}


def target(met, name="accuracy >= 0.95 (compressed)", value=0.9):
    return {"name": name, "value": value, "met": met}


def trial(
    variant, runtime="onnxruntime", p50=1.0, size=1.0, loss=0.0, loss_spread=0.0, speed_spread=0.01, joules=1.0,
    **changes,
):  # fmt: skip
    made = Trial(
        variant,
        "none" if variant == "fp32" else "static_int8",
        runtime,
        "fp32" if variant == "fp32" else "int8",
        size_mb=size,
        latency={"p50_ms": p50, "low": p50 * 0.99, "high": p50 * 1.01},
        speed_up=estimate(1 / p50, speed_spread),
        gain=estimate(2 / p50, speed_spread),
        energy={"value": joules, "low": joules * 0.99, "high": joules * 1.01},
        saving=estimate(1 / joules, speed_spread),
        loss=estimate(loss, loss_spread),
        metrics={"accuracy": estimate(0.97, 0.01)},
        parity_passed=True,
        parity="200 rows: fine",
    )
    return replace(made, **changes)


STRONGEST = trial("fp32", speed_spread=0)


def judge(*trials, objective="latency", max_loss=0.005, strongest=STRONGEST):
    return decide(trials, strongest, Rules(objective, max_loss, "accuracy"))


def taken(judged):
    found = [item.trial.variant for item in judged if item.taken]
    assert len(found) <= 1
    return found[0] if found else None


def reason(made, **given):
    (judged,) = judge(made, **given)
    assert not judged.kept and not judged.taken
    return judged.reason


def test_the_fastest_within_the_budget_is_taken():
    judged = judge(trial("a", p50=0.8), trial("b", p50=0.5), trial("c", p50=0.7))
    assert [(item.kept, item.taken) for item in judged] == [(True, False), (True, True), (True, False)]
    assert judged[1].reason == (
        "2 [1.99, 2.01] times the speed of fp32 on onnxruntime; the fastest of its step within the budget"
    )
    assert judged[0].reason == "1.25 [1.24, 1.26] times the speed of fp32 on onnxruntime; b on onnxruntime is better"


def test_what_is_not_faster_is_refused():
    assert reason(trial("slow", p50=1.3, speed_spread=0.1)) == (
        "worse: 0.769 [0.669, 0.869] times the speed of fp32 on onnxruntime"
    )
    assert reason(trial("same", p50=0.98, speed_spread=0.05)) == (
        "not faster beyond its interval: 1.02 [0.97, 1.07] times the speed of fp32 on onnxruntime"
    )


def test_what_is_compared_is_the_strongest_so_far_not_the_first():
    strongest = trial("static_int8", "openvino", p50=0.2)
    made = trial("pruned_40", p50=0.3, speed_up=estimate(0.66, 0.01))
    assert reason(made, strongest=strongest) == "worse: 0.66 [0.65, 0.67] times the speed of static_int8 on openvino"


@pytest.mark.parametrize(
    ("loss", "spread", "told"),
    [
        (0.02, 0.005, "loses 0.02 [0.015, 0.025] accuracy; the budget is 0.005"),
        (0.006, 0.004, "loses 0.006 [0.002, 0.01] accuracy; the budget is 0.005"),
        (0.002, 0.004, "loses 0.002 [-0.002, 0.006] accuracy; its interval reaches beyond the budget of 0.005"),
    ],
)
def test_a_loss_that_is_not_shown_to_stay_in_the_budget_is_refused(loss, spread, told):
    assert reason(trial("int8", p50=0.2, loss=loss, loss_spread=spread)) == told


def test_a_slice_that_loses_more_is_named():
    made = trial("int8", p50=0.2, slices={"class:3": estimate(0.001), "class:7": estimate(0.02, 0.01)})
    assert reason(made) == "loses 0.02 [0.01, 0.03] accuracy on class:7; the budget is 0.005"


def test_a_loss_on_the_edge_of_the_budget_is_taken():
    edge = trial("int8", p50=0.5, loss=0.003, loss_spread=0.002, slices={"class:7": estimate(0.005)})
    assert taken(judge(edge)) == "int8"


def test_a_gain_is_no_loss():
    assert taken(judge(trial("int8", p50=0.5, loss=-0.03, loss_spread=0.01), max_loss=0)) == "int8"


def test_a_target_that_the_strongest_meets_may_not_be_missed():
    strongest = replace(STRONGEST, targets=(target(True, value=0.96),))
    made = trial("int8", p50=0.5, targets=(target(False, value=0.9412),))
    assert reason(made, strongest=strongest) == "misses accuracy >= 0.95 (compressed): 0.9412"
    assert taken(judge(replace(made, targets=(target(True),)), strongest=strongest)) == "int8"


def test_a_target_that_nothing_meets_holds_nothing_back():
    strongest = replace(STRONGEST, targets=(target(False),))
    made = trial("int8", p50=0.5, targets=(target(False),))
    assert taken(judge(made, strongest=strongest)) == "int8"
    also = replace(made, targets=(target(False), target(False, "size_mb <= 1 (compressed)", 1.3)))
    strongest = replace(strongest, targets=(target(False), target(True, "size_mb <= 1 (compressed)", 0.8)))
    assert reason(also, strongest=strongest) == "misses size_mb <= 1 (compressed): 1.3"


def test_parity_comes_before_speed_and_budget():
    made = trial("int8", p50=0.1, loss=0.5, parity_passed=False, parity="agreement 80.00%")
    assert reason(made) == "parity failed: agreement 80.00%"
    assert not judge(trial("int8", p50=0.1, parity_passed=None))[0].kept


def test_what_could_not_be_made_is_in_the_ledger_with_its_reason():
    failed = Trial("int8", "static_int8", "openvino", "int8", failure="found no operator that int8 covers")
    assert reason(failed) == "could not be made: found no operator that int8 covers"
    rows = as_rows(judge(failed), 2, "quantize", "fp32 on onnxruntime")
    for name in ("latency_p50_ms", "size_mb", "loss", "speed_up", "gain", "energy_j", "saving"):
        assert rows[0][name] is None
    assert "| int8 | openvino | not measured | not measured |" in as_markdown(rows, "accuracy")


@pytest.mark.parametrize(
    ("changes", "objective", "told"),
    [
        ({"loss": None}, "latency", "the loss of accuracy could not be measured on the validation rows; the budget is "
                                    "0.005"),
        ({"speed_up": None}, "latency", "its latency could not be measured"),
        ({"saving": None}, "energy", "its energy could not be measured"),
        ({"size_mb": None}, "size", "its size could not be measured"),
    ],
)  # fmt: skip
def test_what_was_not_measured_is_not_taken(changes, objective, told):
    assert reason(replace(trial("int8", p50=0.1, size=0.1, joules=0.1), **changes), objective=objective) == told


def test_of_two_that_time_cant_tell_apart_the_one_that_loses_less_is_taken():
    judged = judge(trial("full", p50=0.5, loss=0.004), trial("reduced", p50=0.504, loss=0.001))
    assert taken(judged) == "reduced"
    assert judged[0].reason.endswith("; reduced on onnxruntime is as good and loses no more")
    assert taken(judge(trial("full", p50=0.5, loss=0.004), trial("reduced", p50=0.6))) == "full"


def test_for_size_the_smallest_is_taken_however_slow():
    judged = judge(trial("a", size=0.5, p50=3), trial("b", size=0.3, p50=2), trial("c", size=1.2), objective="size")
    assert [item.kept for item in judged] == [True, True, False]
    assert judged[1].reason == (
        "0.300 MB against 1.000 MB of fp32 on onnxruntime; the smallest of its step within the budget"
    )
    assert judged[0].reason == "0.500 MB against 1.000 MB of fp32 on onnxruntime; b on onnxruntime is better"
    assert judged[2].reason == "not smaller: 1.200 MB against 1.000 MB of fp32 on onnxruntime"


def test_equal_sizes_go_to_the_faster():
    assert taken(judge(trial("a", size=0.5, p50=3), trial("b", size=0.5, p50=2), objective="size")) == "b"


def test_for_energy_the_thriftiest_is_taken():
    judged = judge(trial("a", p50=0.1, joules=0.8), trial("b", p50=3, joules=0.4), objective="energy")
    assert taken(judged) == "b"
    assert judged[1].reason == (
        "2.5 [2.49, 2.51] times as thrifty as fp32 on onnxruntime; the thriftiest of its step within the budget"
    )
    assert reason(trial("c", joules=2), objective="energy") == (
        "worse: 0.5 [0.49, 0.51] times as thrifty as fp32 on onnxruntime"
    )
    assert reason(trial("d", joules=0.99, speed_spread=0.1), objective="energy") == (
        "not thriftier beyond its interval: 1.01 [0.91, 1.11] times as thrifty as fp32 on onnxruntime"
    )


def random_trial(rng, name):
    return trial(
        name,
        p50=rng.choice([0.5, 0.502, rng.uniform(0.4, 1.4)]),
        size=rng.choice([0.5, rng.uniform(0.2, 1.5)]),
        joules=rng.uniform(0.4, 1.4),
        loss=rng.choice([0.0, rng.uniform(-0.01, 0.01)]),
        loss_spread=rng.uniform(0, 0.004),
        speed_spread=rng.uniform(0, 0.2),
        slices={f"class:{place}": estimate(rng.uniform(-0.02, 0.006)) for place in range(rng.randrange(3))},
        targets=tuple(target(rng.random() > 0.3, name) for name in ("first", "second") if rng.random() > 0.3),
        parity_passed=rng.random() > 0.1,
        failure="no such operator" if rng.random() < 0.1 else None,
    )


FIGURE = {
    "latency": lambda item: item.latency["p50_ms"],
    "size": lambda item: item.size_mb,
    "energy": lambda item: item.energy["value"],
}
RANGE = {"latency": lambda item: item.latency, "energy": lambda item: item.energy}


@pytest.mark.parametrize("objective", ["latency", "size", "energy"])
def test_any_step_keeps_the_rules_and_takes_the_best_of_those_kept(objective):
    rng, counts = random.Random(objective), {"kept": 0, "refused": 0, "taken": 0}
    for _ in range(3000):
        strongest = replace(STRONGEST, targets=tuple(target(rng.random() > 0.4, name) for name in ("first", "second")))
        trials = [random_trial(rng, f"v{place}") for place in range(rng.randrange(6))]
        judged = judge(*trials, objective=objective, strongest=strongest)
        assert [item.trial for item in judged] == trials
        met = {item["name"] for item in strongest.targets if item["met"]}
        for item in judged:
            made = item.trial
            better = {
                "latency": made.speed_up["low"] > 1,
                "size": made.size_mb < strongest.size_mb,
                "energy": made.saving["low"] > 1,
            }[objective]
            allowed = (
                made.failure is None
                and made.parity_passed
                and all(loss["high"] <= 0.005 for loss in (made.loss, *made.slices.values()))
                and not any(found["name"] in met and not found["met"] for found in made.targets)
                and better
            )
            assert item.kept == allowed
            assert item.reason
            counts["kept" if item.kept else "refused"] += 1
        kept = [item.trial for item in judged if item.kept]
        (best,) = [item.trial for item in judged if item.taken] or [None]
        assert (best in kept) if kept else best is None
        if best is None:
            continue
        counts["taken"] += 1
        lead = min(FIGURE[objective](made) for made in kept)
        if objective == "size":
            assert best.size_mb == lead
            continue
        first = next(made for made in kept if FIGURE[objective](made) == lead)
        own, others = RANGE[objective](best), RANGE[objective](first)
        assert own["low"] <= others["high"] and others["low"] <= own["high"]
        alike = [
            made
            for made in kept
            if RANGE[objective](made)["low"] <= others["high"] and others["low"] <= RANGE[objective](made)["high"]
        ]
        assert best.loss["value"] == min(made.loss["value"] for made in alike)
    assert min(counts.values()) > 300


def test_an_empty_step_takes_nothing():
    assert judge() == []


def test_the_ledger_is_plain_data():
    rows = as_rows(judge(trial("a", p50=0.8, details={"share": 0.4}, targets=(target(True),))), 3, "prune", "b on c")
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    (row,) = rows
    assert row["parity_passed"] is True
    assert (row["step"], row["phase"], row["against"], row["details"]) == (3, "prune", "b on c", {"share": 0.4})
    assert (row["kept"], row["taken"], row["chosen"]) == (True, True, False)
    assert set(row) == {
        *("step", "phase", "technique", "variant", "runtime", "precision", "network", "against"),
        *("size_mb", "latency_p50_ms", "latency_low", "latency_high", "speed_up", "gain", "energy_j", "saving"),
        *(
            "metrics",
            "loss",
            "slices",
            "targets",
            "parity",
            "parity_passed",
            "details",
            "kept",
            "taken",
            "chosen",
            "reason",
        ),
    }


def test_the_table_is_readable():
    rows = as_rows(judge(trial("a", p50=0.8), trial("b|c", p50=2)), 1, "quantize", "fp32 on onnxruntime")
    rows[0]["chosen"] = True
    table = as_markdown(rows, "accuracy").splitlines()
    assert table[0] == (
        "| Step | Variant | Runtime | Size (MB) | Latency p50 (ms) | Times faster | accuracy | Loss | Verdict |"
    )
    latency, numbers = "0.8000 [0.7920, 0.8080]", "2.5 [2.49, 2.51] | 0.97 [0.96, 0.98] | 0 [0, 0]"
    assert table[2].startswith(f"| 1 quantize | a | onnxruntime | 1.000 | {latency} | {numbers} | **serves**: ")
    assert "| b/c |" in table[3] and "| rejected: worse: " in table[3]
    assert len({line.count("|") for line in table}) == 1
