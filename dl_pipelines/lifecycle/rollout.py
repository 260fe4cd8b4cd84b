"""The decision on a challenger in a live experiment: a pure function of counted evidence, which the sensor carries out.

One stage is looked at, by itself: of each arm the units assigned to it, its failures, latencies and scores. What they
are is in rollout_evidence.py, the bounds on them in rollout_bounds.py, the wording in rollout_reasons.py.
"""

from __future__ import annotations

from dl_pipelines.brief.live import Rollout
from dl_pipelines.lifecycle import rollout_bounds as bounds
from dl_pipelines.lifecycle import rollout_reasons as reasons
from dl_pipelines.lifecycle.rollout_evidence import (
    Action,
    ArmEvidence,
    Bound,
    Decision,
    Evidence,
    RolloutError,
    State,
    bin_edges,
    latency_bin,
)
from dl_pipelines.lifecycle.sequential import Moments

__all__ = [
    "Action", "ArmEvidence", "Bound", "Decision", "Evidence", "Moments", "RolloutError", "State", "bin_edges",
    "decide_rollout", "latency_bin",
]  # fmt: skip


def decide_rollout(evidence: Evidence, rules: Rollout, margin: float) -> Decision:
    """What the evidence of a stage says; `margin` >= 0 (lifecycle.margin) is of the score. Missing data never promotes.

    Roll back when the primary metric or a guardrail is harmed (all of its interval is below -margin), or the router's
    breaker opened. Stop when more units came to one arm than its share explains, or more labels, or when nothing is
    decided after `max_hours`, or after `min_hours` with `max_units` old enough for a label. Advance after `min_hours`
    and `min_units` with a label, unless a value lies below -margin; from the last stage promote after them, when the
    primary metric's lower bound clears -margin and every guardrail is not worse. A lower bound is wrong at any look of
    a stage with at most `alpha`; all tests that take a challenger out, in all stages together, with at most
    `harm_alpha`. Raises RolloutError.
    """
    _check(evidence, rules, margin)
    shadow = rules.shares[evidence.stage] == 0
    compared = (
        bounds.score(evidence, rules, margin),
        bounds.failures(evidence, rules),
        bounds.latency(evidence, rules),
    )

    def decided(action: Action, reason: str) -> Decision:
        return Decision(action, reason, compared)

    if evidence.breaker:
        return decided("roll_back", reasons.broken(evidence.breaker))
    if not shadow and (mismatch := bounds.mismatch(evidence, rules)):
        return decided("stop", mismatch)
    if harmed := [bound for bound in compared if bound.state == "harmed"]:
        return decided("roll_back", reasons.harmed(harmed))
    labelled, matured = _units(evidence, shadow)
    last = evidence.stage == len(rules.shares) - 1
    doubtful = [bound for bound in compared if (bound.state != "not_worse" if last else _seems_worse(bound))]
    missing = reasons.missing(labelled, matured, evidence, rules) or reasons.undecided(doubtful)
    if not missing:
        if last:
            return decided("promote", reasons.clear(compared))
        return decided("advance", reasons.full(evidence, labelled))
    if matured >= rules.max_units and evidence.hours >= rules.min_hours:
        return decided("stop", reasons.through(matured, rules.max_units, missing))
    if evidence.hours >= rules.max_hours:
        return decided("stop", reasons.too_long(evidence.hours, rules.max_hours, missing))
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
    first, second = evidence.champion, evidence.challenger
    labelled = first.score.count + second.score.count if first.score.count and second.score.count else 0
    return labelled, first.matured + second.matured
