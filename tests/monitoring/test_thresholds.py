"""Statistics against SciPy, thresholds against a plain loop, and the rate of false alarms on fresh samples."""

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import binom, wasserstein_distance

from dl_pipelines.data.registry import SOURCES
from dl_pipelines.monitoring.thresholds import (
    JENSEN_SHANNON,
    WASSERSTEIN,
    Sample,
    Size,
    critical_place,
    jensen_shannon,
    least_resamples,
    thresholds,
    wasserstein,
)
from dl_pipelines.wire.summaries import summarize_images

MEASURES = {WASSERSTEIN: wasserstein, JENSEN_SHANNON: jensen_shannon}


def scipy_wasserstein(reference, current):
    return wasserstein_distance(reference, current) / max(np.std(reference), 0.001)


def scipy_jensen_shannon(reference, current):
    names = np.unique(np.concatenate([reference, current]))
    return jensenshannon(*([(sample == name).mean() for name in names] for sample in (reference, current)))


def a_sample(rng, rows=300):
    values = {
        "smooth": rng.gamma(2, size=rows),
        "far": rng.normal(1e6, 2, size=rows),
        "tied": rng.integers(0, 5, rows) / 4,
        "kind": rng.choice(["a", "b", "c"], rows, p=[0.7, 0.2, 0.1]),
    }
    return Sample(values, {name: JENSEN_SHANNON if name == "kind" else WASSERSTEIN for name in values})


@pytest.fixture(scope="module")
def population(brief, task):
    """Summaries and labels of every digit there is."""
    source = SOURCES.make(brief.data.source)
    rows = [task.rows(source.read_day(day, task)[0]) for day in source.days()]
    inputs, targets = (np.concatenate([getattr(part, name) for part in rows]) for name in ("inputs", "targets"))
    values = {name: found for name, found in summarize_images(inputs).items() if name != "min"}
    return {**values, "decided": targets}


def drawn(population, rows):
    values = {name: found[rows] for name, found in population.items()}
    return Sample(values, {name: JENSEN_SHANNON if name == "decided" else WASSERSTEIN for name in values})


def measured(reference, window):
    return {
        name: MEASURES[statistic](reference.values[name], window.values[name])
        for name, statistic in reference.statistics.items()
    }


def beyond(values, limits):
    return {name for name, limit in limits.items() if values[name] >= limit}


@pytest.mark.parametrize("seed", range(3))
def test_statistics_are_scipys(seed):
    rng = np.random.default_rng(seed)
    reference, current = a_sample(rng), a_sample(rng, 120)
    for name in ("smooth", "far", "tied"):
        pair = reference.values[name], current.values[name]
        assert wasserstein(*pair) == pytest.approx(scipy_wasserstein(*pair), abs=1e-9)
    pair = reference.values["kind"], np.append(current.values["kind"], "new")
    assert jensen_shannon(*pair) == pytest.approx(scipy_jensen_shannon(*pair), abs=1e-9)
    assert jensen_shannon(pair[0], pair[0]) == 0
    assert jensen_shannon(np.array(["a"]), np.array(["b"])) == pytest.approx(np.sqrt(np.log(2)))


def test_a_reference_without_spread_is_divided_by_evidentlys_least():
    reference, current = np.full(10, 3.0), np.full(10, 3.5)
    assert wasserstein(reference, current) == pytest.approx(500)


def test_thresholds_are_those_of_a_plain_loop():
    first, second = a_sample(np.random.default_rng(1), 90), a_sample(np.random.default_rng(2), 60)
    second = Sample({"other": second.values["smooth"]}, {"other": WASSERSTEIN})
    measures = {WASSERSTEIN: scipy_wasserstein, JENSEN_SHANNON: scipy_jensen_shannon}
    found = {}
    for number, sample in enumerate((first, second)):
        rng = np.random.default_rng([7, number, 40])
        draws = [rng.multinomial(count, np.full(sample.rows, 1 / sample.rows), 100) for count in (sample.rows, 40)]
        for name, statistic in sample.statistics.items():
            found[name] = np.array([
                measures[statistic](*(np.repeat(sample.values[name], counts) for counts in pair))
                for pair in zip(*draws, strict=True)
            ])  # fmt: skip
    scores = np.array([(values - values.mean()) / values.std(ddof=1) for values in found.values()])
    critical = sorted(scores.max(axis=0))[96 - 1]  # ceil(101 x 0.95)
    expected = {name: values.mean() + critical * values.std(ddof=1) for name, values in found.items()}
    assert thresholds((first, second), (Size(40), Size(40)), 0.05, 100, 7) == pytest.approx(expected, rel=1e-7)


