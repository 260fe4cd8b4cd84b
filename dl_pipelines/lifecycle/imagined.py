"""Imagined traffic of a champion and a challenger, as the evidence that a live stage would have given so far.

Every request is a unit of its own, requests are independent of each other, all labels come. The router's limits are
kept: its timeout, its breaker, and how much of the traffic a shadow is shown. Nothing is decided here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from dl_pipelines.brief.live import Rollout
from dl_pipelines.lifecycle.rollout_bounds import waited
from dl_pipelines.lifecycle.rollout_evidence import STEP, TOO_SHORT, ArmEvidence, Evidence, latency_bin
from dl_pipelines.lifecycle.sequential import Moments

CHUNK = 2000
"""Requests that are drawn at once."""
COLUMNS = 14
"""Per arm: requests, failed, judged, right; of pairs: how many, sum, squares; bad answers; of a shadow stage the
champion's errors and answers."""
SHADOW_THREADS = 2
"""Calls of the shadow under way at once (triton_models/router/1/shadowing.py)."""


@dataclass(frozen=True)
class Scenario:
    """The champion, and what is different about the challenger. Accuracies and shares from 0 to 1, times in ms.

    `correlation` is of the two models' mistakes, at most what their accuracies allow: two pairs of digit classifiers of
    about 97 % and 94 % had 0.48 and 0.57 (means of 6 repeats, docs/log.md). Times are lognormal with the `median_ms`
    and, of their logarithm, the standard deviation `spread`. Labels come `label_delay` requests later.

    `timeout_ms` and `breaker` are the router's (serving.router). At `rate` requests a second a shadow is shown no more
    than it can answer, each in a call of its own; 0: it keeps up with all. Raises ValueError.
    """

    accuracy: float = 0.97
    effect: float = 0.0
    correlation: float = 0.5
    failures: float = 0.001
    more_failures: float = 0.0
    median_ms: float = 20.0
    spread: float = 0.4
    added_ms: float = 0.0
    batch: int = 50
    label_delay: int = 0
    timeout_ms: float = 500.0
    breaker: int = 10
    rate: float = 0.0

    def __post_init__(self) -> None:
        other = self.accuracy + self.effect
        if not (0 <= self.accuracy <= 1 and 0 <= other <= 1):
            raise ValueError(f"found accuracies {self.accuracy:g} and {other:g}; expected both from 0 to 1")
        if not 0 <= self.correlation <= 1:
            raise ValueError(f"found a correlation of {self.correlation:g}; expected 0 to 1")
        if not (0 <= self.failures <= 1 and 0 <= self.failures + self.more_failures <= 1):
            its = self.failures + self.more_failures
            raise ValueError(f"found shares of failures {self.failures:g} and {its:g}; expected both from 0 to 1")
        if not (self.median_ms > 0 and self.spread > 0 and self.added_ms >= 0):
            raise ValueError("found times that can't be; expected a median and a spread above 0, and 0 or more added")
        if self.batch < 1 or self.label_delay < 0:
            raise ValueError(
                f"found a batch of {self.batch} requests and labels after {self.label_delay}; expected 1 and 0 or more"
            )
        if not (self.timeout_ms > 0 and self.breaker >= 1 and self.rate >= 0):
            raise ValueError(
                f"found the limit {self.timeout_ms:g} ms, the breaker {self.breaker} and {self.rate:g} requests a "
                "second; expected above 0, 1 or more, and 0 or more"
            )

    @property
    def disagreement(self) -> float:
        """The share of requests where exactly one of the two is right."""
        mistakes, its = 1 - self.accuracy, 1 - self.accuracy - self.effect
        together = mistakes * its + self.correlation * math.sqrt(mistakes * (1 - mistakes) * its * (1 - its))
        return mistakes + its - 2 * min(together, mistakes, its)

    def quantile_ms(self, quantile: float) -> float:
        """The champion's."""
        return self.median_ms * math.exp(self.spread * NormalDist().inv_cdf(quantile))

    def failing(self, challenger: bool) -> float:
        """The share of requests on which a model fails, or answers after the router's limit."""
        fails, added = (self.failures + self.more_failures, self.added_ms) if challenger else (self.failures, 0.0)
        left = self.timeout_ms - added
        late = 1.0 if left <= 0 else 1 - NormalDist().cdf(math.log(left / self.median_ms) / self.spread)
        return 1 - (1 - fails) * (1 - late)

    def worse(self, rules: Rollout, margin: float) -> bool:
        """Whether the challenger is worse by more than a margin, as the router's limit lets it be seen."""
        at = self.quantile_ms(rules.latency_quantile)
        slower = waited(min(at + self.added_ms, self.timeout_ms)) / waited(min(at, self.timeout_ms)) - 1
        failing = self.failing(True) - self.failing(False)
        return self.effect < -margin or failing > rules.error_margin or slower > rules.latency_margin


