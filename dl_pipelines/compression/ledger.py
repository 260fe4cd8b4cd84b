"""Better or rejected: the pure decision over what was tried. Plain data in, the chosen row and every reason out.

It measures nothing. Losses are positive when a variant is worse than the trained model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dl_pipelines.compression.base import Objective

Estimate = Mapping[str, float]
"""`value`, `low`, `high` (95 %)."""


@dataclass(frozen=True)
class Trial:
    """One variant on one runtime, as measured on validation rows. What could not be measured is None.

    `latency`: `p50_ms`, `low`, `high`. `speed_up`: how many times faster than the strongest artifact so far; `gain`:
    than the uncompressed model on the first runtime. `energy`: joules of a thousand answers; `saving`: how many times
    less than the strongest. `loss`: of the primary metric against the trained model, positive is worse; `slices`: the
    same on each slice that is large enough to decide on. `targets`: the brief's that can be told here, `{name, value,
    met}`. `failure`: why it could not be made or opened, or (`untried`) why there was nothing to try.
    `network`: whether it is a network of its own.
    """

    variant: str
    technique: str
    runtime: str
    precision: str
    size_mb: float | None = None
    latency: Mapping[str, float] | None = None
    speed_up: Estimate | None = None
    gain: Estimate | None = None
    energy: Estimate | None = None
    saving: Estimate | None = None
    loss: Estimate | None = None
    slices: Mapping[str, Estimate] = field(default_factory=dict)
    metrics: Mapping[str, Estimate] = field(default_factory=dict)
    by_slice: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    targets: tuple[Mapping[str, Any], ...] = ()
    parity_passed: bool | None = None
    parity: str = "not compared"
    failure: str | None = None
    untried: bool = False
    network: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`static_int8 on openvino`."""
        return f"{self.variant} on {self.runtime}"


@dataclass(frozen=True)
class Rules:
    """What a step is judged by: the objective, and the budget of the primary metric (`metric`, in its own unit)."""

    objective: Objective
    max_loss: float
    metric: str


@dataclass(frozen=True)
class Judged:
    """A trial with its verdict. `kept`: it may serve; `taken`: the chain goes on with it."""

    trial: Trial
    kept: bool
    taken: bool
    reason: str


def decide(trials: Sequence[Trial], strongest: Trial, rules: Rules) -> list[Judged]:
    """Judge the trials of one step against the strongest artifact so far, measured in the same run.

    A trial is refused when it could not be made, when its parity failed, when its loss of the metric is not shown to
    stay within the budget (the whole interval counts, overall and on each slice), when it misses a target that the
    strongest meets, or when it does not improve the objective beyond its interval (a size is exact). The best of those
    kept is taken; of several that measurement can't tell apart, the one that loses least.
    """
    refusals = [refusal(trial, strongest, rules) for trial in trials]
    kept = [trial for trial, why in zip(trials, refusals, strict=True) if why is None]
    taken = _best(kept, rules.objective) if kept else None
    return [
        Judged(trial, why is None, trial is taken, why or _praise(trial, strongest, taken, rules.objective))
        for trial, why in zip(trials, refusals, strict=True)
    ]


def refusal(trial: Trial, strongest: Trial, rules: Rules) -> str | None:
    """Why a trial may not be taken, or None when it may."""
    if trial.failure:
        return f"{'not tried' if trial.untried else 'could not be made'}: {trial.failure}"
    if trial.parity_passed is not True:
        return f"parity failed: {trial.parity}"
    return _over_budget(trial, rules) or _breaks(trial, strongest) or _no_gain(trial, strongest, rules.objective)


def _over_budget(trial: Trial, rules: Rules) -> str | None:
    if trial.loss is None:
        return (
            f"the loss of {rules.metric} could not be measured on the validation rows; the budget is {rules.max_loss:g}"
        )
    for where, loss in (("", trial.loss), *((f" on {name}", found) for name, found in trial.slices.items())):
        measured = f"loses {_estimate(loss)} {rules.metric}{where}"
        if loss["value"] > rules.max_loss:
            return f"{measured}; the budget is {rules.max_loss:g}"
        if loss["high"] > rules.max_loss:
            return f"{measured}; its interval reaches beyond the budget of {rules.max_loss:g}"
    return None


def _breaks(trial: Trial, strongest: Trial) -> str | None:
    """A target that the strongest meets; one that nothing meets holds nothing back."""
    met = {target["name"] for target in strongest.targets if target["met"]}
    broken = [target for target in trial.targets if not target["met"] and target["name"] in met]
    return f"misses {broken[0]['name']}: {broken[0]['value']:.4g}" if broken else None


def _no_gain(trial: Trial, strongest: Trial, objective: Objective) -> str | None:
    if objective == "size":
        if trial.size_mb is None or strongest.size_mb is None:
            return "its size could not be measured"
        if trial.size_mb < strongest.size_mb:
            return None
        return f"not smaller: {trial.size_mb:.3f} MB against {strongest.size_mb:.3f} MB of {strongest.name}"
    found, words = (trial.speed_up, "the speed") if objective == "latency" else (trial.saving, "as thrifty as")
    if found is None:
        return f"its {objective} could not be measured"
    if found["low"] > 1:
        return None
    told = f"{_estimate(found)} times {words} {'of ' if objective == 'latency' else ''}{strongest.name}"
    better = "faster" if objective == "latency" else "thriftier"
    return f"worse: {told}" if found["high"] < 1 else f"not {better} beyond its interval: {told}"


def _best(kept: Sequence[Trial], objective: Objective) -> Trial:
    best = min(kept, key=lambda trial: _rank(trial, objective))
    if objective == "size":
        return best
    alike = [trial for trial in kept if _as_good(trial, best, objective)]
    return min(alike, key=lambda trial: (trial.loss["value"] if trial.loss else 0.0, _rank(trial, objective)))


def _as_good(trial: Trial, other: Trial, objective: Objective) -> bool:
    """Whether the intervals of what is measured meet."""
    first, second = (item.latency if objective == "latency" else item.energy for item in (trial, other))
    if first is None or second is None:
        return False
    return first["low"] <= second["high"] and second["low"] <= first["high"]


def _rank(trial: Trial, objective: Objective) -> tuple[float, float]:
    endless = float("inf")
    latency = trial.latency["p50_ms"] if trial.latency else endless
    size = trial.size_mb if trial.size_mb is not None else endless
    energy = trial.energy["value"] if trial.energy else endless
    return {"latency": (latency, size), "size": (size, latency), "energy": (energy, latency)}[objective]


def _praise(trial: Trial, strongest: Trial, taken: Trial | None, objective: Objective) -> str:
    best = {"latency": "fastest", "size": "smallest", "energy": "thriftiest"}[objective]
    if objective == "latency" and trial.speed_up:
        gain = f"{_estimate(trial.speed_up)} times the speed of {strongest.name}"
    elif objective == "energy" and trial.saving:
        gain = f"{_estimate(trial.saving)} times as thrifty as {strongest.name}"
    else:
        gain = f"{trial.size_mb:.3f} MB against {strongest.size_mb:.3f} MB of {strongest.name}"
    if trial is taken:
        return f"{gain}; the {best} of its step within the budget"
    assert taken is not None
    if objective != "size" and _as_good(trial, taken, objective):
        return f"{gain}; {taken.name} is as good and loses no more"
    return f"{gain}; {taken.name} is better"


def _estimate(estimate: Estimate) -> str:
    return f"{estimate['value']:.3g} [{estimate['low']:.3g}, {estimate['high']:.3g}]"


def as_rows(judged: Sequence[Judged], step: int, phase: str, against: str) -> list[dict[str, Any]]:
    """Rows of the ledger as plain data, one a trial, in the order tried; what was not measured is None.

    `chosen` is set when all is decided: the row that serves.
    """
    return [
        {
            "step": step,
            "phase": phase,
            "technique": item.trial.technique,
            "variant": item.trial.variant,
            "runtime": item.trial.runtime,
            "precision": item.trial.precision,
            "network": item.trial.network,
            "against": against,
            "size_mb": item.trial.size_mb,
            "latency_p50_ms": item.trial.latency["p50_ms"] if item.trial.latency else None,
            "latency_low": item.trial.latency["low"] if item.trial.latency else None,
            "latency_high": item.trial.latency["high"] if item.trial.latency else None,
            "speed_up": _plain(item.trial.speed_up),
            "gain": _plain(item.trial.gain),
            "energy_j": _plain(item.trial.energy),
            "saving": _plain(item.trial.saving),
            "metrics": {name: dict(value) for name, value in item.trial.metrics.items()},
            "loss": _plain(item.trial.loss),
            "slices": {name: dict(value) for name, value in item.trial.slices.items()},
            "targets": [dict(target) for target in item.trial.targets],
            "parity_passed": item.trial.parity_passed,
            "parity": item.trial.parity,
            "details": dict(item.trial.details),
            "kept": item.kept,
            "taken": item.taken,
            "chosen": False,
            "reason": item.reason,
        }
        for item in judged
    ]


def _plain(estimate: Estimate | None) -> dict[str, float] | None:
    return None if estimate is None else dict(estimate)


def as_markdown(rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    """The ledger as a Markdown table for people."""
    lines = [
        f"| Step | Variant | Runtime | Size (MB) | Latency p50 (ms) | Times faster | {metric} | Loss | Verdict |",
        "|---|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        latency = "not measured"
        if row["latency_p50_ms"] is not None:
            latency = f"{row['latency_p50_ms']:.4f} [{row['latency_low']:.4f}, {row['latency_high']:.4f}]"
        verdict = "**serves**" if row["chosen"] else "taken" if row["taken"] else "kept" if row["kept"] else "rejected"
        cells = [
            f"{row['step']} {row['phase']}",
            row["variant"],
            row["runtime"],
            "not measured" if row["size_mb"] is None else f"{row['size_mb']:.3f}",
            latency,
            _cell(row["gain"]),
            _cell(row["metrics"].get(metric)),
            _cell(row["loss"]),
            f"{verdict}: {row['reason']}",
        ]
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines)


def _cell(estimate: Estimate | None) -> str:
    return _estimate(estimate) if estimate else "not measured"
