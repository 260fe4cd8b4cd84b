"""Better or rejected: the pure decision over what was tried. Plain data in, the chosen row and every reason out.

It measures nothing. Losses are positive when a variant is worse than the trained model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Estimate = Mapping[str, float]
"""`value`, `low`, `high` (95 %)."""

Objective = Literal["latency", "size"]


@dataclass(frozen=True)
class Trial:
    """One variant on one runtime, as measured on validation rows. What could not be measured is None.

    `latency`: `p50_ms`, `low`, `high`. `speed_up`: how many times faster than the baseline. `loss`: of the primary
    metric against the trained model, positive is worse. `failure`: why it could not be made or opened.
    """

    variant: str
    technique: str
    runtime: str
    precision: str
    size_mb: float | None = None
    latency: Mapping[str, float] | None = None
    speed_up: Estimate | None = None
    loss: Estimate | None = None
    metrics: Mapping[str, Estimate] = field(default_factory=dict)
    parity_passed: bool | None = None
    parity: str = "not compared"
    failure: str | None = None

    @property
    def name(self) -> str:
        """`static_int8 on openvino`."""
        return f"{self.variant} on {self.runtime}"


@dataclass(frozen=True)
class Judged:
    """A trial with its verdict. `kept`: it may serve; `chosen`: it does."""

    trial: Trial
    kept: bool
    chosen: bool
    reason: str


def decide(trials: Sequence[Trial], objective: Objective, max_loss: float, metric: str) -> list[Judged]:
    """Judge trials against the first, the baseline: each is kept only when better beyond its interval within budget.

    A trial is refused when it could not be made, when its parity failed, when its loss of `metric` is not shown to
    stay within `max_loss` (the whole interval counts), or when it does not improve the objective: for latency the
    whole interval of the speed-up must lie above 1, for size the file must be smaller. The best of those kept serves;
    of several that time can't tell apart, the one that loses least. The baseline serves when none is kept.
    Raises ValueError when there is no usable baseline.
    """
    if not trials or trials[0].failure or trials[0].size_mb is None or trials[0].latency is None:
        found = trials[0].failure or "one that was not measured" if trials else "none"
        raise ValueError(f"found no usable baseline ({found}); expected the uncompressed model on its first runtime")
    baseline = trials[0]
    refusals = [None, *(refusal(trial, baseline, objective, max_loss, metric) for trial in trials[1:])]
    kept = [trial for trial, why in zip(trials, refusals, strict=True) if why is None]
    chosen = _best(kept[1:], objective) if len(kept) > 1 else baseline
    return [
        Judged(trial, why is None, trial is chosen, why or _praise(trial, baseline, chosen, objective))
        for trial, why in zip(trials, refusals, strict=True)
    ]


def refusal(trial: Trial, baseline: Trial, objective: Objective, max_loss: float, metric: str) -> str | None:
    """Why a trial may not serve, or None when it may."""
    if trial.failure:
        return f"could not be made: {trial.failure}"
    if trial.parity_passed is not True:
        return f"parity failed: {trial.parity}"
    return _over_budget(trial, max_loss, metric) or _no_gain(trial, baseline, objective)


def _over_budget(trial: Trial, max_loss: float, metric: str) -> str | None:
    if trial.loss is None:
        return f"the loss of {metric} could not be measured on the validation rows; the budget is {max_loss:g}"
    measured = f"loses {_estimate(trial.loss)} {metric}"
    if trial.loss["value"] > max_loss:
        return f"{measured}; the budget is {max_loss:g}"
    if trial.loss["high"] > max_loss:
        return f"{measured}; its interval reaches beyond the budget of {max_loss:g}"
    return None


def _no_gain(trial: Trial, baseline: Trial, objective: Objective) -> str | None:
    if objective == "size":
        if trial.size_mb is None or baseline.size_mb is None:
            return "its size could not be measured"
        if trial.size_mb < baseline.size_mb:
            return None
        return f"not smaller: {trial.size_mb:.3f} MB against {baseline.size_mb:.3f} MB of {baseline.name}"
    if trial.speed_up is None:
        return "its latency could not be measured"
    if trial.speed_up["low"] > 1:
        return None
    speed = f"{_estimate(trial.speed_up)} times the speed of {baseline.name}"
    return f"slower: {speed}" if trial.speed_up["high"] < 1 else f"not faster beyond its interval: {speed}"


def _best(kept: Sequence[Trial], objective: Objective) -> Trial:
    best = min(kept, key=lambda trial: _rank(trial, objective))
    if objective == "size":
        return best
    alike = [trial for trial in kept if _as_fast(trial, best)]
    return min(alike, key=lambda trial: (trial.loss["value"] if trial.loss else 0.0, _rank(trial, objective)))


def _as_fast(trial: Trial, other: Trial) -> bool:
    """Whether the intervals of the latencies meet."""
    if trial.latency is None or other.latency is None:
        return False
    return trial.latency["low"] <= other.latency["high"] and other.latency["low"] <= trial.latency["high"]


def _rank(trial: Trial, objective: Objective) -> tuple[float, float]:
    latency = trial.latency["p50_ms"] if trial.latency else float("inf")
    size = trial.size_mb if trial.size_mb is not None else float("inf")
    return (latency, size) if objective == "latency" else (size, latency)


def _praise(trial: Trial, baseline: Trial, chosen: Trial, objective: Objective) -> str:
    best = "fastest" if objective == "latency" else "smallest"
    if trial is baseline:
        gain = "the baseline"
    elif objective == "latency" and trial.speed_up:
        gain = f"{_estimate(trial.speed_up)} times the speed of {baseline.name}"
    else:
        gain = f"{trial.size_mb:.3f} MB against {baseline.size_mb:.3f} MB of {baseline.name}"
    if trial is chosen:
        return f"{gain}; the {best} within the budget"
    if objective == "latency" and trial is not baseline and _as_fast(trial, chosen):
        return f"{gain}; {chosen.name} is as fast and loses no more"
    return f"{gain}; {chosen.name} is {'faster' if objective == 'latency' else 'smaller'}"


def _estimate(estimate: Estimate) -> str:
    return f"{estimate['value']:.3g} [{estimate['low']:.3g}, {estimate['high']:.3g}]"


def as_rows(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """The ledger as plain data, one row a trial, in the order tried; what was not measured is None."""
    return [
        {
            "variant": item.trial.variant,
            "technique": item.trial.technique,
            "runtime": item.trial.runtime,
            "precision": item.trial.precision,
            "size_mb": item.trial.size_mb,
            "latency_p50_ms": item.trial.latency["p50_ms"] if item.trial.latency else None,
            "latency_low": item.trial.latency["low"] if item.trial.latency else None,
            "latency_high": item.trial.latency["high"] if item.trial.latency else None,
            "speed_up": dict(item.trial.speed_up) if item.trial.speed_up else None,
            "metrics": {name: dict(value) for name, value in item.trial.metrics.items()},
            "loss": dict(item.trial.loss) if item.trial.loss else None,
            "parity": item.trial.parity,
            "kept": item.kept,
            "chosen": item.chosen,
            "reason": item.reason,
        }
        for item in judged
    ]


def as_markdown(rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    """The ledger as a Markdown table for people."""
    lines = [
        f"| Variant | Runtime | Size (MB) | Latency p50 (ms) | Speed-up | {metric} | Loss | Verdict |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        latency = "not measured"
        if row["latency_p50_ms"] is not None:
            latency = f"{row['latency_p50_ms']:.4f} [{row['latency_low']:.4f}, {row['latency_high']:.4f}]"
        verdict = "**serves**" if row["chosen"] else "kept" if row["kept"] else "rejected"
        cells = [
            row["variant"],
            row["runtime"],
            "not measured" if row["size_mb"] is None else f"{row['size_mb']:.3f}",
            latency,
            _cell(row["speed_up"]),
            _cell(row["metrics"].get(metric)),
            _cell(row["loss"]),
            f"{verdict}: {row['reason']}",
        ]
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines)


def _cell(estimate: Estimate | None) -> str:
    return _estimate(estimate) if estimate else "not measured"
