"""Against ville (an independent package), scipy's distributions, and the truth of simulated data at every look."""

import math

import numpy as np
import pytest
import ville
from scipy import stats

from dl_pipelines.lifecycle import sequential
from dl_pipelines.lifecycle.sequential import (
    Moments,
    Side,
    difference_of_means,
    log_evidence,
    mean_of_pairs,
    quantile_bins,
    quantile_rank,
    standard_errors,
)

RUNS, ALPHA = 200, 0.02
LOOKS = np.arange(50, 2001, 75)
EARLY, LATE = Side(ALPHA, 200), Side(ALPHA, 2000)


def counted(number, right):
    return Moments(number, right, right)


def too_often(misses, runs=RUNS, alpha=ALPHA):
    """Whether so many misses contradict the chance that was promised."""
    return stats.binomtest(int(misses), runs, alpha, alternative="greater").pvalue < 1e-3


def test_moments_are_those_of_numpy():
    values = np.random.default_rng(0).uniform(-1, 1, 50)
    found = Moments.of(values[:20]).plus(Moments.of(values[20:].astype(np.float32)))
    assert found.count == 50
    assert found.mean == pytest.approx(values.mean(), abs=1e-6)
    assert found.squares == pytest.approx(50 * (values.var() + values.mean() ** 2), abs=1e-5)
    assert Moments.of(np.array([])) == Moments()
    assert Moments().mean == 0


@pytest.mark.parametrize("value", [1.5, -1.01, float("nan")])
def test_a_score_out_of_range_is_refused(value):
    told = f"found the score {value}; expected numbers from -1 to 1; leave out rows without a label"
    with pytest.raises(ValueError, match=told):
        Moments.of(np.array([0.5, value]))


@pytest.mark.parametrize("tuned", [20, 200, 2000])
@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.0005])
def test_the_closed_boundary_lies_closely_above_the_exact_mixture(alpha, tuned):
    counts = np.array([50, 300, 2000, 50_000])
    exact = ville.normal_mixture(counts, alpha, tuned, one_sided=True) / np.sqrt(counts)
    ours = np.array([standard_errors(count, Side(alpha, tuned)) for count in counts.tolist()])
    assert (ours >= exact * (1 - 1e-9)).all()
    assert (ours <= exact * 1.03).all()


def test_a_difference_of_means_is_as_wide_as_another_package_has_it():
    random = np.random.default_rng(1)
    treated = random.random(20_000) < 0.5
    right = (random.random(20_000) < np.where(treated, 0.90, 0.87)).astype(float)
    other = ville.AsymptoticABTest(alpha=2 * ALPHA, t_opt=500).fit(right, treated.astype(float))
    side = Side(ALPHA, other._cs.rho_)
    low, high = difference_of_means(Moments.of(right[treated]), Moments.of(right[~treated]), side, side)
    its_low, its_high = other.interval()
    assert high - low == pytest.approx(its_high - its_low, rel=0.06)
    assert low == pytest.approx(its_low, abs=0.003)
    assert low > 0


def test_a_mean_of_pairs_is_as_wide_as_another_package_has_it():
    random = np.random.default_rng(2)
    pairs = random.choice([-1.0, 0.0, 1.0], 20_000, p=[0.05, 0.9, 0.05])
    its = ville.AsymptoticCS(alpha=2 * ALPHA, t_opt=1000).fit(pairs)
    side = Side(ALPHA, its.rho_)
    low, high = mean_of_pairs(Moments.of(pairs), side, side)
    assert high == pytest.approx(its.interval()[1], rel=0.02)
    assert its.interval()[0] * 1.15 < low < its.interval()[0]  # Bernstein's term on top


