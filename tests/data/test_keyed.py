"""Numbers from keys: even, normal, independent by record, stream and draw, and the reference's of SplitMix64."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dl_pipelines.data.keyed import GOLDEN, _mixed, bits, derived, keys_of, normal, uniform

IDS = np.array([f"item {number % 50}|2026-{number // 50:04d}" for number in range(20_000)])


@pytest.fixture(scope="module")
def keys():
    return keys_of(IDS, 3)


def test_the_output_function_is_splitmix64():
    # The first outputs of the published generator for the seed 1234567 (Rosetta Code's test vector).
    state = (1234567 + np.arange(1, 6, dtype=np.uint64) * np.uint64(GOLDEN)).astype(np.uint64)
    assert _mixed(state).tolist() == [
        6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821,
    ]  # fmt: skip


def test_keys_differ_by_id_and_seed_and_not_by_what_is_beside_them(keys):
    assert len(set(keys.tolist())) == len(IDS)
    assert len({*keys.tolist(), *keys_of(IDS, 4).tolist()}) == 2 * len(IDS)
    alone = np.concatenate([keys_of(IDS[place : place + 1], 3) for place in range(0, 200, 7)])
    assert (alone == keys[0:200:7]).all()
    longer = keys_of(np.array([*IDS[:3], "x" * 99, ""]), 3)
    assert (longer[:3] == keys[:3]).all()
    assert len(keys_of(np.array([], str), 3)) == 0
    assert (keys_of(np.array(IDS[:5].tolist(), object), 3) == keys[:5]).all()


def test_uniform_is_even_and_neighbours_are_independent(keys):
    drawn = uniform(keys, 0, 4)
    assert drawn.dtype == np.float64
    assert drawn.min() >= 0 and drawn.max() < 1
    for column in drawn.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    others = [uniform(keys, 1, 4), uniform(derived(keys, 1), 0, 4), uniform(derived(keys, -1), 0, 4),
              np.roll(drawn, 1, axis=0), np.roll(drawn, 1, axis=1), uniform(keys_of(IDS, 4), 0, 4)]  # fmt: skip
    for other in others:
        assert abs(np.corrcoef(drawn.ravel(), other.ravel())[0, 1]) < 4 / np.sqrt(drawn.size)
    cells = np.histogram2d(drawn[:, 0], drawn[:, 1], bins=16, range=[[0, 1], [0, 1]])[0]
    assert stats.chisquare(cells.ravel()).pvalue > 1e-3
    assert (uniform(keys, 0, 9)[:, :4] == drawn).all(), "a longer draw begins like a shorter one"


def test_bits_are_even_and_neighbours_are_independent(keys):
    drawn = bits(keys, 0, 7)
    assert (drawn.shape, drawn.dtype) == ((len(IDS), 7), np.uint16)
    for column in drawn.T:
        assert stats.chisquare(np.bincount(column >> 8, minlength=256)).pvalue > 1e-3
        assert stats.chisquare(np.bincount(column & 255, minlength=256)).pvalue > 1e-3
    apart = np.corrcoef(drawn.T.astype(float)) - np.eye(7)
    assert np.abs(apart).max() < 4.5 / np.sqrt(len(IDS))
    for other in (bits(keys, 1, 7), bits(derived(keys, 1), 0, 7), np.roll(drawn, 1, axis=0)):
        assert abs(np.corrcoef(drawn.ravel(), other.ravel())[0, 1]) < 4 / np.sqrt(drawn.size)
    assert (bits(keys, 0, 30)[:, :7] == drawn).all(), "a longer draw begins like a shorter one"
    assert (bits(keys[5:6], 0, 7) == drawn[5]).all()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_normal_is_normal(keys, count):
    drawn = normal(keys, 0, count)
    assert drawn.shape == (len(IDS), count)
    for column in drawn.T:
        assert stats.kstest(column, "norm").pvalue > 1e-3
    if count > 1:
        apart = np.corrcoef(drawn.T) - np.eye(count)
        assert np.abs(apart).max() < 4 / np.sqrt(len(IDS))


def test_a_draw_does_not_depend_on_the_order_of_the_batch(keys):
    order = np.random.default_rng(0).permutation(len(keys))
    assert (normal(keys[order], 2, 3) == normal(keys, 2, 3)[order]).all()
