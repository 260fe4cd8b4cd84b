"""Sides that are asked in turn, round by round: latency of one client, throughput of several."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Call = Callable[[np.ndarray], np.ndarray]
"""A row [1, ...] to its outputs [1, ...]."""
WARM = 5
"""Calls of a turn that don't count: the turn before has filled the caches with something else."""


def latencies(sides: Mapping[str, Call], rows: np.ndarray, rounds: int, calls: int) -> dict[str, list[float]]:
    """Median milliseconds of each side in each round; in every second round the sides come in reverse."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            times = []
            for place in range(WARM + calls):
                row = rows[place % len(rows)][None]
                started = time.perf_counter()
                sides[name](row)
                times.append(time.perf_counter() - started)
            found[name].append(1000 * statistics.median(times[WARM:]))
    return found


def throughputs(
    sides: Mapping[str, Sequence[Call]], rows: np.ndarray, rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Rows a second of each side in each round; a side is its clients, which ask at once, one row a request."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            found[name].append(throughput(sides[name], rows, seconds))
    return found


def throughput(clients: Sequence[Call], rows: np.ndarray, seconds: float) -> float:
    """Rows a second that clients get, each a thread; a fifth of the time before does not count. Raises what one did."""
    begin = time.perf_counter() + seconds / 5
    end, counts, failures = begin + seconds, [0] * len(clients), list[BaseException]()

    def work(number: int) -> None:
        place = number
        try:
            while (now := time.perf_counter()) < end:
                clients[number](rows[place % len(rows)][None])
                place += 1
                counts[number] += now >= begin
        except BaseException as error:  # noqa: BLE001 - raised below, in the caller's thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(clients))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return sum(counts) / seconds


def require_same(sides: Mapping[str, Call], rows: np.ndarray, tolerance: float, count: int = 16) -> float:
    """The largest absolute difference of any side's outputs to the first side's. Raises RuntimeError beyond it."""
    answers = [np.concatenate([call(row[None]) for row in rows[:count]]) for call in sides.values()]
    found = float(np.max([np.abs(answer - answers[0]).max() for answer in answers]))
    if not found <= tolerance:
        raise RuntimeError(f"found outputs of {', '.join(sides)} {found} apart; expected at most {tolerance}")
    return found
