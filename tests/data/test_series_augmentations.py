"""Transforms of series against slow references, one row at a time; missing values, order of the batch, ranges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats

from dl_pipelines.brief.sections import AugmentationPlan
from dl_pipelines.data.augmentation import Online
from dl_pipelines.data.keyed import keys_of, normal, uniform
from dl_pipelines.data.registry import AUGMENTATIONS
from dl_pipelines.data.series_augmentations import Jitter, Scaling, WindowWarping
from dl_pipelines.tasks.base import Signature

N, HISTORY, HORIZON = 300, 28, 7
COLUMNS = ("day", "item", "demand", "stock", "price", "shop")
SIGNATURE = Signature((), (), columns=COLUMNS, codes=("item", "shop"))
NAMES = [name for name in AUGMENTATIONS.names if AUGMENTATIONS.load(name).kind == "series"]


@pytest.fixture(scope="module")
def batch():
    """Frames [N, 35, 6], targets [N, 11], keys [N], with missing days."""
    rng = np.random.default_rng(1)
    inputs = rng.gamma(4, 5, (N, HISTORY + HORIZON, 6)).astype(np.float32)
    inputs[:, :, 0] = 20_000 + np.arange(HISTORY + HORIZON) + rng.integers(0, 99, (N, 1))
    inputs[:, :, (1, 5)] = rng.integers(0, 2**24, (N, 1, 2))
    inputs[:, :HISTORY, 2:4][rng.random((N, HISTORY, 2)) < 0.05] = np.nan
    inputs[:, HISTORY:, 2:4] = np.nan
    targets = rng.gamma(4, 5, (N, HORIZON + 4)).astype(np.float32)
    targets[:, :HORIZON][rng.random((N, HORIZON)) < 0.05] = np.nan
    targets[:, -4], targets[:, -3] = inputs[:, HISTORY, 0], inputs[:, 0, 1]
    targets[:, -1] = np.nanmean(inputs[:, :HISTORY, 2], axis=1)
    for array in (inputs, targets):
        array.setflags(write=False)
    return inputs, targets, keys_of(np.array([f"r{place}" for place in range(N)]), 0)


def made(name, **params):
    cls = AUGMENTATIONS.load(name)
    transform = cls(cls.Params(**params))
    transform.codes = (1, 5)
    return transform


def same(one, other):
    return np.array_equal(one, other, equal_nan=True)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_missing_and_what_is_no_target_stays(batch, name):
    inputs, targets, _ = batch
    changed, wanted = made(name).apply_batch(*batch)
    assert changed.dtype == inputs.dtype and wanted.dtype == targets.dtype
    assert changed.shape == inputs.shape and wanted.shape == targets.shape
    assert not same(changed[:, :HISTORY, 2], inputs[:, :HISTORY, 2])
    assert np.isnan(changed[:, HISTORY:, 2]).all(), "the future stays unknown"
    for column in (0, 1, 5):
        assert same(changed[:, :, column], inputs[:, :, column])
    assert same(wanted[:, -4:-2], targets[:, -4:-2])
    assert (np.isnan(wanted) == np.isnan(targets)).all()
    if name != "window_warping":
        assert (np.isnan(changed) == np.isnan(inputs)).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_variant_is_decided_by_the_key_whatever_the_order(batch, name):
    inputs, targets, keys = batch
    changed, wanted = made(name).apply_batch(*batch)
    order = np.random.default_rng(0).permutation(N)
    again = made(name).apply_batch(inputs[order], targets[order], keys[order])
    assert same(again[0], changed[order]) and same(again[1], wanted[order])
    if name != "mixup":
        one = made(name).apply_batch(inputs[5:6], targets[5:6], keys[5:6])
        assert same(one[0][0], changed[5]) and same(one[1][0], wanted[5])


def test_jitter_is_lognormal_of_mean_one(batch):
    inputs, targets, keys = batch
    changed, wanted = Jitter(Jitter.Params(std=0.2)).apply_batch(*batch)
    noise = normal(keys, 0, HISTORY)
    for row in (0, 7, N - 1):
        for day in range(HISTORY):
            expected = float(inputs[row, day, 2]) * math.exp(0.2 * noise[row, day] - 0.02)
            np.testing.assert_allclose(changed[row, day, 2], expected, rtol=1e-6)
    factors = (changed / inputs)[:, :HISTORY, 2]
    factors = factors[np.isfinite(factors)]
    assert stats.kstest(np.log(factors), stats.norm(-0.02, 0.2).cdf).pvalue > 1e-3
    assert factors.mean() == pytest.approx(1, abs=0.01)
    assert wanted is targets


def test_scaling_keeps_every_relation_within_a_row(batch):
    inputs, targets, _ = batch
    changed, wanted = Scaling(Scaling.Params(factor=(0.5, 3))).apply_batch(*batch)
    factor = wanted[:, -1] / targets[:, -1]
    for row in range(N):
        np.testing.assert_allclose(changed[row, :HISTORY, 2], inputs[row, :HISTORY, 2] * factor[row], rtol=1e-5)
        np.testing.assert_allclose(wanted[row, :HORIZON], targets[row, :HORIZON] * factor[row], rtol=1e-5)
        assert wanted[row, -2] == pytest.approx(targets[row, -2] * factor[row], rel=1e-5)
    even = stats.uniform(math.log(0.5), math.log(6)).cdf
    assert stats.kstest(np.log(factor.astype(np.float64)), even).pvalue > 1e-3
    assert same(changed[:, :, 3:], inputs[:, :, 3:])


def slowly_warped(history, start, length, factor):
    """The segment as a list of points of time, one at a time, from the origin back."""
    found = []
    for day in range(len(history)):
        moved = day + length * (factor - 1)
        if moved >= start + length * factor:
            source = float(day)
        elif moved >= start:
            source = start + (moved - start) / factor
        else:
            source = moved
        if source < 0:
            found.append(math.nan)
            continue
        below, part = math.floor(source), source - math.floor(source)
        value = float(history[below])
        found.append(value if part == 0 else (1 - part) * value + part * float(history[min(below + 1, 27)]))
    return found


def test_warping_is_the_slow_one(batch):
    inputs, targets, keys = batch
    transform = WindowWarping(WindowWarping.Params(segment=0.3, factor=(0.5, 2)))
    changed, wanted = transform.apply_batch(*batch)
    factors = np.exp(math.log(0.5) + math.log(4) * uniform(keys, 1, 1)[:, 0])
    starts = np.floor(uniform(keys, 0, 1)[:, 0] * 20)
    for row in range(N):
        expected = slowly_warped(inputs[row, :HISTORY, 2], starts[row], 8, factors[row])
        np.testing.assert_allclose(changed[row, :HISTORY, 2], expected, rtol=1e-5, atol=1e-5)
    assert set(starts) == set(range(20)), "the segment lies anywhere"
    assert factors.min() < 0.55 and factors.max() > 1.85
    assert wanted is targets


def test_warping_moves_a_line_as_expected_and_ends_at_the_origin():
    frame = np.zeros((2000, HISTORY + HORIZON, 3), np.float32)
    frame[:, :, 2] = np.arange(HISTORY + HORIZON)
    keys = keys_of(np.arange(2000).astype(str), 0)
    targets = np.ones((2000, HORIZON + 4), np.float32)
    changed, _ = WindowWarping(WindowWarping.Params(segment=0.5, factor=(2, 2))).apply_batch(frame, targets, keys)
    history = changed[:, :HISTORY, 2]
    assert not np.isnan(history).any(), "a stretched segment pushes days out of the window"
    assert (np.diff(history) >= 0).all() and set(np.diff(history).ravel().tolist()) == {0.5, 1.0}
    compressed, _ = WindowWarping(WindowWarping.Params(segment=0.5, factor=(0.5, 0.5))).apply_batch(
        frame, targets, keys
    )
    assert (np.isnan(compressed[:, :HISTORY, 2]).sum(axis=1) == 7).all(), "a compressed one leaves the first days empty"
    last = compressed[:, HISTORY - 1, 2]
    assert (last == HISTORY - 1).all()
    identity, _ = WindowWarping(WindowWarping.Params(factor=(1, 1))).apply_batch(frame, targets, keys)
    assert same(identity, frame)


def test_a_history_of_one_day_can_not_be_warped():
    frame, targets = np.ones((3, 1 + HORIZON, 3), np.float32), np.ones((3, HORIZON + 4), np.float32)
    changed, _ = WindowWarping(WindowWarping.Params()).apply_batch(frame, targets, keys_of(np.arange(3).astype(str), 0))
    assert same(changed, frame)


def test_mixup_is_the_slow_one(batch):
    inputs, targets, keys = batch
    changed, wanted = made("mixup", alpha=0.4).apply_batch(*batch)
    order = sorted(range(N), key=lambda row: int(keys[row]))
    shares = stats.beta(0.4, 0.4).ppf(uniform(keys, 0, 1)[:, 0])
    for place, row in enumerate(order[:60]):
        partner = order[(place + 1) % N]
        share = max(shares[row], 1 - shares[row])
        level = float(targets[row, -1]) / float(targets[partner, -1])

        def mixed(own, other, share=share):
            return own if math.isnan(other) else share * own + (1 - share) * other

        for day in (0, 13, HISTORY - 1):
            expected = mixed(float(inputs[row, day, 2]), level * float(inputs[partner, day, 2]))
            np.testing.assert_allclose(changed[row, day, 2], expected, rtol=1e-5)
            for column in (3, 4):
                expected = mixed(float(inputs[row, day, column]), float(inputs[partner, day, column]))
                np.testing.assert_allclose(changed[row, day, column], expected, rtol=1e-5)
        expected = [
            mixed(float(a), level * float(b))
            for a, b in zip(targets[row, :HORIZON], targets[partner, :HORIZON], strict=True)
        ]
        np.testing.assert_allclose(wanted[row, :HORIZON], expected, rtol=1e-5)
        expected = mixed(float(targets[row, -2]), level * float(targets[partner, -2]))
        assert wanted[row, -2] == pytest.approx(expected, rel=1e-5)
    assert same(wanted[:, -1], targets[:, -1])


def test_mixup_mixes_little_with_a_small_alpha_and_alone_not_at_all(batch):
    inputs, targets, keys = batch
    little = made("mixup", alpha=0.05)._shares(keys)
    assert (little >= 0.5).all() and np.mean(little > 0.99) > 0.7
    half = stats.beta(2, 2).ppf(np.linspace(0.001, 0.999, 999))
    assert stats.kstest(made("mixup", alpha=2)._shares(keys)[:, 0], np.maximum(half, 1 - half)).pvalue > 1e-3
    alone = made("mixup").apply_batch(inputs[:1], targets[:1], keys[:1])
    np.testing.assert_allclose(alone[0], inputs[:1], rtol=1e-6)
    np.testing.assert_allclose(alone[1], targets[:1], rtol=1e-6)


def test_online_draws_anew_each_epoch_and_knows_which_columns_hold_codes(batch):
    inputs, targets, _ = batch
    plan = AugmentationPlan.model_validate({"online": list(NAMES), "seed": 7})
    online, ids = Online(plan, SIGNATURE), np.array([f"item {place}|2026-01-01" for place in range(N)])
    first, again, second = (online(inputs, targets, ids, epoch) for epoch in (1, 1, 2))
    assert same(first[0], again[0]) and same(first[1], again[1])
    assert not same(first[0][:, :, 2], second[0][:, :, 2])
    with_keys = Online(plan, SIGNATURE)(inputs, targets, ids, 1, online.keys(ids))
    assert same(first[0], with_keys[0])
    for column in (0, 1, 5):
        assert same(first[0][:, :, column], inputs[:, :, column])
    assert not same(first[0][:, :, 4], inputs[:, :, 4])
    assert Online(AugmentationPlan()).keys(ids) is None
    twice = Online(AugmentationPlan.model_validate({"online": ["scaling", "scaling"]}), SIGNATURE)
    once = Online(AugmentationPlan.model_validate({"online": ["scaling"]}), SIGNATURE)
    factor = np.log(twice(inputs, targets, ids, 1)[1][:, -1] / targets[:, -1])
    alone = np.log(once(inputs, targets, ids, 1)[1][:, -1] / targets[:, -1])
    assert abs(np.corrcoef(factor - alone, alone)[0, 1]) < 0.25, "the second draw is its own"


@pytest.mark.parametrize("name", ["scaling", "window_warping"])
@pytest.mark.parametrize("factor", [(0, 1), (2, 1), (1, 11)])
def test_a_range_that_is_none_is_refused(name, factor):
    with pytest.raises(ValidationError, match=r"factor: \[low, high\] with 0.1 <= low <= high <= 10"):
        made(name, factor=factor)