@pytest.mark.parametrize(("right", "of"), [(970, 1000), (20, 20), (1, 400)])
def test_the_limit_towards_the_rarer_outcome_is_wilsons(right, of):
    """The other arm is so large that it adds nothing."""
    huge = 10**12
    errors = standard_errors(of + huge, EARLY)
    wilson = stats.binomtest(right, of).proportion_ci(1 - 2 * stats.norm.sf(errors), "wilson")
    low, high = difference_of_means(counted(of, right), counted(huge, huge // 2), EARLY, EARLY)
    if right * 2 >= of:
        assert low == pytest.approx(wilson.low - 0.5, abs=1e-5)
    if right * 2 <= of:
        assert high == pytest.approx(wilson.high - 0.5, abs=1e-5)


@pytest.mark.parametrize("seen", [0, 1, 2, 5, 20, 60])
def test_limits_of_rare_outcomes_are_honest(seen):
    """So many of a million: the limits lie where Poisson's distribution makes what was seen as unlikely as promised."""
    of, huge = 10**6, 10**12
    chance = stats.norm.sf(standard_errors(of + huge, EARLY))
    low, high = difference_of_means(counted(of, of - seen), counted(huge, huge), EARLY, EARLY)
    assert stats.poisson.cdf(seen, -low * of) <= chance
    assert seen == 0 or stats.poisson.sf(seen - 1, max(-high * of, 0)) <= chance
    chance = stats.norm.sf(standard_errors(of, EARLY))
    low, high = mean_of_pairs(Moments(of, -seen, seen), EARLY, EARLY)
    assert stats.poisson.cdf(seen, -low * of) <= chance
    assert seen == 0 or stats.poisson.sf(seen - 1, max(-high * of, 0)) <= chance


def drawn(random, kind, shape):
    return {
        "uniform": lambda: random.random(shape),
        "skewed": lambda: 1 - random.random(shape) ** 8 / 2,
        "near 1": lambda: random.beta(20, 0.3, shape),
        "rare halves": lambda: 1 - 0.5 * (random.random(shape) < 0.004),
    }[kind]()


def arms(random, values, share):
    """Moments of both arms at every look, by run."""
    ours = random.random(values[0].shape) < share
    found = []
    for kept, of in ((ours, values[0]), (~ours, values[1])):
        sums = [np.where(kept, each, 0).cumsum(1)[:, LOOKS - 1] for each in (np.ones_like(of), of, of * of)]
        found.append([[Moments(int(n), s, q) for n, s, q in zip(*row, strict=True)] for row in zip(*sums, strict=True)])
    return found


def misses(first, second, truth, side):
    """Runs in which the lower bound was ever above the truth, and the upper one below."""
    below = above = 0
    for ours, its in zip(first, second, strict=True):
        found = [difference_of_means(a, b, side, side) for a, b in zip(ours, its, strict=True) if a.count and b.count]
        below += any(low > truth + 1e-9 for low, _ in found)
        above += any(high < truth - 1e-9 for _, high in found)
    return below, above


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01])
@pytest.mark.parametrize(
    ("champion", "challenger"),
    [(0.5, 0.5), (0.9, 0.9), (0.99, 0.99), (0.999, 0.999), (1, 0.995), (0.995, 1), (0.97, 0.94), (0.999, 0.99)],
)
def test_a_difference_of_rates_is_covered_at_every_look(champion, challenger, share):
    random = np.random.default_rng(round(1e6 * champion + 1e3 * challenger + 10 * share))
    values = [(random.random((RUNS, LOOKS[-1])) < rate).astype(float) for rate in (challenger, champion)]
    below, above = misses(*arms(random, values, share), challenger - champion, EARLY)
    assert not too_often(below)
    assert not too_often(above)


def wald(arm, errors):
    """Agresti and Caffo's limits, as far on both sides."""
    count, total = arm.count + 2, arm.total + 1
    return (errors * math.sqrt(total - total * total / count) / arm.count,) * 2


def wilson(arm, errors):
    """The limits of a rate."""
    scale, mean = 1 + errors * errors / arm.count, arm.mean
    middle = (mean + errors * errors / arm.count / 2) / scale
    half = errors * math.sqrt(mean * (1 - mean) / arm.count + (errors / arm.count / 2) ** 2) / scale
    return mean - middle + half, middle + half - mean


