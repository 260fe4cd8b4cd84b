from dataclasses import replace

import pytest

from dl_pipelines.report.facts import Document, Facts
from dl_pipelines.report.render import headline
from dl_pipelines.report.verdict import BLOCKED, MET, MISSED, judge
from dl_pipelines.tasks.classification import METRICS


def row(variant, size, latency, accuracy, chosen=False, reason="slower", **changed):
    return {
        "variant": variant, "runtime": "onnxruntime", "technique": "none", "size_mb": size, "latency_p50_ms": latency,
        "latency_low": latency, "latency_high": latency, "metrics": {"accuracy": {"value": accuracy}},
        "gain": {"value": 0.4 / latency, "low": 0.3 / latency, "high": 0.5 / latency}, "targets": [],
        "chosen": chosen, "kept": chosen, "taken": chosen, "reason": reason, **changed,
    }  # fmt: skip


LEDGER = [row("fp32", 2.0, 0.4, 0.99, reason="int8 is faster"), row("int8", 0.5, 0.1, 0.96, chosen=True)]


def outcome(measured=None, gates=()):
    return {"measured": measured or {}, "gates": list(gates), "seconds": 1.0}


def facts(*targets, gates=(), latency=None, slices=(), ledger=LEDGER):
    documents = {
        "trained_model": {"weights.safetensors": {"size": 3_000_000}, "outcome.json": outcome()},
        "evaluation": {
            "metrics.json": {"test": {"accuracy": {"value": 0.97, "low": 0.95, "high": 0.99}}},
            "slices.json": list(slices),
            "outcome.json": outcome(gates=gates),
        },
        "compressed_model": {"choice.json": {"size_bytes": 500_000}, "outcome.json": outcome({"ledger": list(ledger)})},
        "triton_repository": {
            "outcome.json": outcome({
                "latency": latency or {"p50_ms": 1.0, "p95_ms": 25.0, "p99_ms": 40.0, "throughput_rps": 800.0},
                "metrics": {"test": {"accuracy": {"value": 0.94, "low": 0.92, "high": 0.96}}},
            })
        },
    }  # fmt: skip
    return Facts(
        "2026-01-01|base", {"problem": {"targets": list(targets)}},
        {stage: Document(stage, "d" * 64, files) for stage, files in documents.items()}, {}, {}, METRICS, "accuracy",
    )  # fmt: skip


def target(metric, op, value, where="served", part=None):
    return {"metric": metric, "op": op, "value": value, "where": where, "slice": part}


@pytest.mark.parametrize(
    ("wanted", "measured", "field"),
    [
        (target("accuracy", ">=", 0.97, "trained"), 0.97, "metrics.json#/test/accuracy/value"),
        (target("accuracy", ">=", 0.9), 0.94, "outcome.json#/measured/metrics/test/accuracy/value"),
        (target("latency_p95_ms", "<=", 30), 25.0, "outcome.json#/measured/latency/p95_ms"),
        (target("throughput_rps", ">=", 500), 800.0, "outcome.json#/measured/latency/throughput_rps"),
        (target("latency_p50_ms", "<=", 0.2, "compressed"), 0.1, "outcome.json#/measured/ledger/1/latency_p50_ms"),
    ],
)
def test_a_target_is_judged_on_the_artifact_it_is_about(wanted, measured, field):
    (judged,) = judge(facts(wanted))["targets"]
    assert (judged["measured"], judged["met"], judged["source"]["field"]) == (measured, True, field)


@pytest.mark.parametrize(("where", "megabytes"), [("trained", 3.0), ("compressed", 0.5), ("served", 0.5)])
def test_size_is_that_of_the_file(where, megabytes):
    (judged,) = judge(facts(target("size_mb", "<=", 4, where)))["targets"]
    assert judged["measured"] == megabytes


def test_a_missed_target_names_the_row_that_would_meet_it():
    verdict = judge(facts(target("accuracy", ">=", 0.98)))
    assert verdict["verdict"] == MISSED
    assert verdict["targets"][0]["nearest"] == (
        "fp32 on onnxruntime would meet it with 99% (validation rows); not chosen: int8 is faster"
    )