def looks(
    scenario: Scenario, rules: Rollout, stage: int, random: np.random.Generator
) -> Iterator[tuple[Evidence, int]]:
    """The evidence of a stage after each batch, and the bad answers in it so far, without end."""
    late, shadow = math.ceil(scenario.label_delay / scenario.batch), rules.shares[stage] == 0
    longest = min(2 * scenario.quantile_ms(1 - 1e-9) + scenario.added_ms, scenario.timeout_ms)
    bins = range(latency_bin(min(scenario.quantile_ms(1e-9), longest)), latency_bin(longest) + 1)
    carried, times = np.zeros(COLUMNS, np.int64), np.zeros((2, len(bins)), np.int64)
    before: list[list[int]] = [[0] * COLUMNS] * late
    row, broken = 0, ""
    while True:
        drawn = _Drawn(scenario, rules, random)
        counts = carried + (drawn.shadow() if shadow else drawn.split(rules.shares[stage])).cumsum(0)
        histograms = times[:, None] + drawn.histograms(bins).cumsum(1)
        opened, row = drawn.breaker(row)
        carried, times = counts[-1], histograms[:, -1]
        rows, (first, second) = before + counts.tolist(), histograms.tolist()
        before = rows[len(rows) - late :]
        for look, (old, now) in enumerate(zip(rows, rows[late:], strict=False)):
            if opened is not None and look >= opened:
                broken = f"{scenario.breaker} failures in a row"
            unshown = now[12] * now[0] // max(1, now[13])  # the champion's errors, in proportion to what was shown
            arms = [
                ArmEvidence(
                    now[at], now[at] + more, now[at + 1] + more, dict(zip(bins, slots, strict=True)),
                    old[at + 2], old[at + 2], Moments(old[at + 2], old[at + 3], old[at + 3]),
                )
                for at, slots, more in ((0, first[look], unshown), (4, second[look], 0))
            ]  # fmt: skip
            paired = Moments(old[8], old[9], old[10]) if shadow else None
            yield Evidence(stage, rules.min_hours, arms[0], arms[1], paired, broken), now[11]


