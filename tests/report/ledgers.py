"""Ledgers of several steps as the chain writes them, from invented measurements judged by the real rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dl_pipelines.compression.ledger import Judged, Rules, Trial, as_rows, decide
from dl_pipelines.report.facts import Document, Facts
from dl_pipelines.tasks.classification import METRICS

BUDGET = 0.01
PHASE = {
    "architecture_search": "search", "distillation": "distill", "pruning": "prune", "sparsity": "prune",
    "mixed_precision": "precision",
}  # fmt: skip


def between(value: float, apart: float = 0.1) -> dict[str, float]:
    """An estimate with an interval of so much on both sides, as a share."""
    return {"value": value, "low": value * (1 - apart), "high": value * (1 + apart)}


def trial(
    variant: str, technique: str, runtime: str = "onnxruntime", size: float = 1.0, gain: float = 1.0,
    loss: float = 0.0, **changed: Any,
) -> Trial:  # fmt: skip
    """A variant that loses `loss` of the accuracy, `gain` times as fast as the uncompressed model (0.5 ms)."""
    given = Trial(
        variant, technique, runtime, "int8" if "int8" in technique else "fp32", size_mb=size,
        latency={"p50_ms": 0.5 / gain, "low": 0.49 / gain, "high": 0.51 / gain}, gain=between(gain, 0.02),
        loss={"value": loss, "low": loss - 0.002, "high": loss + 0.002}, parity_passed=True, parity="passed",
        metrics={"accuracy": {"value": 0.98 - loss, "low": 0.97 - loss, "high": 0.99 - loss}},
    )  # fmt: skip
    return replace(given, **changed)


def failed(variant: str, technique: str, why: str, **changed: Any) -> Trial:
    """One that could not be made."""
    return Trial(variant, technique, "onnxruntime", "fp32", failure=why, **changed)


def chained(steps: Sequence[Sequence[Trial]], rules: Rules | None = None) -> list[dict[str, Any]]:
    """The rows of the uncompressed model and of these steps, each judged against the strongest before it."""
    rules = rules or Rules("latency", BUDGET, "accuracy")
    strongest = trial("fp32", "none", size=2.0)
    rows = as_rows([Judged(strongest, True, True, "the baseline")], 0, "runtime", strongest.name)
    for number, given in enumerate(steps, start=1):
        assert strongest.gain
        against = strongest.gain["value"]
        trials = [
            replace(item, speed_up=between(item.gain["value"] / against, 0.02)) if item.gain else item for item in given
        ]
        judged = decide(trials, strongest, rules)
        phase = PHASE.get(given[0].technique, "quantize")
        rows += as_rows(judged, number, phase, strongest.name)
        strongest = next((item.trial for item in judged if item.taken), strongest)
    for row in rows:
        row["chosen"] = (row["variant"], row["runtime"]) == (strongest.variant, strongest.runtime)
    return rows


FULL = [
    [
        trial("searched_w24_d3", "architecture_search", size=1.5, gain=1.6, loss=0.001, network=True,
              details={"candidates": 24, "rank_correlation": {"value": 0.83, "low": 0.7, "high": 0.9}}),
        trial("searched_w24_d3", "architecture_search", "openvino", size=1.5, gain=2.1, loss=0.001, network=True,
              details={"candidates": 24, "rank_correlation": {"value": 0.83, "low": 0.7, "high": 0.9}}),
    ],
    [failed("distillation", "distillation", "its training failed: <loss> of nan")],
    [
        trial("pruned_30", "pruning", "openvino", size=1.0, gain=2.6, loss=0.002, network=True,
              details={"channels": {"features.0": [32, 22]}}),
        trial("pruned_60", "pruning", "openvino", size=0.6, gain=3.4, loss=0.05, network=True),
    ],
    [
        trial("static_int8", "static_int8", "openvino", size=0.3, gain=4.1, loss=0.003,
              details={"calibration": "entropy", "left_in_float": ["/head/Gemm", "/features/0/Conv"]}),
        trial("static_int8", "static_int8", size=0.27, gain=3.9, loss=0.003),
        trial("static_int8_reduced", "static_int8", "openvino", size=0.3, gain=3.8, loss=0.02),
    ],
    [failed("dynamic_int8", "dynamic_int8", "found no operator that int8 covers")],
    [trial("bf16", "mixed_precision", "openvino", size=0.52, gain=2.4, loss=0.0)],
]  # fmt: skip
"""Search and pruning are taken, int8 serves, distillation and dynamic int8 fail, bf16 is slower."""


def facts(
    rows: Sequence[Mapping[str, Any]] | None, techniques: Any = (), precision: str = "fp32",
    objective: str = "latency", **changed: Any,
) -> Facts:  # fmt: skip
    """What section 7 reads; without rows nothing was compressed."""
    asked = techniques if isinstance(techniques, str) else [{"name": name, "params": {}} for name in techniques]
    brief = {
        "compression": {"techniques": asked, "objective": objective, "max_loss": BUDGET},
        "problem": {"targets": []},
    }
    manifest = {"settings": {"settings": {"training": {"precision": precision}}}}
    documents = {"trained_model": Document("trained_model", "a" * 64, {"manifest.json": manifest})}
    missing = {"compressed_model": "not measured: compressed_model has not run"}
    if rows is not None:
        measured = {"ledger": list(rows), "baseline": rows[0], "rows": 150, "threads": 1, "instances": 2}
        outcome = {"measured": measured, "gates": [], "seconds": 1.0}
        documents["compressed_model"] = Document("compressed_model", "c" * 64, {"outcome.json": outcome})
        missing = {}
    return replace(Facts("2026-01-01|base", brief, documents, {}, missing, METRICS, "accuracy"), **changed)
