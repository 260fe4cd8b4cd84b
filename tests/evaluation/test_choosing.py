"""The choice among candidates: each branch, the front against trying every pair, the fit against its formula."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from dl_pipelines.brief.targets import Target
from dl_pipelines.evaluation.choosing import MEASURES, WEIGHTS, axis, judged, pareto, why


def between(value, low, high):
    return {"value": value, "low": low, "high": high}


def flat(value):
    return between(value, value, value)


def row(name, metric, behind=(0.0, 0.0, 0.0), rows=None, **figures):
    """`behind`: value, low, high of the paired difference to the best; `rows`: over rows alone, by default the same."""
    given = {"latency_ms": 1.0, "throughput": 100.0, "train_seconds": 10.0, "energy_j": 5.0, **figures}
    measures = {key: value if key == "energy_j" or value is None else flat(value) for key, value in given.items()}
    return {
        "candidate": name, "reason": None, "metric": flat(metric), "metrics": {"accuracy": metric}, "size_mb": 0.5,
        "behind": between(*behind), "behind_rows": between(*(rows or behind)), **measures,
    }  # fmt: skip


BEST = row("best", 0.99, latency_ms=3.0, throughput=50.0, train_seconds=30.0, energy_j=9.0)
TIED = row("tied", 0.98, (0.01, -0.001, 0.02), latency_ms=2.0, throughput=90.0, train_seconds=20.0, energy_j=4.0)
WORSE = row("worse", 0.7, (0.29, 0.2, 0.3), latency_ms=0.1, throughput=900.0, train_seconds=1.0, energy_j=0.1)
FAILED = {"candidate": "failed", "reason": "its training with seed 0 failed: found a training loss of nan"}
ALL = [FAILED, BEST, WORSE, TIED]


def choose(rows, priority="accuracy", better="higher"):
    found = judged(rows, better, priority)
    return next((one["candidate"] for one in found if one["chosen"]), None), why(found, "accuracy", better, priority)


@pytest.mark.parametrize(
    ("priority", "name", "does"),
    [
        ("accuracy", "best", "best has the highest accuracy"),
        ("latency", "tied", "tied answers one row soonest"),
        ("throughput", "tied", "tied answers most rows a second"),
        ("cost", "tied", "tied is trained at the lowest cost"),
        ("energy", "tied", "tied needs the least energy for its answers"),
    ],
)
def test_a_tie_is_broken_by_the_priority_and_only_a_tie(priority, name, does):
    found, reason = choose(ALL, priority)
    assert found == name, "the one that is worse beyond its interval would win by each of the others"
    both = {"best": "best and tied", "tied": "tied and best"}[name]
    assert reason == f"{both} can't be told apart by accuracy on validation rows; of these {does}"


def test_the_best_by_more_than_chance_is_chosen_whatever_the_priority():
    told = "best has the best accuracy on validation rows, by more than chance explains against each other one"
    for priority in ("accuracy", *MEASURES):
        assert choose([WORSE, BEST], priority) == ("best", told)


def test_an_interval_that_ends_at_0_is_a_tie():
    edge = row("edge", 0.95, (0.04, 0.0, 0.08), latency_ms=0.5)
    assert choose([BEST, edge], "latency")[0] == "edge"


def test_unsteady_seeds_alone_make_no_tie():
    best, wild = row("best", 0.99), row("wild", 0.8, (0.19, -0.4, 0.8), rows=(0.19, 0.15, 0.23), latency_ms=0.1)
    told = "only their seeds' spread leaves open how far wild fall behind"
    assert choose([wild, best], "latency") == ("best", f"best has the best accuracy on validation rows; {told}")
    unsure = {**best, "metric": between(0.99, 0.79, 1.0)}
    assert choose([wild, unsure], "latency")[0] == "wild", "it lies within the best's own interval"
    near = {**wild, "behind_rows": between(0.19, -0.01, 0.4)}
    assert choose([near, best], "latency")[0] == "wild", "the rows alone do not tell them apart"


def test_unsteady_errors_alone_make_no_tie():
    best, wild = row("best", 0.1), row("wild", 0.3, (0.2, -0.4, 0.8), rows=(0.2, 0.15, 0.23), latency_ms=0.1)
    assert choose([wild, best], "latency", "lower")[0] == "best"
    unsure = {**best, "metric": between(0.1, 0.05, 0.31)}
    assert choose([wild, unsure], "latency", "lower")[0] == "wild"


def test_lower_is_better_for_a_forecast():
    low = row("low", 0.05, latency_ms=2.0)
    high = row("high", 0.06, (0.01, -0.01, 0.02), latency_ms=1.0)
    assert choose([high, low], "accuracy", "lower") == (
        "low", "low and high can't be told apart by accuracy on validation rows; of these low has the lowest accuracy"
    )  # fmt: skip
    assert choose([low, high], "latency", "lower")[0] == "high"


def test_a_measure_that_one_of_the_tied_lacks_decides_nothing():
    found, reason = choose([BEST, {**TIED, "energy_j": None}], "energy")
    assert found == "best"
    assert reason.endswith("best has the highest accuracy (energy_j, the priority's measure, is not known of all)")
    assert choose([BEST, TIED, {**WORSE, "energy_j": None}], "energy")[0] == "tied", "only those that are tied count"


def test_equal_by_the_priority_the_metric_decides_then_the_order():
    slow = row("slow", 0.98, (0.01, -0.01, 0.03), latency_ms=3.0)
    assert choose([slow, BEST], "latency")[0] == "best"
    twin = {**BEST, "candidate": "twin"}
    assert choose([twin, BEST], "latency")[0] == "twin" and choose([BEST, twin])[0] == "best"


def test_who_is_left_alone_and_who_is_not_there():
    assert choose([FAILED, BEST]) == ("best", "best is the only candidate that could be trained and run")
    assert choose([FAILED]) == (None, "no candidate could be trained and run") == choose([])


def test_a_failed_one_is_a_row_without_figures():
    (found, *_) = judged(ALL, "higher", "latency")
    assert found == {**FAILED, "tied": False, "chosen": False, "pareto": False, "fit": None, "fit_parts": {}}


@pytest.mark.parametrize(("better", "priority"), [*itertools.product(("higher", "lower"), ("accuracy", *MEASURES))])
def test_the_front_is_what_trying_every_pair_leaves(better, priority):
    rng = np.random.default_rng(len(priority))
    rows = [
        row(f"c{place}", float(rng.integers(1, 6)), latency_ms=float(rng.integers(1, 6)),
            throughput=float(rng.integers(1, 6)), train_seconds=float(rng.integers(1, 6)),
            energy_j=float(rng.integers(1, 6)))
        for place in range(12)
    ]  # fmt: skip
    name, direction, _ = MEASURES["latency" if priority == "accuracy" else priority]

    def points(one):
        measure = one[name] if name == "energy_j" else one[name]["value"]
        up, right = (1 if way == "higher" else -1 for way in (better, direction))
        return one["metric"]["value"] * up, measure * right

    expected = [
        one["candidate"] for one in rows
        if not any(
            all(a >= b for a, b in zip(points(other), points(one), strict=True)) and points(other) != points(one)
            for other in rows
        )
    ]  # fmt: skip
    assert [one["candidate"] for one in pareto(rows, better, priority)] == expected
    assert [one["candidate"] for one in judged(rows, better, priority) if one["pareto"]] == expected


def test_without_the_measure_of_each_the_front_is_against_latency():
    rows = [BEST, {**TIED, "energy_j": None}]
    assert axis(rows, "energy") == "latency" and axis([BEST, TIED], "energy") == "energy"
    assert axis(rows, "accuracy") == "latency"


TARGETS = [
    Target(metric="accuracy", value=0.985, where="trained"),
    Target(metric="latency_p50_ms", op="<=", value=2.5, where="compressed"),
    Target(metric="size_mb", op="<=", value=1),
    Target(metric="latency_p95_ms", op="<=", value=1),
    Target(metric="accuracy", value=2, slice="class 3", where="trained"),
    Target(metric="f1", value=2),
]


def test_fit_by_its_formula():
    found = {one["candidate"]: one for one in judged(ALL, "higher", "latency", TARGETS)}
    assert found["best"]["fit_parts"] == {"metric": 1.0, "priority": round(0.1 / 3, 4), "targets": round(2 / 3, 4)}
    assert found["worse"]["fit_parts"] == {
        "metric": round(0.7 / 0.99, 4), "priority": 1.0, "targets": round(2 / 3, 4)
    }  # fmt: skip
    assert found["best"]["fit"] == pytest.approx(10 * (0.5 + 0.3 * 0.1 / 3 + 0.2 * 2 / 3), abs=0.005)
    assert found["tied"]["fit"] == pytest.approx(10 * (0.5 * 0.98 / 0.99 + 0.3 * 0.1 / 2 + 0.2 * 2 / 3), abs=0.005)


def test_fit_leaves_out_what_is_not_known():
    (found,) = judged([{**BEST, "energy_j": None}], "higher", "energy")
    assert found["fit_parts"] == {"metric": 1.0, "priority": None, "targets": None} and found["fit"] == 10
    one, other = judged([BEST, WORSE], "higher", "accuracy", TARGETS[:1])
    assert one["fit"] == 10 and one["fit_parts"] == {"metric": 1.0, "priority": 1.0, "targets": 1.0}
    assert other["fit"] == pytest.approx(10 * 0.8 * 0.7 / 0.99, abs=0.005)


def test_fit_of_an_error():
    one, other = judged([row("one", 0.05), row("other", 0.1)], "lower", "accuracy")
    assert (one["fit"], other["fit"]) == (10.0, 5.0)
    nothing, some = judged([row("nothing", 0.0), row("some", 0.1)], "lower", "accuracy")
    assert (nothing["fit"], some["fit"]) == (10.0, 0.0)


def test_the_docs_say_the_formula():
    text = (Path(__file__).parents[2] / "docs" / "comparison.md").read_text()
    for name, weight in WEIGHTS.items():
        assert f"{weight:g} x {name}" in text
    assert sum(WEIGHTS.values()) == pytest.approx(1)
