"""The reasons of decisions on a challenger, as sentences with their numbers for a person; nothing is decided here."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dl_pipelines.brief.live import Rollout
    from dl_pipelines.lifecycle.rollout_evidence import Bound, Evidence


def told(bound: Bound) -> str:
    """A bound in words, as `score better by 0.012 [0.003, 0.021], margin 0`."""
    if bound.value is None:
        return f"{bound.name} not compared yet, margin {bound.margin:g}"
    low, high = ("open" if end is None else f"{end:+.4g}" for end in (bound.low, bound.high))
    word = f"{'better' if bound.value > 0 else 'worse'} by {abs(bound.value):.4g}" if bound.value else "equal"
    return f"{bound.name} {word} [{low}, {high}], margin {bound.margin:g}"


def broken(why: str) -> str:
    """The router gave the challenger up."""
    return f"the router's breaker is open: {why}"


def mismatch(test: str, ours: int, of: int, share: float, evidence: float, alpha: float) -> str:
    """Units, or labels, did not split as they had to."""
    what, cause = {
        "split": ("units", "lost log records or clients that are not assigned"),
        "labels": ("units with a label", "labels that depend on the answer"),
    }[test]
    return (
        f"{ours} of {of} {what} are the challenger's ({ours / of:.2%}), expected were {share:.2%}: chance explains "
        f"it with at most {math.exp(-evidence):.1e}, allowed {alpha:.1e}; the arms can't be compared, look for {cause}"
    )


def harmed(bounds: Iterable[Bound]) -> str:
    """What is worse, beyond doubt."""
    return "harmed: " + "; ".join(map(told, bounds))


def missing(labelled: int, matured: int, evidence: Evidence, rules: Rollout) -> str:
    """What a stage lacks before anything good may be said; empty when nothing."""
    if not matured:
        return f"no unit is old enough for a label yet ({rules.label_hours:g} h)"
    if not labelled:
        return f"{matured} units are old enough for a label, and none can be compared: labels are missing"
    if labelled < rules.min_units:
        return f"{labelled} of at least {rules.min_units} units with a label ({matured} are old enough for one)"
    if evidence.hours < rules.min_hours:
        return f"{evidence.hours:.2g} of at least {rules.min_hours:g} hours"
    return ""


def full(evidence: Evidence, labelled: int) -> str:
    """A stage has run its course."""
    return (
        f"stage {evidence.stage} is through: {labelled} units with a label in {evidence.hours:.3g} hours, no harm shown"
    )


def clear(bounds: Iterable[Bound]) -> str:
    """Why it may take over."""
    return "not worse, beyond doubt: " + "; ".join(map(told, bounds))


def undecided(bounds: Iterable[Bound]) -> str:
    """What keeps it from being promoted, or from the next stage; empty when nothing."""
    listed = "; ".join(map(told, bounds))
    return listed and f"undecided: {listed}"


def through(matured: int, most: int, last: str) -> str:
    """The stage has had enough units."""
    return f"no decision after {matured} units (rollout.max_units {most}): {last}"


def too_long(hours: float, most: float, last: str) -> str:
    """The stage has had enough time: whoever waits for it waits no longer."""
    return f"no decision after {hours:.0f} hours (rollout.max_hours {most:g}): {last}"
