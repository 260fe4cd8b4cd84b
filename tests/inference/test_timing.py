import gc
import time

import numpy as np
import pytest

from dl_pipelines.inference.timing import median_interval, speed_up, time_interleaved


def busy(milliseconds):
    def call():
        until = time.perf_counter() + milliseconds / 1000
        while time.perf_counter() < until:
            pass

    return call


def test_medians_are_those_of_the_calls_and_the_order_rotates():
    order = []

    def noted(name, call):
        def wrapped():
            order.append(name)
            call()

        return wrapped

    timed = time_interleaved({"a": noted("a", busy(5)), "b": noted("b", busy(60))}, rounds=6, warmup=1)
    assert timed["a"]["p50_ms"] >= 5
    assert timed["b"]["p50_ms"] >= 60
    for result in timed.values():
        assert result["low"] <= result["p50_ms"] <= result["high"]
        assert len(result["samples"]) == 6
    assert order[-12:] == ["a", "b", "b", "a"] * 3
    faster = speed_up(timed["b"]["samples"], timed["a"]["samples"])
    assert faster["low"] > 1
    assert faster["value"] == pytest.approx(timed["b"]["p50_ms"] / timed["a"]["p50_ms"])


def test_the_collector_is_back_on_when_a_call_fails():
    calls = iter([None] * 5)

    with pytest.raises(StopIteration):
        time_interleaved({"a": lambda: next(calls)}, rounds=50, warmup=1)
    assert gc.isenabled()


def test_the_interval_holds_the_median_as_often_as_it_says():
    rng = np.random.default_rng(1)
    held = [
        (found := median_interval(rng.exponential(1, 30), seed=turn))["low"] <= np.log(2) <= found["high"]
        for turn in range(300)
    ]
    assert 0.88 <= np.mean(held) <= 0.99


def test_noise_that_hits_both_cancels_in_the_speed_up():
    shared = np.random.default_rng(2).uniform(1, 3, 30)
    faster = speed_up(list(2 * shared), list(shared))
    assert faster == pytest.approx({"value": 2, "low": 2, "high": 2})
    alone = median_interval(shared)
    assert alone["high"] / alone["low"] > 1.1


def test_equal_things_are_not_told_apart():
    rng = np.random.default_rng(3)
    wrong = 0
    for turn in range(200):
        found = speed_up(rng.normal(10, 1, 30), rng.normal(10, 1, 30), seed=turn)
        wrong += found["low"] > 1
    assert wrong / 200 <= 0.06


def test_errors_say_what_was_given():
    with pytest.raises(ValueError, match="found 0 rounds; expected at least 1"):
        time_interleaved({}, rounds=0)
    with pytest.raises(ValueError, match="found no samples"):
        median_interval([])
    with pytest.raises(ValueError, match="found 2 and 1 samples; expected the same rounds"):
        speed_up([1, 2], [1])