def test_the_rate_of_false_alarms_is_the_one_that_was_asked_for(population):
    windows, references, rng = 480, 16, np.random.default_rng(11)
    alarms = {0.01: 0, 0.1: 0}
    total = len(population["mean"])
    for number in range(references):
        reference = drawn(population, rng.integers(0, total, 700))
        limits = {rate: thresholds((reference,), (Size(250),), rate, 500, number) for rate in alarms}
        for _ in range(windows // references):
            values = measured(reference, drawn(population, rng.integers(0, total, 250)))
            for rate in alarms:
                alarms[rate] += bool(beyond(values, limits[rate]))
    assert alarms[0.01] <= binom.ppf(0.999, windows, 0.01), alarms
    # Not by never alarming: at a higher rate the count can be bounded from below too.
    assert binom.ppf(0.001, windows, 0.05) <= alarms[0.1] <= binom.ppf(0.999, windows, 0.1), alarms


def test_a_shift_of_half_the_spread_alarms(population):
    rng, total = np.random.default_rng(3), len(population["mean"])
    reference = drawn(population, rng.integers(0, total, 700))
    limits = thresholds((reference,), (Size(250),), 0.01, 500, 0)

    def alarms(changed, times):
        windows = [drawn(changed, rng.integers(0, total, 250)) for _ in range(times)]
        return [beyond(measured(reference, window), limits) for window in windows]

    brighter = {**population, "mean": population["mean"] + 0.5 * population["mean"].std()}
    assert sum("mean" in names for names in alarms(brighter, 50)) >= 49
    kinds = {**population, "decided": np.where(population["decided"] == 3, 8, population["decided"])}
    assert all("decided" in names for names in alarms(kinds, 20))


def test_they_are_decided_by_the_seed_and_fall_with_the_size_of_the_window():
    sample = a_sample(np.random.default_rng(0))
    first = thresholds((sample,), (Size(250),), 0.05, 200, 0)
    assert thresholds((sample,), (Size(250),), 0.05, 200, 0) == first
    assert thresholds((sample,), (Size(250),), 0.05, 200, 1) != first
    larger = thresholds((sample,), (Size(4000),), 0.05, 200, 0)
    assert all(larger[name] < first[name] for name in first)


def test_a_constant_feature_is_refused():
    sample = Sample({"same": np.ones(50), "any": np.arange(50.0)}, dict.fromkeys(("same", "any"), WASSERSTEIN))
    with pytest.raises(ValueError) as caught:
        thresholds((sample,), (Size(30),), 0.05, 100, 0)
    assert str(caught.value) == "found the constant features same; expected only features that vary"


@pytest.mark.parametrize(
    ("resamples", "rate", "place"), [(500, 0.01, 496), (99, 0.01, 99), (999, 0.05, 950), (100, 0.2, 81)]
)
def test_the_critical_place_is_conservative(resamples, rate, place):
    assert critical_place(resamples, rate) == place
    # A fresh value is beyond the place-th of B ordered ones with a probability of (B + 1 - place) / (B + 1).
    assert (resamples + 1 - place) / (resamples + 1) <= rate + 1e-12


def test_too_few_resamples_for_the_rate_are_told():
    assert [least_resamples(rate) for rate in (0.01, 0.05, 0.3)] == [99, 19, 3]
    with pytest.raises(ValueError) as caught:
        critical_place(98, 0.01)
    assert str(caught.value) == (
        "found 98 resamples for a rate of 0.01 false alarms; expected at least 99; raise monitoring.resamples"
    )