class _Drawn:
    """Some batches of requests, and what either model would do with each [batches, batch]."""

    def __init__(self, scenario: Scenario, rules: Rollout, random: np.random.Generator):
        self.random, shape = random, (max(1, CHUNK // scenario.batch), scenario.batch)
        alone = (scenario.disagreement - scenario.effect) / 2  # only the champion is right
        of = random.random(shape)
        self.right = of < scenario.accuracy
        self.other = (of < scenario.accuracy - alone) | (
            ~self.right & (of < scenario.accuracy + alone + scenario.effect)
        )
        self.failed = random.random(shape) < scenario.failures
        error = random.random(shape) < scenario.failures + scenario.more_failures
        self.time, plain = scenario.median_ms * np.exp(scenario.spread * random.standard_normal((2, *shape)))
        self.its_time, self.scenario = plain + scenario.added_ms, scenario
        at = scenario.quantile_ms(rules.latency_quantile)
        limit = at + waited(at) * rules.latency_margin
        self.slower = (plain <= limit) & (self.its_time > limit)
        self.late, self.its_late = self.time > scenario.timeout_ms, self.its_time > scenario.timeout_ms
        self.its_failed = error | self.its_late  # it is not waited for any longer
        self.its_time = np.minimum(self.its_time, scenario.timeout_ms)
        self.timed = self.its_timed = self.asked = np.ones(shape, bool)

    def shadow(self) -> np.ndarray:
        """Counts [batches, COLUMNS] where the challenger sees what the champion answered; nobody is given its answer.

        What it can't keep up with is left out. Where it failed before the limit, neither has a time.
        """
        answered, none = ~self.failed, np.zeros_like(self.failed)
        self.asked = shown = answered & self._kept_up()
        both = shown & ~self.its_failed
        self.timed = self.its_timed = both | (shown & self.its_late)
        pairs = np.where(both, self.other.astype(np.int64) - self.right, 0)
        return _sums(
            shown, shown & self.late, answered, self.right & answered,
            shown, shown & self.its_failed, both, self.other & both,
            both, pairs, pairs * pairs, none, self.failed, answered,
        )  # fmt: skip

    def _kept_up(self) -> np.ndarray:
        """What of the traffic a shadow of this speed has room for: the queue before it is short."""
        if not self.scenario.rate:
            return np.ones_like(self.failed)
        share = SHADOW_THREADS * 1000 / self.its_time.mean() / self.scenario.rate
        return self.random.random(self.failed.shape) < share

    def split(self, share: float) -> np.ndarray:
        """The same where a share of the units is the challenger's; for one that it fails on, the champion answers.

        A champion is waited for after the limit, and has failed all the same.
        """
        self.asked = mine = self.random.random(self.right.shape) < share
        none = np.zeros_like(self.failed)
        given = np.where(self.its_failed, self.right, self.other)
        bad = mine & (self.its_failed | (self.right & ~self.other) | self.slower)
        self.timed, self.its_timed = ~mine & ~self.failed, mine
        self.its_time = self.its_time + np.where(self.its_failed, self.time, 0)
        return _sums(
            ~mine, ~mine & (self.failed | self.late), self.timed, self.timed & self.right,
            mine, mine & self.its_failed, mine, mine & given,
            none, none, none, bad, none, none,
        )  # fmt: skip

    def breaker(self, row: int) -> tuple[int | None, int]:
        """In which batch the router gave the challenger up, if in any, after `row` failures in a row; the row now."""
        failed, batches = self.its_failed[self.asked], np.nonzero(self.asked)[0]
        if not len(failed):
            return None, row
        places = np.arange(1, len(failed) + 1)
        worked = np.maximum.accumulate(np.where(failed, 0, places))
        rows = places - worked + np.where(worked, 0, row)
        opened = np.nonzero(rows >= self.scenario.breaker)[0]
        return (int(batches[opened[0]]) if len(opened) else None), int(rows[-1])

    def histograms(self, bins: range) -> np.ndarray:
        """Answer times by arm [2, batches, bins]."""
        found = []
        for time, kept in ((self.time, self.timed), (self.its_time, self.its_timed)):
            place = np.clip(
                _bins(np.minimum(time, self.scenario.timeout_ms)) - bins.start, 0, len(bins) - 1
            ) + np.arange(len(time))[:, None] * len(bins)
            found.append(np.bincount(place[kept], minlength=len(time) * len(bins)).reshape(len(time), len(bins)))
        return np.stack(found)


def _sums(*columns: np.ndarray) -> np.ndarray:
    return np.stack([column.sum(1) for column in columns], 1)


def _bins(milliseconds: np.ndarray) -> np.ndarray:
    """`latency_bin` of many times."""
    return np.floor(np.log(np.maximum(milliseconds, TOO_SHORT)) / STEP).astype(np.int64)