def test_a_missed_target_that_nothing_meets_says_so():
    (size,) = judge(facts(target("size_mb", "<=", 0.1, "compressed")))["targets"]
    assert size["nearest"] == (
        "none tried meets it; the nearest is int8 on onnxruntime with 0.5 MB, 0.4 MB from the target; which serves"
    )
    (trained,) = judge(facts(target("accuracy", ">=", 0.999, "trained")))["targets"]
    assert trained["nearest"] == "none tried meets it; it is missed by 2.9 points; no other model was trained"
    (slow,) = judge(facts(target("latency_p95_ms", "<=", 20)))["targets"]
    assert slow["nearest"] == (
        "none tried meets it; it is missed by 5 ms; int8 on onnxruntime, which serves, has a p50 of 0.1 ms in the "
        "process; the rest is the server: try serving.queue_delay_ms, serving.instances or serving.load_clients"
    )


def test_an_option_that_could_serve_is_named_before_a_faster_one_that_could_not():
    rows = [
        row("fp32", 2.0, 0.4, 0.99, kept=True, reason="int8 is faster"),
        row("pruned_60", 0.9, 0.2, 0.985, reason="loses 0.03 accuracy; the budget is 0.01"),
        row("int8", 0.5, 0.1, 0.96, chosen=True),
    ]
    (judged,) = judge(facts(target("accuracy", ">=", 0.98), ledger=rows))["targets"]
    assert judged["nearest"].startswith("fp32 on onnxruntime would meet it with 99% (validation rows)")
    (small,) = judge(facts(target("size_mb", "<=", 0.4, "compressed"), ledger=[rows[2], {**rows[1], "size_mb": 0.3}]))[
        "targets"
    ]
    assert small["nearest"] == (
        "pruned_60 on onnxruntime would meet it with 0.3 MB (validation rows); not chosen: loses 0.03 accuracy; "
        "the budget is 0.01"
    )


def test_a_faster_one_that_does_not_serve_is_told():
    rows = [row("int8", 0.5, 0.1, 0.96, chosen=True), row("tiny", 0.1, 0.05, 0.6, reason="loses 0.4 accuracy")]
    (slow,) = judge(facts(target("latency_p95_ms", "<=", 20), ledger=rows))["targets"]
    assert "(the fastest tried, tiny on onnxruntime, 0.05 ms; not chosen: loses 0.4 accuracy)" in slow["nearest"]


def test_what_serves_may_meet_a_target_on_validation_rows_only():
    rows = [row("int8", 0.5, 0.1, 0.97, chosen=True)]
    (judged,) = judge(facts(target("accuracy", ">=", 0.95), ledger=rows))["targets"]
    assert judged["nearest"] == (
        "none tried meets it; it is missed by 1 point; the nearest is int8 on onnxruntime with 97% on validation "
        "rows, which serves"
    )


def test_a_slice_is_looked_up_among_what_each_row_measured_of_it():
    part = {"slice": "class:3", "rows": 120, "gated": True, "accuracy": {"value": 0.5, "low": 0.2, "high": 0.8}}
    wanted = target("accuracy", ">=", 0.9, "compressed", "class:3")
    name = "accuracy >= 0.9 on class:3 (compressed)"

    def asked(*values):
        rows = [
            row(f"v{place}", 0.5, 0.1, 0.99, chosen=not place, targets=[{"name": name, "value": value, "met": False}])
            for place, value in enumerate(values)
        ]
        given = replace(facts(wanted, ledger=rows), own={"compressed_test.json": {"metrics": {}, "slices": [part]}})
        return judge(given)["targets"][0]["nearest"]

    assert asked(0.6, 0.7) == (
        "none tried meets it; the nearest is v1 on onnxruntime with 70%, 20 points from the target; not chosen: slower"
    )
    assert asked(0.6, 0.95) == "v1 on onnxruntime would meet it with 95% (validation rows); not chosen: slower"
    given = replace(facts(wanted), own={"compressed_test.json": {"metrics": {}, "slices": [part]}})
    assert (
        judge(given)["targets"][0]["nearest"]
        == f"none tried meets it; it is missed by 40 points; the ledger has no {name}"
    )


