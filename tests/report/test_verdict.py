from dataclasses import replace

import pytest

from dl_pipelines.report.facts import Document, Facts
from dl_pipelines.report.render import headline
from dl_pipelines.report.verdict import BLOCKED, MET, MISSED, judge
from dl_pipelines.tasks.classification import METRICS


def row(variant, size, latency, accuracy, chosen=False, reason="slower"):
    return {
        "variant": variant, "runtime": "onnxruntime", "technique": "none", "size_mb": size, "latency_p50_ms": latency,
        "latency_low": latency, "latency_high": latency, "metrics": {"accuracy": {"value": accuracy}},
        "chosen": chosen, "kept": chosen, "reason": reason,
    }  # fmt: skip


LEDGER = [row("fp32", 2.0, 0.4, 0.99, reason="int8 is faster"), row("int8", 0.5, 0.1, 0.96, chosen=True)]


def outcome(measured=None, gates=()):
    return {"measured": measured or {}, "gates": list(gates), "seconds": 1.0}


def facts(*targets, gates=(), latency=None, slices=()):
    documents = {
        "trained_model": {"weights.safetensors": {"size": 3_000_000}, "outcome.json": outcome()},
        "evaluation": {
            "metrics.json": {"test": {"accuracy": {"value": 0.97, "low": 0.95, "high": 0.99}}},
            "slices.json": list(slices),
            "outcome.json": outcome(gates=gates),
        },
        "compressed_model": {"choice.json": {"size_bytes": 500_000}, "outcome.json": outcome({"ledger": LEDGER})},
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
    assert size["nearest"] == "none tried meets it; the nearest is int8 on onnxruntime with 0.5 MB"
    (trained,) = judge(facts(target("accuracy", ">=", 0.999, "trained")))["targets"]
    assert trained["nearest"] == "none tried meets it: one model was trained in this run, and no search was run"
    (slow,) = judge(facts(target("latency_p95_ms", "<=", 20)))["targets"]
    assert slow["nearest"].startswith("none tried meets it; the fastest is int8 on onnxruntime with p50 0.1 ms")


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
