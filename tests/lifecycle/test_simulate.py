"""Simulated rollouts: the traffic is what was asked for, the decision is the sensor's own, and it errs as promised."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from dl_pipelines.brief.live import Rollout
from dl_pipelines.lifecycle import experiment, imagined, simulate
from dl_pipelines.lifecycle.imagined import Scenario, looks
from dl_pipelines.lifecycle.rollout import Decision, bin_edges
from dl_pipelines.lifecycle.simulate import Run, rate_bounds, simulate_one, summary

RULES = Rollout()
SHORT = Rollout(shares=(0, 0.5), min_units=200, max_units=2000)
HARMS = [{"more_failures": 0.2}, {"added_ms": 200.0}, {"effect": -0.03}]


def after(scenario, stage, requests, rules=RULES):
    batches = requests // scenario.batch
    return next(islice(looks(scenario, rules, stage, np.random.default_rng(0)), batches - 1, None))


def near(count, of, rate):
    """Whether so many are what a rate would give, but for one seed in a thousand."""
    return stats.binomtest(int(count), int(of), rate).pvalue > 1e-3


def test_a_shadow_stage_is_what_was_asked_for():
    scenario = Scenario(accuracy=0.95, effect=-0.02, failures=0.01, more_failures=0.04, median_ms=30, spread=0.3)
    evidence, bad = after(scenario, 0, 20_000)
    first, second, pairs = evidence.champion, evidence.challenger, evidence.paired
    assert first.requests == 20_000
    assert first.units == second.units == second.requests == 20_000 - first.failed, "an error is shown to no shadow"
    assert near(first.failed, 20_000, 0.01)
    assert near(second.failed, second.requests, 0.05)
    assert sum(first.latency.values()) == sum(second.latency.values()) == second.requests - second.failed
    assert near(first.score.total, first.score.count, 0.95)
    assert near(second.score.total, second.score.count, 0.93)
    assert near(pairs.squares, pairs.count, scenario.disagreement)
    assert near((pairs.squares - pairs.total) / 2, pairs.count, (scenario.disagreement + 0.02) / 2)
    assert bad == 0


def test_mistakes_are_as_correlated_as_was_asked_for():
    scenario = Scenario(accuracy=0.9, effect=-0.05, correlation=0.4)
    one, two = 0.1, 0.15
    together = (one + two - scenario.disagreement) / 2
    assert (together - one * two) / np.sqrt(one * 0.9 * two * 0.85) == pytest.approx(0.4)
    assert Scenario(accuracy=0.99, effect=-0.09, correlation=1).disagreement == pytest.approx(0.09)


def test_a_split_stage_is_what_was_asked_for():
    scenario = Scenario(failures=0.02, more_failures=0.03, added_ms=15, median_ms=40, spread=0.2)
    evidence, bad = after(scenario, 2, 40_000)
    first, second = evidence.champion, evidence.challenger
    assert evidence.paired is None
    assert first.units + second.units == 40_000
    assert near(second.units, 40_000, 0.1)
    assert near(first.failed, first.requests, 0.02)
    assert near(second.failed, second.requests, 0.05)
    assert first.labelled == first.requests - first.failed  # an error is no answer to be judged
    assert second.labelled == second.requests  # the champion answered for it
    limit = 40 * np.exp(0.2 * stats.norm.ppf(0.95)) * 1.25
    base = stats.norm.cdf(np.log(limit / 40) / 0.2) - stats.norm.cdf(np.log((limit - 15) / 40) / 0.2)
    expected = 1 - 0.95 * (1 - base) * (1 - scenario.disagreement / 2)
    assert near(bad, second.requests, expected)


def test_times_are_lognormal_and_longer_by_what_was_added():
    scenario = Scenario(added_ms=200, failures=0)
    evidence, _ = after(scenario, 0, 20_000)
    for arm, added in ((evidence.champion, 0), (evidence.challenger, 200)):
        histogram = sorted(arm.latency.items())
        middle = np.searchsorted(np.cumsum([count for _, count in histogram]), 10_000)
        low, high = bin_edges(histogram[middle][0])
        assert low * 0.95 < 20 + added < high * 1.05
    assert scenario.quantile_ms(0.95) == pytest.approx(stats.lognorm.ppf(0.95, 0.4, scale=20))


SLOW = Scenario(
    median_ms=200, added_ms=60, spread=0.3, timeout_ms=300, breaker=10**9, failures=0.02, more_failures=0.03
)
LATE, ITS_LATE = (stats.lognorm.sf(300 - added, 0.3, scale=200) for added in (0, 60))


def test_a_challenger_is_not_waited_for_after_the_limit_of_the_router():
    evidence, bad = after(SLOW, 2, 40_000)
    first, second = evidence.champion, evidence.challenger
    assert near(first.failed, first.requests, 1 - 0.98 * (1 - LATE)), "a champion's late answer is a failure, too"
    assert near(second.failed, second.requests, 1 - 0.95 * (1 - ITS_LATE))
    assert (SLOW.failing(False), SLOW.failing(True)) == pytest.approx(
        (1 - 0.98 * (1 - LATE), 1 - 0.95 * (1 - ITS_LATE))
    )
    assert near(first.labelled, first.requests, 0.98), "late, it is given all the same"
    assert second.labelled == second.requests == sum(second.latency.values()), "the champion answered for it"
    assert near(second.score.total, second.score.count, 0.97)
    at_limit = max(second.latency)
    assert bin_edges(at_limit)[0] <= 300 < bin_edges(at_limit)[1] and max(first.latency) == at_limit
    assert second.latency[at_limit] >= second.failed * ITS_LATE, "and no time is longer"
    assert bad >= second.failed


def test_a_shadow_that_is_late_has_a_time_and_one_that_fails_has_none():
    evidence, _ = after(SLOW, 0, 20_000)
    first, second = evidence.champion, evidence.challenger
    assert near(second.failed, second.requests, 1 - 0.95 * (1 - ITS_LATE))
    assert near(evidence.paired.count, second.requests, 0.95 * (1 - ITS_LATE))
    timed = sum(second.latency.values())
    assert timed == sum(first.latency.values()) and near(timed, second.requests, 1 - 0.05 * (1 - ITS_LATE))


def test_a_shadow_that_can_not_keep_up_is_shown_a_part():
    scenario = Scenario(median_ms=30, spread=0.3, added_ms=150, rate=50, failures=0.04, batch=500)
    evidence, _ = after(scenario, 0, 40_000)
    first, second = evidence.champion, evidence.challenger
    share = 2 / (150 + 30 * np.exp(0.3**2 / 2)) * 1000 / 50
    assert 0.1 < share < 0.3 and second.requests == pytest.approx(0.96 * 40_000 * share, rel=0.05)
    assert near(first.failed, first.requests, 0.04), "errors count in proportion"
    assert near(first.matured, 40_000, 0.96), "every answer of the champion has its label"
    assert evidence.paired.count == second.requests - second.failed
    assert after(Scenario(added_ms=10, rate=20), 0, 1000)[0].challenger.requests > 990, "this one keeps up"


def test_the_routers_shadow_has_as_many_calls_as_is_imagined():
    router = Path(__file__).parents[2] / "triton_models" / "router" / "1" / "shadowing.py"
    assert f"\nTHREADS = {imagined.SHADOW_THREADS}\n" in router.read_text()


def test_the_breaker_takes_out_a_challenger_that_is_beyond_the_limit():
    scenario = Scenario(added_ms=600)
    told = summary(simulate.simulate(scenario, RULES, 0.0, runs=5), scenario, RULES, 0.0)
    assert told["actions"] == {"promote": 0, "roll_back": 5, "stop": 0} and told["detected"]["count"] == 5
    assert told["requests_until_rollback"]["max"] == 50, "at the first look"
    found = simulate_one(scenario, RULES, 0.0, [0, 0])
    assert "10 failures in a row" in found.reason
    assert not after(Scenario(more_failures=0.3, breaker=100), 0, 2000)[0].breaker


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("rate", [0, 1000])
def test_failures_in_a_row_are_counted_as_one_by_one(stage, rate):
    """Over the bounds of what is drawn at once: against a count request by request."""
    scenario = Scenario(more_failures=0.5, breaker=10, rate=rate, batch=10)
    opened = []
    for seed in range(20):
        random, row, rows = np.random.default_rng(seed), 0, []
        for _ in range(3):
            drawn = imagined._Drawn(scenario, RULES, random)
            drawn.shadow() if stage == 0 else drawn.split(0.1)
            found, after_it = drawn.breaker(row)
            first = None
            for at in zip(*np.nonzero(drawn.asked), strict=True):
                row = row + 1 if drawn.its_failed[at] else 0
                first = at[0] if first is None and row >= 10 else first
            rows.append((found, after_it) == (first, row))
            opened.append(found)
        assert all(rows)
    assert None in opened and any(place is not None for place in opened)


def test_what_is_worse_goes_by_the_limit():
    rules = RULES
    assert Scenario(median_ms=200, spread=0.2, added_ms=40, timeout_ms=300).worse(rules, 0.0), "more are late"
    assert not Scenario(median_ms=200, spread=0.2, added_ms=40).worse(rules, 0.0)
    assert not Scenario(median_ms=2000, added_ms=1, timeout_ms=100).worse(rules, 0.0), "neither is ever in time"


def test_labels_come_late():
    evidence, _ = after(Scenario(label_delay=120, failures=0), 0, 1000)
    assert evidence.champion.requests == 1000
    assert evidence.paired.count == 850  # whole batches


def test_it_is_the_decision_of_the_sensor_that_is_asked(monkeypatch):
    assert simulate.decide_rollout is experiment.decide_rollout
    seen = []

    def decide(evidence, rules, margin):
        seen.append((evidence.stage, evidence.champion.units + evidence.challenger.units, margin))
        return Decision(("wait", "advance", "wait", "promote")[len(seen) - 1], "because")

    monkeypatch.setattr(simulate, "decide_rollout", decide)
    found = simulate_one(Scenario(), SHORT, 0.25, [0, 0])
    assert (found.action, found.stage, found.requests, found.reason) == ("promote", 1, 200, "because")
    assert seen == [(0, 100, 0.25), (0, 200, 0.25), (1, 50, 0.25), (1, 100, 0.25)]


def test_a_run_depends_on_its_number_alone():
    given = Scenario(effect=-0.02), SHORT, 0.0
    told = []
    alone = simulate.simulate(*given, runs=6, seed=3, done=told.append)
    assert told == [1, 2, 3, 4, 5, 6]
    assert simulate.simulate(*given, runs=6, seed=3, processes=2) == alone
    assert simulate.simulate(*given, runs=6, seed=4) != alone


def test_a_process_that_dies_is_told(monkeypatch, tmp_path):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexit 7\n")
    program.chmod(0o755)
    monkeypatch.setattr(simulate.sys, "executable", str(program))
    with pytest.raises(RuntimeError, match="found 0 of 5 runs; the processes ended with 7, 7: run it again"):
        simulate.simulate(Scenario(), SHORT, 0.0, runs=5, processes=2)


def test_as_good_a_challenger_is_promoted_no_more_often_than_promised():
    rules = SHORT.model_copy(update={"alpha": 0.05, "harm_alpha": 0.05})
    found = simulate.simulate(Scenario(accuracy=0.9), rules, 0.0, runs=100)
    told = summary(found, Scenario(accuracy=0.9), rules, 0.0)
    for name in ("false_promotions", "false_rollbacks"):
        assert stats.binomtest(told[name]["count"], 100, 0.05, alternative="greater").pvalue > 1e-3
    assert told["power"] is told["detected"] is None
    assert told["actions"]["stop"] > 50


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: next(iter(harm)))
def test_a_harmful_challenger_is_taken_out_before_a_client_sees_it(harm):
    scenario = Scenario(**harm)
    found = simulate.simulate(scenario, RULES, 0.0, runs=25, seed=1)
    told = summary(found, scenario, RULES, 0.0)
    assert told["actions"] == {"promote": 0, "roll_back": 25, "stop": 0}
    assert told["requests_until_rollback"]["max"] <= 2000
    assert told["bad_answers_before_rollback"]["max"] == 0
    assert told["detected"]["rate"] == 1
    assert told["false_rollbacks"] is None


def test_a_better_challenger_is_promoted():
    scenario = Scenario(accuracy=0.8, effect=0.1)
    told = summary(simulate.simulate(scenario, RULES, 0.0, runs=8), scenario, RULES, 0.0)
    assert told["power"]["count"] == 8
    assert told["false_promotions"] is None
    assert told["ended_in_stage"] == {3: 8}


def test_without_shadow_clients_pay_for_a_harmful_one():
    rules = Rollout(shares=(0.5,))
    told = summary(simulate.simulate(Scenario(effect=-0.2), rules, 0.0, runs=5), Scenario(effect=-0.2), rules, 0.0)
    assert told["actions"]["roll_back"] == 5
    assert told["bad_answers_before_rollback"]["median"] > 5


@pytest.mark.parametrize(("count", "of"), [(0, 10_000), (1, 20), (63, 10_000), (100, 100)])
def test_rates_are_bounded_as_scipy_has_it(count, of):
    interval = stats.binomtest(count, of).proportion_ci(0.9, "exact")
    assert rate_bounds(count, of) == pytest.approx((interval.low, interval.high))


def test_a_summary_is_plain_data():
    runs = [
        Run("stop", 3, 500, 2, "1 of 9 units are the challenger's; the arms can't be compared, look for"),
        Run("roll_back", 0, 100, 0, "harmed"),
        Run("roll_back", 1, 300, 4, "harmed"),
        Run("promote", 3, 900, 1, "not worse"),
    ]
    told = json.loads(json.dumps(summary(runs, Scenario(), RULES, 0.0)))
    assert told["actions"] == {"promote": 1, "roll_back": 2, "stop": 1}
    assert told["false_promotions"]["count"] == told["false_mismatches"]["count"] == 1
    assert told["false_rollbacks"]["rate"] == 0.5
    assert told["requests_until_rollback"] == {"median": 200, "p95": 300, "max": 300, "total": 400}
    assert told["bad_answers_before_rollback"] == {"median": 2, "p95": 4, "max": 4, "total": 4}
    assert told["scenario"]["disagreement"] == pytest.approx(0.0291)
    as_allowed = summary(runs, Scenario(effect=-0.01), RULES, 0.02)
    assert as_allowed["false_promotions"] is None
    assert as_allowed["power"]["count"] == 1
    assert summary(runs, Scenario(effect=-0.02), RULES, 0.02)["false_promotions"]["count"] == 1
    assert summary(runs, Scenario(added_ms=20), RULES, 0.02)["detected"]["count"] == 2


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"accuracy": 1.2}, "found accuracies 1.2 and 1.2; expected both from 0 to 1"),
        ({"effect": 0.5}, "found accuracies 0.97 and 1.47; expected both from 0 to 1"),
        ({"correlation": -1}, "found a correlation of -1; expected 0 to 1"),
        ({"more_failures": 1}, "found shares of failures 0.001 and 1.001; expected both from 0 to 1"),
        ({"median_ms": 0}, "found times that can't be; expected a median and a spread above 0, and 0 or more added"),
        ({"rate": -1}, "found the limit 500 ms, the breaker 10 and -1 requests a second; expected above 0, 1 or more"),
        ({"batch": 0}, "found a batch of 0 requests and labels after 0; expected 1 and 0 or more"),
    ],
)
def test_a_scenario_that_can_not_be_is_refused(given, told):
    with pytest.raises(ValueError, match=told):
        Scenario(**given)
