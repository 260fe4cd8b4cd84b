"""The bounds that a live experiment is decided on, from its evidence, and how the chances of an error are shared out.

A lower bound has all of `alpha`: every one of them must clear its margin before a promotion, so a challenger that is
worse in any has to cross that one. What takes a challenger out shares `harm_alpha`: any of it suffices.
"""

from __future__ import annotations

import math

from dl_pipelines.brief.live import Rollout
from dl_pipelines.lifecycle import rollout_reasons as reasons
from dl_pipelines.lifecycle.rollout_evidence import ArmEvidence, Bound, Evidence, State, bin_edges
from dl_pipelines.lifecycle.sequential import (
    Moments,
    Side,
    difference_of_means,
    log_evidence,
    mean_of_pairs,
    quantile_bins,
)

WAY_MS = 1.0
"""Of a request, beside the model: server and router, one client (docs/log.md, `router.added_p50`). A model that takes a
tenth of that, or twice as long, is the same to who waits."""
HARM = {"score": 0.4, "failures": 0.2, "latency": 0.2, "split": 0.1, "labels": 0.1}
"""How the tests that take a challenger out share `harm_alpha`."""


def harm_alpha(rules: Rollout, stage: int, test: str) -> float:
    """What a test of a stage may err by: the first stage, which sees most at no risk, has half, the others the rest."""
    others = len(rules.shares) - 1
    weight = 1.0 if not others else 0.5 if stage == 0 else 0.5 / others
    return rules.harm_alpha * HARM[test] * weight


def _sides(rules: Rollout, stage: int, test: str) -> tuple[Side, Side]:
    """The lower bound promotes, and is tightest late; the upper one shows harm, and is tightest early."""
    return Side(rules.alpha, rules.min_units), Side(harm_alpha(rules, stage, test), rules.min_units / 10)


def _independent(arm: ArmEvidence, requests: int) -> int:
    """As how many these requests count: those of a unit depend on each other, so at most as many as there are units."""
    return max(1, min(arm.units, requests))


def score(evidence: Evidence, rules: Rollout, margin: float) -> Bound:
    """Of the primary metric: of pairs in a shadow stage, else of the two arms."""
    sides = _sides(rules, evidence.stage, "score")
    first, second = evidence.challenger.score, evidence.champion.score
    if rules.shares[evidence.stage] == 0:
        pairs = evidence.paired
        if not pairs or not pairs.count:
            return Bound("score", None, None, None, margin, "undecided", "score")
        return _bound("score", pairs.mean, *mean_of_pairs(pairs, *sides), margin, "score")
    if not first.count or not second.count:
        return Bound("score", None, None, None, margin, "undecided", "score")
    return _bound("score", first.mean - second.mean, *difference_of_means(first, second, *sides), margin, "score")


def failures(evidence: Evidence, rules: Rollout) -> Bound:
    """Of the share of requests that the model answered; of a unit's many requests as much is learnt as of one."""
    unit = "share of requests"
    if not evidence.challenger.requests or not evidence.champion.requests:
        return Bound("failures", None, None, None, rules.error_margin, "undecided", unit)
    first, second = _answered(evidence.challenger), _answered(evidence.champion)
    low, high = difference_of_means(first, second, *_sides(rules, evidence.stage, "failures"))
    return _bound("failures", first.mean - second.mean, low, high, rules.error_margin, unit)


def _answered(arm: ArmEvidence) -> Moments:
    count = _independent(arm, arm.requests)
    share = count - count * arm.failed / arm.requests
    return Moments(count, share, share)


def latency(evidence: Evidence, rules: Rollout) -> Bound:
    """The challenger's quantile over the champion's, less 1, with the sign turned; half of each alpha is an arm's.

    They are of what a client waits (`waited`).
    """
    name, unit = f"latency p{100 * rules.latency_quantile:g}", "share of the champion's"
    ours, its = evidence.challenger.latency, evidence.champion.latency
    if not any(ours.values()) or not any(its.values()):
        return Bound(name, None, None, None, rules.latency_margin, "undecided", unit)
    promote, harm = rules.alpha / 2, harm_alpha(rules, evidence.stage, "latency") / 2
    own, other = (_independent(arm, sum(arm.latency.values())) for arm in (evidence.challenger, evidence.champion))
    least, at, most = quantile_bins(ours, rules.latency_quantile, harm, promote, own)
    its_least, its_at, its_most = quantile_bins(its, rules.latency_quantile, promote, harm, other)
    low = None if most is None or its_least is None else _better(bin_edges(most)[1], bin_edges(its_least)[0])
    high = None if least is None or its_most is None else _better(bin_edges(least)[0], bin_edges(its_most)[1])
    return _bound(name, _better(bin_edges(at)[0], bin_edges(its_at)[0]), low, high, rules.latency_margin, unit)


def _better(ours: float, its: float) -> float:
    """By which share of the champion's time a client waits less."""
    return 1 - waited(ours) / waited(its)


def waited(milliseconds: float) -> float:
    """What a client waits when the model takes so long."""
    return milliseconds + WAY_MS


def _bound(name: str, value: float, low: float | None, high: float | None, margin: float, unit: str) -> Bound:
    state: State = "undecided"
    if high is not None and high < -margin:
        state = "harmed"
    elif low is not None and low > -margin:
        state = "not_worse"
    return Bound(name, value, low, high, margin, state, unit)


def mismatch(evidence: Evidence, rules: Rollout) -> str:
    """Why the arms can't be compared: their split, or that of the labels, is not what the share explains; or empty."""
    share = rules.shares[evidence.stage]
    for test, of in (("split", "units"), ("labels", "labelled")):
        ours, its = (getattr(arm, of) for arm in (evidence.challenger, evidence.champion))
        alpha = harm_alpha(rules, evidence.stage, test)
        if (found := log_evidence(ours, ours + its, share)) > -math.log(alpha):
            return reasons.mismatch(test, ours, ours + its, share, found, alpha)
    return ""
