"""Decisions on a challenger: every action and every reason, from evidence that is written down here."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from dl_pipelines.brief.live import Rollout
from dl_pipelines.lifecycle.rollout import (
    ArmEvidence,
    Evidence,
    Moments,
    RolloutError,
    bin_edges,
    decide_rollout,
    latency_bin,
)
from dl_pipelines.lifecycle.rollout_bounds import HARM, WAY_MS, harm_alpha

RULES = Rollout()
SHADOW, LAST = 0, 3
QUICK = [10.0, 12.0, 15.0, 20.0]
SLOW = [3 * time for time in QUICK]


def arm(units, right=0.97, failed=0, times=QUICK, labelled=1.0, matured=1.0):
    """One request a unit; a part of the units is old enough for a label, a part of these has one."""
    old = round(units * matured)
    known = round(old * labelled)
    answered = units - failed
    histogram = {}
    for number, time in enumerate(times):
        histogram[latency_bin(time)] = answered // len(times) + (number < answered % len(times))
    return ArmEvidence(units, units, failed, histogram, old, known, Moments(known, known * right, known * right))


def shadow(units=2000, worse=40, better=60, hours=2.0, challenger=None, **champion):
    """A shadow stage: of its pairs, so many that the challenger or the champion alone got right."""
    its = arm(units, **champion)
    pairs = Moments(its.labelled, better - worse, better + worse) if its.labelled else Moments()
    return Evidence(SHADOW, hours, its, challenger or arm(units, **champion), pairs)


def split(champion, challenger, stage=LAST, hours=2.0, **more):
    return Evidence(stage, hours, champion, challenger, **more)


GOOD = split(arm(12_000), arm(12_000, 0.985))
CASES = {
    "breaker": (
        replace(shadow(30, 0, 0), breaker="10 failures in a row"),
        "roll_back",
        r"the router's breaker is open: 10 failures in a row",
    ),
    "no label yet": (shadow(500, 0, 0, matured=0), "wait", r"no unit is old enough for a label yet \(24 h\)"),
    "labels are missing": (
        shadow(500, 0, 0, labelled=0),
        "wait",
        r"500 units are old enough for a label, and none can be compared: labels are missing",
    ),
    "labels never come": (
        shadow(60_000, 0, 0, labelled=0),
        "stop",
        r"no decision after 60000 units \(rollout.max_units 50000\): 60000 units are old enough .* labels are missing",
    ),
    "labels never come, to few requests": (
        shadow(500, 0, 0, labelled=0, hours=336.0),
        "stop",
        r"no decision after 336 hours \(rollout.max_hours 336\): 500 units are old enough .* labels are missing",
    ),
    "no traffic": (
        shadow(0, 0, 0, hours=400.0),
        "stop",
        r"no decision after 400 hours \(rollout.max_hours 336\): no unit is old enough for a label yet \(24 h\)",
    ),
    "not so long yet": (shadow(500, 0, 0, labelled=0, hours=335.9), "wait", r"500 units are old enough .*"),
    "through, though long": (shadow(hours=400.0), "advance", r"stage 0 is through: .*"),
    "too few": (shadow(1999), "wait", r"1999 of at least 2000 units with a label \(1999 are old enough for one\)"),
    "too soon": (shadow(hours=0.5), "wait", r"0.5 of at least 1 hours"),
    "too soon, though many": (shadow(60_000, hours=0.5), "wait", r"0.5 of at least 1 hours"),
    "advance": (
        shadow(),
        "advance",
        r"stage 0 is through: 2000 units with a label in 2 hours, no harm shown",
    ),
    "seems worse": (
        shadow(worse=60, better=50),
        "wait",
        r"undecided: score worse by 0.005 \[-0.0\d+, \+0.0\d+\], margin 0",
    ),
    "seems worse for long": (
        shadow(50_000, worse=600, better=590),
        "stop",
        r"no decision after 50000 units \(rollout.max_units 50000\): undecided: score worse by 0.0002 .*",
    ),
    "worse": (
        shadow(worse=90, better=20),
        "roll_back",
        r"harmed: score worse by 0.035 \[-0.0\d+, -0.0\d+\], margin 0",
    ),
    "fails": (
        shadow(300, 0, 0, challenger=arm(300, failed=60)),
        "roll_back",
        r"harmed: failures worse by 0.2 \[-0.\d+, -0.\d+\], margin 0.005",
    ),
    "slow": (
        shadow(300, 0, 0, challenger=arm(300, times=SLOW)),
        "roll_back",
        r"harmed: latency p95 worse by 1.832 \[-1.\d+, -1.\d+\], margin 0.25",
    ),
    "worse in all": (
        shadow(2000, 90, 20, challenger=arm(2000, failed=400, times=SLOW)),
        "roll_back",
        r"harmed: score worse .*; failures worse .*; latency p95 worse .*",
    ),
    "uneven split": (
        split(arm(2000), arm(2400)),
        "stop",
        r"2400 of 4400 units are the challenger's \(54.55%\), expected were 50.00%: chance explains it with at most "
        r"\d.\de-\d+, allowed 8.3e-04; the arms can't be compared, look for lost log records or clients that are not "
        r"assigned",
    ),
    "uneven labels": (
        split(arm(2000, labelled=0.5), arm(2000, 0.985, labelled=0.62)),
        "stop",
        r"1240 of 2240 units with a label are the challenger's \(55.36%\), expected were 50.00%: .* look for labels "
        r"that depend on the answer",
    ),
    "uneven, though harmed": (split(arm(2000), arm(2400, 0.5)), "stop", r"2400 of 4400 .*"),
    "one arm has no label": (
        split(arm(3, labelled=0), arm(3)),
        "wait",
        r"6 units are old enough for a label, and none can be compared: labels are missing",
    ),
    "promote": (
        GOOD,
        "promote",
        r"not worse, beyond doubt: score better by 0.015 \[\+0.00\d+, \+0.02\d+\], margin 0; failures equal \[.*\], "
        r"margin 0.005; latency p95 equal \[.*\], margin 0.25",
    ),
    "better, not beyond doubt": (
        split(arm(4000), arm(4000, 0.975)),
        "wait",
        r"undecided: score better by 0.005 \[-0.0\d+, \+0.0\d+\], margin 0",
    ),
    "never beyond doubt": (
        split(arm(25_000), arm(25_000)),
        "stop",
        r"no decision after 50000 units \(rollout.max_units 50000\): undecided: score equal .*",
    ),
    "better, but failures are not ruled out": (
        split(arm(12_000), arm(12_000, 0.985, failed=60)),
        "wait",
        r"undecided: failures worse by 0.005 \[-0.00\d+, -0.00\d+\], margin 0.005",
    ),
    "better, but no latency is known": (
        replace(GOOD, challenger=replace(GOOD.challenger, latency={})),
        "wait",
        r"undecided: latency p95 not compared yet, margin 0.25",
    ),
    "better, but too soon": (replace(GOOD, hours=0.2), "wait", r"0.2 of at least 1 hours"),
    "better in a stage that is not the last": (
        split(arm(21_600), arm(2400, 0.99), stage=2),
        "advance",
        r"stage 2 is through: 24000 units with a label in 2 hours, no harm shown",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_decision_and_its_reason(name):
    evidence, action, reason = CASES[name]
    found = decide_rollout(evidence, RULES, 0.0)
    assert found.action == action
    assert re.fullmatch(reason, found.reason), found.reason
    assert [bound.name for bound in found.bounds] == ["score", "failures", "latency p95"]


def test_every_action_is_in_the_table():
    assert {action for _, action, _ in CASES.values()} == {"wait", "advance", "promote", "roll_back", "stop"}


@pytest.mark.parametrize("name", CASES)
def test_evidence_and_decision_go_through_json(name):
    evidence = CASES[name][0]
    again = Evidence.of(json.loads(json.dumps(evidence.plain())))
    assert again == evidence
    decision = decide_rollout(again, RULES, 0.0)
    assert decision == decide_rollout(evidence, RULES, 0.0)
    plain = json.loads(json.dumps(decision.plain(), allow_nan=False))
    assert plain["bounds"][0]["state"] == decision.bounds[0].state


@pytest.mark.parametrize(("its", "ours", "state"), [(0.1, 0.25, "not_worse"), (0.1, 0.6, "harmed"), (5, 7, "harmed")])
def test_latency_is_a_share_of_what_a_client_waits(its, ours, state):
    """A tenth of a millisecond more or less is nothing beside the way through the server."""
    _, _, latency = decide_rollout(split(arm(20_000, times=[its]), arm(20_000, 0.98, times=[ours])), RULES, 0.01).bounds
    assert latency.state == state
    assert latency.value == pytest.approx((its - ours) / (its + WAY_MS), abs=0.06)


def test_bounds_say_how_much_and_in_what():
    score, failures, latency = decide_rollout(
        split(arm(10_000, failed=100), arm(10_000, 0.95, failed=50, times=SLOW)), RULES, 0.01
    ).bounds
    assert score.value == pytest.approx(-0.02)
    assert (score.margin, score.unit) == (0.01, "score")
    assert failures.value == pytest.approx(0.005)
    assert (failures.margin, failures.unit) == (0.005, "share of requests")
    assert latency.value == pytest.approx(1 - (3 * max(QUICK) + WAY_MS) / (max(QUICK) + WAY_MS), rel=0.08)
    assert (latency.margin, latency.unit, latency.state) == (0.25, "share of the champion's", "harmed")
    assert latency.low < latency.value < latency.high
    nothing = decide_rollout(shadow(20, 0, 0, labelled=0, failed=20), RULES, 0.0).bounds
    assert [bound.value for bound in nothing] == [None, 0, None]
    assert {bound.state for bound in nothing} == {"undecided"}


def test_a_unit_of_many_requests_counts_once():
    """Fifty clients that ask forty times each say as much of failures and times as fifty requests."""
    busy = [
        replace(
            one, units=50, requests=2000, failed=40 * one.failed, latency={at: 40 * n for at, n in one.latency.items()}
        )
        for one in (arm(50), arm(50, failed=4, times=SLOW))
    ]
    once = decide_rollout(shadow(50, 0, 0, challenger=arm(50, failed=4, times=SLOW)), RULES, 0.0)
    assert decide_rollout(Evidence(SHADOW, 2.0, *busy, Moments()), RULES, 0.0).bounds[1:] == once.bounds[1:]
    assert once.bounds[1].state == "undecided"
    many = decide_rollout(shadow(2000, 0, 0, challenger=arm(2000, failed=160, times=SLOW)), RULES, 0.0)
    assert many.bounds[1].state == "harmed"


def test_a_margin_lets_as_good_a_challenger_through_and_no_margin_does_not():
    equal = split(arm(20_000), arm(20_000))
    assert decide_rollout(equal, RULES, 0.01).action == "promote"
    assert decide_rollout(equal, RULES, 0.0).action == "wait"


def test_a_challenger_worse_by_less_than_the_margin_is_not_harmed():
    evidence = shadow(20_000, worse=700, better=500)
    assert decide_rollout(evidence, RULES, 0.0).action == "roll_back"
    assert decide_rollout(evidence, RULES, 0.05).action == "advance"


def test_rules_without_shadow_or_with_one_stage():
    one = Rollout(shares=(0.5,))
    assert decide_rollout(replace(GOOD, stage=0), one, 0.0).action == "promote"
    assert harm_alpha(one, 0, "score") == pytest.approx(0.4 * one.harm_alpha)


@pytest.mark.parametrize("shares", [(0.5,), (0, 0.5), (0, 0.01, 0.1, 0.5)])
def test_what_takes_a_challenger_out_errs_no_more_than_allowed_in_all(shares):
    rules = Rollout(shares=shares, harm_alpha=0.03)
    spent = [harm_alpha(rules, stage, test) for stage in range(len(shares)) for test in HARM]
    assert math.fsum(spent) == pytest.approx(0.03)


@pytest.mark.parametrize(
    ("evidence", "margin", "told"),
    [
        (replace(GOOD, stage=4), 0, "found stage 4; expected 0 to 3, as rollout.shares says"),
        (GOOD, -0.1, "found the margin -0.1; expected 0 or more"),
        (GOOD, float("nan"), "found the margin nan; expected 0 or more"),
        (
            replace(shadow(), paired=None),
            0,
            "found no paired scores in a shadow stage; expected `paired`, if only of 0 units",
        ),
        (
            split(replace(arm(10), matured=9), arm(10)),
            0,
            "found of the champion 9 units old enough for a label, 10 with one, 10 with a score, and 0 of 10 requests "
            "failed; expected each to be a part of the one before; count a unit once",
        ),
        (split(arm(10), replace(arm(10), failed=11)), 0, "found of the challenger .* and 11 of 10 requests failed; .*"),
    ],
)
def test_evidence_that_can_not_be_is_refused(evidence, margin, told):
    with pytest.raises(RolloutError) as caught:
        decide_rollout(evidence, RULES, margin)
    assert re.fullmatch(told, str(caught.value))
    assert isinstance(caught.value, ValueError)


def test_bins_are_five_percent_wide_and_hold_their_times():
    for time in np.geomspace(2e-3, 1e6, 500).tolist():
        low, high = bin_edges(latency_bin(time))
        assert low * (1 - 1e-9) <= time <= high * (1 + 1e-9)
        assert high / low == pytest.approx(1.05)
    assert latency_bin(0) == latency_bin(1e-9) == latency_bin(1e-3)
    for bad in (-1.0, math.inf, math.nan):
        with pytest.raises(RolloutError, match=rf"found a latency of {bad} ms; expected 0 or more; leave out requests"):
            latency_bin(bad)
