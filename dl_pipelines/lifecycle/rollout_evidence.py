"""What a live experiment is decided on, and what a decision is, as plain frozen data that go through JSON and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from dl_pipelines.lifecycle.sequential import Moments

Action = Literal["wait", "advance", "promote", "roll_back", "stop"]
"""`stop`: the evidence can't be trusted or no decision came; the challenger is taken out, nothing is said of it."""
State = Literal["harmed", "undecided", "not_worse"]


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


@dataclass(frozen=True)
class ArmEvidence:
    """What one arm did in the stage. In a shadow stage units, requests, failures and times are of what both were shown.

    `failed` are the `requests` that this arm's model did not answer well, or in time. `latency` counts answers by the
    bin of the time that was spent in models (`latency_bin`). `matured` are units with an answer that is old enough for
    a label, `labelled` those of them that have one. `score` is of labelled units: the mean of the unit's scores
    (Task.scores) of what its client was given, whoever answered.
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
