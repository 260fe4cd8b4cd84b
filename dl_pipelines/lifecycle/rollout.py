"""The decision on a challenger in a live experiment: a pure function of counted evidence, which the sensor carries out.

One stage is looked at, by itself: of each arm the units assigned to it, its failures, latencies and scores. What may be
looked at as often as one likes is in sequential.py, how the reasons are worded in rollout_reasons.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from dl_pipelines.brief.live import Rollout
from dl_pipelines.lifecycle import rollout_reasons as reasons
from dl_pipelines.lifecycle.sequential import (
    Moments,
    Side,
    difference_of_means,
    log_evidence,
    mean_of_pairs,
    quantile_bins,
)

Action = Literal["wait", "advance", "promote", "roll_back", "stop"]
"""`stop`: the evidence can't be trusted or no decision came; the challenger is taken out, nothing is said of it."""
State = Literal["harmed", "undecided", "not_worse"]


@dataclass(frozen=True)
class ArmEvidence:
    """What one arm did in the stage. In a shadow stage both arms have seen every unit.

    `failed` are the `requests` that this arm's model did not answer well. `latency` counts answered requests by the bin
    of their time in the router (`latency_bin`). `matured` are units with an answer that is old enough for a label,
    `labelled` those of them that have one. `score` is of labelled units: the mean of the unit's scores (Task.scores) of
    what its client was given, whoever answered.
    """

    units: int
    requests: int
    failed: int
    latency: Mapping[int, int]
    matured: int
    labelled: int
    score: Moments


