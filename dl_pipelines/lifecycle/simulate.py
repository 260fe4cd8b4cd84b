"""Whole rollouts of imagined challengers, decided by `decide_rollout` itself after every batch: how often it errs."""

from __future__ import annotations

import contextlib
import json
import math
import selectors
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import IO, Any

import numpy as np

from dl_pipelines.brief.live import Rollout
from dl_pipelines.lifecycle.imagined import Scenario, looks
from dl_pipelines.lifecycle.rollout import decide_rollout
from dl_pipelines.training.launch import die_with_parent, worker_environment


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
    scenario: Scenario, rules: Rollout, margin: float, runs: int, seed: int = 0, processes: int = 1,
    done: Callable[[int], None] = lambda _: None,
) -> list[Run]:  # fmt: skip
    """`runs` rollouts; run i depends on the seed and i, not on `processes`. `done` is told how many have ended.

    Raises RuntimeError when one of several processes did not end well.
    """
    found: dict[int, Run] = {}
    if processes <= 1:
        for number in range(runs):
            found[number] = simulate_one(scenario, rules, margin, [seed, number])
            done(len(found))
        return list(found.values())
    job = {"scenario": asdict(scenario), "rules": rules.model_dump(), "margin": margin, "seed": seed, "runs": runs}
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(_worker({**job, "first": first, "step": processes})) for first in range(processes)
        ]
        with selectors.DefaultSelector() as waiting:
            for worker in workers:
                waiting.register(_output(worker), selectors.EVENT_READ, worker)
            while waiting.get_map():
                for key, _ in waiting.select():
                    if line := _output(key.data).readline():
                        number, run = json.loads(line)
                        found[number] = Run(**run)
                        done(len(found))
                    else:
                        waiting.unregister(key.fileobj)
    if len(found) < runs:
        codes = ", ".join(str(worker.wait()) for worker in workers)
        raise RuntimeError(f"found {len(found)} of {runs} runs; the processes ended with {codes}: run it again")
    return [found[number] for number in range(runs)]


@contextlib.contextmanager
def _worker(job: Mapping[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that does every `step`-th run from `first` on and writes each as a line; killed when left."""
    command = [*die_with_parent("KILL"), sys.executable, "-m", "dl_pipelines.lifecycle.simulate", json.dumps(job)]
    worker = subprocess.Popen(
        command, stdout=subprocess.PIPE, start_new_session=True, env=worker_environment(1), bufsize=0
    )
    try:
        yield worker
    finally:
        worker.kill()
        worker.wait()
        _output(worker).close()


def _output(worker: subprocess.Popen[bytes]) -> IO[bytes]:
    assert worker.stdout is not None
    return worker.stdout


def _work(job: Mapping[str, Any]) -> None:
    scenario, rules = Scenario(**job["scenario"]), Rollout(**job["rules"])
    for number in range(job["first"], job["runs"], job["step"]):
        run = simulate_one(scenario, rules, job["margin"], [job["seed"], number])
        print(json.dumps([number, asdict(run)]), flush=True)


def rate_bounds(count: int, of: int) -> tuple[float, float]:
    """The lower and the upper bound of a rate, each at 95 %, exact: Clopper and Pearson, Biometrika 1934."""
    from scipy.stats import beta

    low = float(beta.ppf(0.05, count, of - count + 1)) if count else 0.0
    return low, float(beta.ppf(0.95, count + 1, of - count)) if count < of else 1.0


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
    low, high = rate_bounds(count, len(runs))
    return {"count": count, "rate": count / len(runs), "lower_95": low, "upper_95": high}


def _spread(values: list[int]) -> dict[str, float] | None:
    if not values:
        return None
    high = sorted(values)[math.ceil(0.95 * len(values)) - 1]
    return {"median": median(values), "p95": high, "max": max(values), "total": sum(values)}


if __name__ == "__main__":
    _work(json.loads(sys.argv[1]))