@pytest.mark.parametrize(
    ("alone", "champion", "challenger", "share"), [(wald, 1, 0.98, 0.1), (wilson, 0.99, 0.99, 0.01)]
)
def test_either_of_the_two_limits_alone_would_not_be_enough(alone, champion, challenger, share, monkeypatch):
    """Enough runs to see one that errs 2 to 3 times as often as it says: what the coverage above can't."""
    random, runs, side = np.random.default_rng(11), 800, Side(0.01, 200)
    values = [random.random((runs, LOOKS[-1])) < rate for rate in (challenger, champion)]
    first, second = arms(random, values, share)
    assert not any(too_often(count, runs, 0.01) for count in misses(first, second, challenger - champion, side))
    monkeypatch.setattr(sequential, "_reach", alone)
    assert any(too_often(count, runs, 0.01) for count in misses(first, second, challenger - champion, side))


@pytest.mark.parametrize("share", [0.5, 0.03])
@pytest.mark.parametrize("kind", ["uniform", "skewed", "near 1", "rare halves"])
def test_a_difference_of_means_is_covered_at_every_look(kind, share):
    random = np.random.default_rng(7)
    values = [drawn(random, kind, (RUNS, LOOKS[-1])) for _ in range(2)]
    assert not any(map(too_often, misses(*arms(random, values, share), 0.0, EARLY)))


def test_an_interval_for_one_look_would_not_be():
    """What the coverage above is worth: the textbook's interval fails it."""
    random = np.random.default_rng(8)
    values = random.standard_normal((RUNS, LOOKS[-1])).cumsum(1)[:, LOOKS - 1] / np.sqrt(LOOKS)
    assert too_often((values > stats.norm.isf(ALPHA)).any(1).sum())
    fixed = np.array([standard_errors(count, EARLY) for count in LOOKS.tolist()])
    assert not too_often((values > fixed).any(1).sum())


@pytest.mark.parametrize(("worse", "better"), [(0.02, 0.02), (0.0005, 0.0005), (0.2, 0.2), (0.035, 0.005), (0.01, 0)])
def test_a_mean_of_pairs_that_is_not_better_is_covered_at_every_look(worse, better):
    random = np.random.default_rng(9)
    of = random.random((RUNS, LOOKS[-1]))
    sums = [each.cumsum(1)[:, LOOKS - 1] for each in (of < worse, of > 1 - better)]
    below = above = 0
    for losses, wins in zip(*sums, strict=True):
        counts = zip(LOOKS.tolist(), losses.tolist(), wins.tolist(), strict=True)
        found = [mean_of_pairs(Moments(n, won - lost, won + lost), EARLY, EARLY) for n, lost, won in counts]
        below += any(low > better - worse + 1e-9 for low, _ in found)
        above += any(high < better - worse - 1e-9 for _, high in found)
    assert not too_often(below)
    assert not too_often(above)


@pytest.mark.parametrize(("share", "ours"), [(0.5, 23), (0.1, 7), (0.01, 4)])
def test_a_challenger_that_always_fails_shows_within_tens(share, ours):
    found = []
    for number in (ours // 3, ours):
        its = round(number / share) - number
        found.append(difference_of_means(counted(number, 0), counted(its, its), LATE, Side(0.005, 200))[1])
    assert found[0] > 0 > -0.005 > found[1]


@pytest.mark.parametrize("first", [(1, 0), (1, 1), (5000, 5000), (5000, 0)])
@pytest.mark.parametrize("second", [(1, 0), (1, 1), (3, 2), (5000, 5000)])
def test_bounds_stay_in_range_around_the_value(first, second):
    ours, its = counted(*first), counted(*second)
    low, high = difference_of_means(ours, its, LATE, EARLY)
    assert -1 <= low <= ours.mean - its.mean <= high <= 1
    wider = difference_of_means(ours, its, Side(0.001, 2000), Side(0.001, 200))
    assert wider[0] <= low
    assert wider[1] >= high
    low, high = mean_of_pairs(ours, LATE, EARLY)
    assert -1 <= low <= ours.mean <= high <= 1


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.95])
def test_the_evidence_against_a_share_is_another_packages(share):
    hits = np.random.default_rng(3).random(3000) < share * 0.9
    weight = 1 / min(share, 1 - share)
    its = ville.BernoulliTest(share, prior=(weight * share, weight * (1 - share))).fit(hits).log_e_values_
    ours = [log_evidence(int(hits[:count].sum()), count, share) for count in range(1, 3001, 100)]
    assert ours == pytest.approx(its[::100].tolist(), abs=1e-8)


