"""The decision on a challenger in a live experiment: a pure function of counted evidence, which the sensor carries out.

One stage is looked at, by itself: of each arm the units assigned to it, its failures, latencies and scores. What may be
looked at as often as one likes is in sequential.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from dl_pipelines.brief.live import Rollout

Action = Literal["wait", "advance", "promote", "roll_back", "stop"]
"""`stop`: the evidence can't be trusted or no decision came; the challenger is taken out, nothing is said of it."""
State = Literal["harmed", "undecided", "not_worse"]


@dataclass(frozen=True)
class Moments:
    """Of values between -1 and 1, one a unit: how many, their sum, their sum of squares."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0


@dataclass(frozen=True)
class ArmEvidence:
    """What one arm did in the stage. In a shadow stage both arms have seen every unit.

    `latency` counts answered requests by the bin of their time in the router (`latency_bin`). `score` is of units whose
    requests are old enough for a label and have one: the mean of the unit's scores (Task.scores).
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

    `paired`: of units that both answered (a shadow stage), the challenger's score minus the champion's. `breaker` is
    why the router gave the challenger up, if it did.
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


def decide_rollout(evidence: Evidence, rules: Rollout, margin: float) -> Decision:
    """What the evidence of a stage says; `margin` >= 0 (lifecycle.margin) is of the score. Missing data never promotes.

    Roll back when the primary metric or a guardrail is harmed, or the router's breaker opened. Stop when more units
    came to one arm than its share explains, or labels to one arm sooner than to the other, or `max_units` are through.
    Advance after `min_units` and `min_hours`; from the last stage promote when the primary metric's lower bound clears
    -margin and every guardrail is not worse.
    """
    raise NotImplementedError