@dataclass(frozen=True)
class Evidence:
    """Of one stage so far.

    `paired`: of labelled units that both answered (a shadow stage), the challenger's score minus the champion's.
    `breaker` is why the router gave the challenger up, if it did.
    """

    stage: int
    hours: float
    champion: ArmEvidence
    challenger: ArmEvidence
    paired: Moments | None = None
    breaker: str = ""

    def plain(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Evidence:
        """From what `plain` gave, also after JSON (whose keys are text)."""

        def arm(found: Mapping[str, Any]) -> ArmEvidence:
            latency = {int(place): int(count) for place, count in found["latency"].items()}
            return ArmEvidence(**{**found, "latency": latency, "score": Moments(**found["score"])})

        paired = Moments(**plain["paired"]) if plain["paired"] else None
        return cls(**{**plain, "champion": arm(plain["champion"]), "challenger": arm(plain["challenger"]),
                      "paired": paired})  # fmt: skip


@dataclass(frozen=True)
class Bound:
    """One comparison: challenger minus champion, turned so that below zero the challenger is worse.

    `low` and `high` hold at every look at once; -`margin` is what it may be worse by. None: nothing to compare yet.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    margin: float
    state: State
    unit: str


@dataclass(frozen=True)
class Decision:
    """What to do now, why, and what it rests on: the primary metric first, then the guardrails."""

    action: Action
    reason: str
    bounds: tuple[Bound, ...] = ()

    def plain(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return asdict(self)


class RolloutError(ValueError):
    """Evidence that can't be of the stage it says."""


TOO_SHORT = 1e-3
STEP = math.log(1.05)


def latency_bin(milliseconds: float) -> int:
    """The bin of a time: logarithmic, 5 % wide; what is under a microsecond counts as one. Raises RolloutError."""
    if not 0 <= milliseconds < math.inf:
        raise RolloutError(f"found a latency of {milliseconds} ms; expected 0 or more; leave out requests without one")
    return math.floor(math.log(max(milliseconds, TOO_SHORT)) / STEP)


def bin_edges(bin: int) -> tuple[float, float]:
    """The times in milliseconds between which a bin lies: from the first up to (not with) the second."""
    return math.exp(bin * STEP), math.exp((bin + 1) * STEP)


HARM = {"score": 0.4, "failures": 0.2, "latency": 0.2, "split": 0.1, "labels": 0.1}
"""How the tests that take a challenger out share `harm_alpha`."""


def decide_rollout(evidence: Evidence, rules: Rollout, margin: float) -> Decision:
    """What the evidence of a stage says; `margin` >= 0 (lifecycle.margin) is of the score. Missing data never promotes.

    Roll back when the primary metric or a guardrail is harmed (all of its interval is below -margin), or the router's
    breaker opened. Stop when more units came to one arm than its share explains, or more labels, or `max_units` are old
    enough for a label and nothing is decided. Advance after `min_hours` and `min_units` with a label, unless a value
    lies below -margin; from the last stage promote after them, when the primary metric's lower bound clears -margin and
    every guardrail is not worse. A lower bound is wrong at any look of a stage with at most `alpha`; all tests that
    take a challenger out, in all stages together, with at most `harm_alpha`. Raises RolloutError.
    """
    _check(evidence, rules, margin)
    shadow = rules.shares[evidence.stage] == 0
    bounds = (_score(evidence, rules, margin, shadow), _failures(evidence, rules), _latency(evidence, rules))

    def decided(action: Action, reason: str) -> Decision:
        return Decision(action, reason, bounds)

    if evidence.breaker:
        return decided("roll_back", reasons.broken(evidence.breaker))
    if not shadow and (mismatch := _mismatch(evidence, rules)):
        return decided("stop", mismatch)
    if harmed := [bound for bound in bounds if bound.state == "harmed"]:
        return decided("roll_back", reasons.harmed(harmed))
    labelled, matured = _units(evidence, shadow)
    last = evidence.stage == len(rules.shares) - 1
    doubtful = [bound for bound in bounds if (bound.state != "not_worse" if last else _seems_worse(bound))]
    missing = reasons.missing(labelled, matured, evidence, rules) or reasons.undecided(doubtful)
    if not missing:
        return (
            decided("promote", reasons.clear(bounds)) if last else decided("advance", reasons.full(evidence, labelled))
        )
    if matured >= rules.max_units:
        return decided("stop", reasons.through(matured, rules.max_units, missing))
    return decided("wait", missing)


def _seems_worse(bound: Bound) -> bool:
    """Whether the challenger looks worse than it may be, if not beyond doubt: no reason to show it to more clients."""
    return bound.value is not None and bound.value < -bound.margin


def _check(evidence: Evidence, rules: Rollout, margin: float) -> None:
    if not 0 <= evidence.stage < len(rules.shares):
        raise RolloutError(
            f"found stage {evidence.stage}; expected 0 to {len(rules.shares) - 1}, as rollout.shares says"
        )
    if not margin >= 0:
        raise RolloutError(f"found the margin {margin}; expected 0 or more")
    if rules.shares[evidence.stage] == 0 and evidence.paired is None:
        raise RolloutError("found no paired scores in a shadow stage; expected `paired`, if only of 0 units")
    for name, arm in (("champion", evidence.champion), ("challenger", evidence.challenger)):
        if not 0 <= arm.score.count <= arm.labelled <= arm.matured or not 0 <= arm.failed <= arm.requests:
            raise RolloutError(
                f"found of the {name} {arm.matured} units old enough for a label, {arm.labelled} with one, "
                f"{arm.score.count} with a score, and {arm.failed} of {arm.requests} requests failed; expected each "
                "to be a part of the one before; count a unit once"
            )


def _units(evidence: Evidence, shadow: bool) -> tuple[int, int]:
    """Units with a label that both sides of the comparison can use, and units that are old enough for one."""
    if shadow:
        assert evidence.paired is not None
        return evidence.paired.count, evidence.champion.matured
    arms = evidence.champion, evidence.challenger
    return sum(arm.score.count for arm in arms) if all(arm.score.count for arm in arms) else 0, sum(
        arm.matured for arm in arms
    )


def _harm(rules: Rollout, stage: int, test: str) -> float:
    """What a test of a stage may err by: the first stage, which sees most at no risk, has half, the others the rest."""
    others = len(rules.shares) - 1
    weight = 1.0 if not others else 0.5 if stage == 0 else 0.5 / others
    return rules.harm_alpha * HARM[test] * weight


def _sides(rules: Rollout, stage: int, test: str) -> tuple[Side, Side]:
    """The lower bound promotes, and is tightest late; the upper one shows harm, and is tightest early."""
    return Side(rules.alpha, rules.min_units), Side(_harm(rules, stage, test), rules.min_units / 10)


def _score(evidence: Evidence, rules: Rollout, margin: float, shadow: bool) -> Bound:
    sides = _sides(rules, evidence.stage, "score")
    first, second = evidence.challenger.score, evidence.champion.score
    if shadow:
        pairs = evidence.paired
        if not pairs or not pairs.count:
            return Bound("score", None, None, None, margin, "undecided", "score")
        return _bound("score", pairs.mean, *mean_of_pairs(pairs, *sides), margin, "score")
    if not first.count or not second.count:
        return Bound("score", None, None, None, margin, "undecided", "score")
    return _bound("score", first.mean - second.mean, *difference_of_means(first, second, *sides), margin, "score")


def _failures(evidence: Evidence, rules: Rollout) -> Bound:
    unit = "share of requests"
    first, second = (
        Moments(arm.requests, arm.requests - arm.failed, arm.requests - arm.failed)
        for arm in (evidence.challenger, evidence.champion)
    )
    if not first.count or not second.count:
        return Bound("failures", None, None, None, rules.error_margin, "undecided", unit)
    low, high = difference_of_means(first, second, *_sides(rules, evidence.stage, "failures"))
    return _bound("failures", first.mean - second.mean, low, high, rules.error_margin, unit)


def _latency(evidence: Evidence, rules: Rollout) -> Bound:
    """The challenger's quantile over the champion's, less 1, with the sign turned; half of each alpha is an arm's."""
    name, unit = f"latency p{100 * rules.latency_quantile:g}", "share of the champion's"
    ours, its = evidence.challenger.latency, evidence.champion.latency
    if not any(ours.values()) or not any(its.values()):
        return Bound(name, None, None, None, rules.latency_margin, "undecided", unit)
    promote, harm = rules.alpha / 2, _harm(rules, evidence.stage, "latency") / 2
    least, at, most = quantile_bins(ours, rules.latency_quantile, harm, promote)
    its_least, its_at, its_most = quantile_bins(its, rules.latency_quantile, promote, harm)
    low = None if most is None or its_least is None else 1 - bin_edges(most)[1] / bin_edges(its_least)[0]
    high = None if least is None or its_most is None else 1 - bin_edges(least)[0] / bin_edges(its_most)[1]
    return _bound(name, 1 - bin_edges(at)[0] / bin_edges(its_at)[0], low, high, rules.latency_margin, unit)


def _bound(name: str, value: float, low: float | None, high: float | None, margin: float, unit: str) -> Bound:
    state: State = "undecided"
    if high is not None and high < -margin:
        state = "harmed"
    elif low is not None and low > -margin:
        state = "not_worse"
    return Bound(name, value, low, high, margin, state, unit)


def _mismatch(evidence: Evidence, rules: Rollout) -> str:
    """Why the arms can't be compared: their split, or that of the labels, is not what the share explains; or empty."""
    share = rules.shares[evidence.stage]
    for test, of in (("split", "units"), ("labels", "labelled")):
        ours, its = (getattr(arm, of) for arm in (evidence.challenger, evidence.champion))
        alpha = _harm(rules, evidence.stage, test)
        if (found := log_evidence(ours, ours + its, share)) > -math.log(alpha):
            return reasons.mismatch(test, ours, ours + its, share, found, alpha)
    return ""
