"""Whole rollouts of imagined challengers, decided by `decide_rollout` itself after every batch: how often it errs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from statistics import median
from typing import Any

import numpy as np

from dl_pipelines.brief.live import Rollout
from dl_pipelines.lifecycle.imagined import Scenario, looks
from dl_pipelines.lifecycle.rollout import decide_rollout

PORTION = 25
"""Runs that a process is given at once."""


@dataclass(frozen=True)
class Run:
    """How one rollout ended: the last action, its stage and reason, the requests from the start, the bad answers.

    `bad_answers` went to clients and were worse because of the challenger: it failed and the champion answered after
    it, or it was wrong where the champion is right, or it took longer than the champion's quantile with the margin on
    top and would not have without `added_ms`.
    """

    action: str
    stage: int
    requests: int
    bad_answers: int
    reason: str


def simulate_one(scenario: Scenario, rules: Rollout, margin: float, seed: Sequence[int]) -> Run:
    """One rollout from its first stage to its end. The same seed gives the same run."""
    random, requests, bad = np.random.default_rng(seed), 0, 0
    for stage in range(len(rules.shares)):
        for look, (evidence, given) in enumerate(looks(scenario, rules, stage, random), start=1):
            decision = decide_rollout(evidence, rules, margin)
            if decision.action == "wait":
                continue
            requests, bad = requests + look * scenario.batch, bad + given
            if decision.action != "advance":
                return Run(decision.action, stage, requests, bad, decision.reason)
            break
    raise AssertionError("the last stage has no next one")


def simulate(
    scenario: Scenario,
    rules: Rollout,
    margin: float,
    runs: int,
    seed: int = 0,
    processes: int = 1,
    done: Callable[[int], None] = lambda _: None,
) -> list[Run]:
    """`runs` rollouts; run i depends on the seed and i, not on `processes`. `done` is told how many have ended."""
    portions = [range(start, min(start + PORTION, runs)) for start in range(0, runs, PORTION)]
    found: dict[int, list[Run]] = {}
    if processes <= 1:
        for number, portion in enumerate(portions):
            found[number] = _portion(scenario, rules, margin, seed, portion)
            done(portion.stop)
    else:
        with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
            waiting = {
                pool.submit(_portion, scenario, rules, margin, seed, portion): number
                for number, portion in enumerate(portions)
            }
            try:
                for ended in as_completed(waiting):
                    found[waiting[ended]] = ended.result()
                    done(sum(map(len, found.values())))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return [run for number in range(len(portions)) for run in found[number]]


def _portion(scenario: Scenario, rules: Rollout, margin: float, seed: int, numbers: range) -> list[Run]:
    return [simulate_one(scenario, rules, margin, [seed, number]) for number in numbers]


def upper_bound(count: int, of: int) -> float:
    """Of a rate, at 95 % (one-sided), exact: Clopper and Pearson, Biometrika 1934."""
    from scipy.stats import beta

    return 1.0 if count >= of else float(beta.ppf(0.95, count + 1, of - count))


def summary(runs: Sequence[Run], scenario: Scenario, rules: Rollout, margin: float) -> dict[str, Any]:
    """What the runs say, as plain data. An error that this challenger can't cause is null.

    A promotion is false of a challenger that is worse by a margin, or no better than -`margin` in its accuracy.
    """
    worse = scenario.worse(rules, margin)
    actions = Counter(run.action for run in runs)
    rolled_back = [run for run in runs if run.action == "roll_back"]
    distrusted = sum(run.action == "stop" and "can't be compared" in run.reason for run in runs)
    return {
        "runs": len(runs),
        "scenario": {**asdict(scenario), "disagreement": scenario.disagreement},
        "rules": rules.model_dump(),
        "margin": margin,
        "actions": {action: actions[action] for action in ("promote", "roll_back", "stop")},
        "false_promotions": _rate(actions["promote"], runs) if worse or scenario.effect <= -margin else None,
        "power": None if worse or scenario.effect <= -margin else _rate(actions["promote"], runs),
        "detected": _rate(len(rolled_back), runs) if worse else None,
        "false_rollbacks": None if worse else _rate(len(rolled_back), runs),
        "false_mismatches": _rate(distrusted, runs),
        "requests_until_rollback": _spread([run.requests for run in rolled_back]),
        "bad_answers_before_rollback": _spread([run.bad_answers for run in rolled_back]),
        "requests_until_the_end": _spread([run.requests for run in runs]),
        "ended_in_stage": dict(sorted(Counter(run.stage for run in runs).items())),
    }


def _rate(count: int, runs: Sequence[Run]) -> dict[str, float]:
    return {"count": count, "rate": count / len(runs), "upper_95": upper_bound(count, len(runs))}


def _spread(values: list[int]) -> dict[str, float] | None:
    if not values:
        return None
    high = sorted(values)[math.ceil(0.95 * len(values)) - 1]
    return {"median": median(values), "p95": high, "max": max(values), "total": sum(values)}
