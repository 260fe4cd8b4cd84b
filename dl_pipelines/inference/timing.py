"""Latency of things that are to be compared: interleaved, so that a busy second hits all of them, with intervals."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

ROUND_SECONDS = 0.004
"""A round calls each thing again and again for about this long: one call of a small model is shorter than a clock
jitter."""

RESAMPLES = 1000


def time_interleaved(
    calls: Mapping[str, Callable[[], Any]], rounds: int = 30, warmup: int = 5, seed: int = 0, settle: float = 0.0
) -> dict[str, dict[str, Any]]:
    """Time each call in every round, in an order that rotates.

    `settle`: seconds before each turn, where a call leaves threads behind that spin; calls for as long don't count.

    Returns for each name `p50_ms` (median over rounds of the round's median call), `low` and `high` (95 % bootstrap
    interval of that median, ms), `samples` (the rounds' medians, ms; the same position is the same round for all).
    Raises ValueError when there is no round.
    """
    if rounds < 1:
        raise ValueError(f"found {rounds} rounds; expected at least 1")
    inner = {name: _inner(call, warmup) for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(rounds):
            start = turn % len(names) if names else 0
            for name in (*names[start:], *names[:start]):
                if settle:
                    _settle(calls[name], settle)
                samples[name].append(_median_ms(calls[name], inner[name]))
    finally:
        if collecting:
            gc.enable()
    return {name: {**median_interval(values, seed), "samples": values} for name, values in samples.items()}


def _settle(call: Callable[[], Any], seconds: float) -> None:
    """Let others' threads go to sleep, and this one's wake up: the first calls after a pause are slow."""
    time.sleep(seconds)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        call()


def _inner(call: Callable[[], Any], warmup: int) -> int:
    for _ in range(max(warmup, 1)):
        call()
    started = time.perf_counter()
    call()
    return max(1, min(200, int(ROUND_SECONDS / max(time.perf_counter() - started, 1e-7))))


def _median_ms(call: Callable[[], Any], times: int) -> float:
    spent = []
    for _ in range(times):
        started = time.perf_counter_ns()
        call()
        spent.append(time.perf_counter_ns() - started)
    spent.sort()
    return (spent[times // 2] + spent[(times - 1) // 2]) / 2e6


def median_interval(samples: Sequence[float], seed: int = 0) -> dict[str, float]:
    """`p50_ms`, `low`, `high`: the median and its 95 % percentile bootstrap interval. Raises ValueError when empty."""
    import numpy as np

    if not len(samples):
        raise ValueError("found no samples; expected at least one")
    values = np.asarray(samples, dtype=np.float64)
    medians = np.median(values[_resamples(len(values), seed)], axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return {"p50_ms": float(np.median(values)), "low": float(low), "high": float(high)}


def speed_up(reference: Sequence[float], other: Sequence[float], seed: int = 0) -> dict[str, float]:
    """How many times faster `other` is: `value` = ratio of medians, `low` and `high` (95 %).

    Both are samples of `time_interleaved`; rounds are resampled as pairs, so that what hit both cancels. Raises
    ValueError when they are not of the same rounds.
    """
    import numpy as np

    if len(reference) != len(other) or not len(reference):
        raise ValueError(f"found {len(reference)} and {len(other)} samples; expected the same rounds, at least one")
    before, after = np.asarray(reference, dtype=np.float64), np.asarray(other, dtype=np.float64)
    picks = _resamples(len(before), seed)
    ratios = np.median(before[picks], axis=1) / np.median(after[picks], axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return {"value": float(np.median(before) / np.median(after)), "low": float(low), "high": float(high)}


def _resamples(count: int, seed: int) -> Any:
    import numpy as np

    return np.random.default_rng(seed).integers(0, count, size=(RESAMPLES, count))