def test_what_could_not_be_measured_is_not_met_and_has_no_value():
    missing = replace(
        facts(target("accuracy", ">=", 0.9)), missing={"triton_repository": "not measured: it has not run"}
    )
    verdict = judge(missing)
    (judged,) = verdict["targets"]
    assert (judged["measured"], judged["met"], judged["reason"]) == (None, False, "it has not run")
    assert headline(verdict) == "Of 1 target: 1 not measured"


def test_a_small_slice_is_reported_and_not_decided_on():
    part = {"slice": "class:3", "rows": 12, "gated": False, "accuracy": {"value": 0.5, "low": 0.2, "high": 0.8}}
    verdict = judge(facts(target("accuracy", ">=", 0.9, "trained", "class:3"), slices=[part]))
    (judged,) = verdict["targets"]
    assert (judged["measured"], judged["met"], verdict["verdict"]) == (0.5, None, MET)
    assert judged["reason"] == "only 12 test rows are in the slice, 100 are needed to decide"


def test_a_slice_that_does_not_exist_names_those_that_do():
    part = {"slice": "class:3", "rows": 120, "gated": True, "accuracy": {"value": 0.5, "low": 0.2, "high": 0.8}}
    (judged,) = judge(facts(target("accuracy", ">=", 0.9, "trained", "class:4"), slices=[part]))["targets"]
    assert judged["reason"] == "no test row is in the slice class:4; there are class:3"


def test_an_integrity_gate_that_failed_blocks_whatever_the_targets_say():
    gate = {"name": "parity", "passed": False, "blocking": True, "summary": "they differ", "facts": {}}
    verdict = judge(facts(target("accuracy", ">=", 0.9), gates=[gate]))
    assert verdict["verdict"] == BLOCKED
    assert verdict["blocked_by"] == ["evaluation: parity: they differ"]
    warned = judge(facts(target("accuracy", ">=", 0.9), gates=[{**gate, "blocking": False}]))
    assert warned["verdict"] == MET


def budgeted(passed, facts_of_gate):
    rows = [row("fp32", 2.0, 0.4, 0.99, chosen=True)]
    gate = {"name": "accuracy_budget", "passed": passed, "blocking": False, "summary": "none of 3 meets it",
            "facts": facts_of_gate}  # fmt: skip
    given = facts(ledger=rows)
    given.documents["compressed_model"].files["outcome.json"]["gates"].append(gate)
    return replace(given, brief={"problem": {"targets": []}, "compression": {"max_loss": 0.005}})


def test_a_budget_that_nothing_meets_is_missed_and_told_by_how_much():
    near = {"budget": 0.005, "nearest": {"variant": "int8", "value": 0.01, "low": 0.0, "high": 0.02}, "high": 0.0}
    verdict = judge(budgeted(False, near))
    (budget,) = verdict["targets"]
    assert verdict["verdict"] == MISSED and headline(verdict) == "Of 1 target: 1 missed"
    assert (budget["name"], budget["target"]) == ("accuracy_budget <= 0.005 (compressed)", 0.005)
    assert (budget["measured"], budget["source"]["field"]) == (0.02, "outcome.json#/gates/0/facts/nearest/high")
    assert budget["nearest"] == "missed by 1.5 points at the end of the interval; none of 3 meets it"
    served = judge(budgeted(False, {"budget": 0.005, "value": 0.0, "low": 0.0, "high": 0.0075}))["targets"][0]
    assert served["nearest"].startswith("missed by 0.25 points ")


def test_a_budget_that_is_met_is_no_target_and_one_without_a_loss_has_the_reason():
    assert judge(budgeted(True, {"budget": 0.005, "high": 0.0}))["verdict"] == MET
    assert judge(budgeted(True, {"budget": 0.005, "high": 0.0}))["targets"] == []
    undecided = judge(budgeted(None, {"budget": 0.005, "high": 0.02, "rows": 5}))
    assert (undecided["verdict"], undecided["targets"], undecided["blocked_by"]) == (MET, [], [])
    (unknown,) = judge(budgeted(False, {"budget": 0.005}))["targets"]
    assert (unknown["measured"], unknown["reason"]) == (None, "none of 3 meets it")