@pytest.mark.parametrize("quantile", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_ranks_are_where_the_mixture_says(quantile, alpha):
    weight = 1 / (1 - quantile)
    for count in (1, 2, 10, 59, 160, 161, 1000, 1001, 20_000):
        ranks = np.arange(count + 1)
        mixture = stats.betabinom.logpmf(ranks, count, weight * quantile, weight * (1 - quantile))
        beyond = mixture - stats.binom.logpmf(ranks, count, quantile) >= -math.log(alpha)
        low, high = beyond & (ranks <= quantile * count), beyond & (ranks >= quantile * count)
        assert quantile_rank(count, quantile, alpha, False) == (ranks[low].max() + 1 if low.any() else 0)
        assert quantile_rank(count, quantile, alpha, True) == (ranks[high].min() if high.any() else count + 1)


def test_bins_are_those_of_the_ordered_values():
    values = np.sort(np.random.default_rng(4).poisson(40, 5000))
    histogram = {place: int((values == place).sum()) for place in [*range(20, 90), 7]}
    low, at, high = quantile_bins(histogram, 0.9, 0.01, 0.02)
    assert at == values[4499]
    assert low == values[quantile_rank(5000, 0.9, 0.01, False) - 1]
    assert high == values[quantile_rank(5000, 0.9, 0.02, True) - 1]
    assert quantile_bins({3: 2, 5: 1}, 0.9, 0.01, 0.01) == (None, 5, None)


def test_values_that_come_in_copies_count_once():
    values = np.sort(np.random.default_rng(4).poisson(40, 900))
    once = {place: int((values == place).sum()) for place in range(15, 75)}
    often = {place: 7 * number for place, number in once.items()}
    assert quantile_bins(often, 0.95, 0.01, 0.02, 900) == quantile_bins(once, 0.95, 0.01, 0.02)
    assert quantile_bins(often, 0.95, 0.01, 0.02) != quantile_bins(once, 0.95, 0.01, 0.02)
    low, at, high = quantile_bins(often, 0.95, 0.01, 0.02, 901)  # not a whole number of copies
    assert low <= at <= high
    assert quantile_bins(once, 0.95, 0.01, 0.02, 5000) == quantile_bins(once, 0.95, 0.01, 0.02)


@pytest.mark.parametrize("kind", ["smooth", "ties"])
@pytest.mark.parametrize("quantile", [0.5, 0.95])
def test_a_quantile_is_covered_at_every_look(quantile, kind):
    random = np.random.default_rng(5)
    below = above = 0
    for _ in range(RUNS):
        times = random.exponential(1, LOOKS[-1]) if kind == "smooth" else random.integers(0, 3, LOOKS[-1])
        truth = -math.log1p(-quantile) if kind == "smooth" else math.ceil(3 * quantile) - 1
        places, low_missed, high_missed = np.floor(100 * times).astype(int), False, False
        for count in LOOKS[::4].tolist():
            bins, numbers = np.unique(places[:count], return_counts=True)
            low, _, high = quantile_bins(
                dict(zip(bins.tolist(), numbers.tolist(), strict=True)), quantile, ALPHA, ALPHA
            )
            low_missed |= low is not None and low / 100 > truth
            high_missed |= high is not None and (high + 1) / 100 < truth
        below, above = below + low_missed, above + high_missed
    assert not too_often(below)
    assert not too_often(above)


def test_a_split_that_is_off_is_noticed_and_one_that_is_not_is_left_alone():
    random = np.random.default_rng(6)
    found = {}
    for truth in (0.1, 0.15):
        hits = (random.random((RUNS, LOOKS[-1])) < truth).cumsum(1)[:, LOOKS - 1].tolist()
        alarms = [
            any(
                log_evidence(hit, count, 0.1) > -math.log(ALPHA) for hit, count in zip(row, LOOKS.tolist(), strict=True)
            )
            for row in hits
        ]
        found[truth] = sum(alarms)
    assert not too_often(found[0.1])
    assert found[0.15] > 0.9 * RUNS
