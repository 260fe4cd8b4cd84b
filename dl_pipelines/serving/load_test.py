"""Latency and throughput of a served model through gRPC: several clients, each with one request under way at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from dl_pipelines.serving.client import Caller

if TYPE_CHECKING:
    import numpy as np

WARM_UP = 20
"""Requests of each client before the clock starts."""
START_SECONDS = 120.0
"""Clients wait for each other no longer than this."""


@dataclass(frozen=True)
class LoadResult:
    """Times of answered requests in milliseconds; None when none was answered. `failure` is the first reason."""

    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    throughput_rps: float
    requests: int
    failed: int
    clients: int
    seconds: float
    failure: str | None

    def plain(self) -> dict[str, float | int | str | None]:
        """As plain data."""
        return asdict(self)


def load_test(make: Callable[[], Caller], inputs: np.ndarray, clients: int, seconds: float) -> LoadResult:
    """Ask for single rows of `inputs` [N, ...], in turn, from `clients` threads for `seconds`; `make` connects one.

    The clients share this machine with the server: what they take is in the figures.
    """
    import numpy as np

    ready, failures = threading.Barrier(clients), list[str]()
    with ThreadPoolExecutor(clients) as pool:
        under_way = []
        for number in range(clients):
            rows = [inputs[place : place + 1] for place in range(number, len(inputs), clients)] or [inputs[:1]]
            under_way.append(pool.submit(_client, make, rows, ready, seconds, failures))
        times = [client.result() for client in under_way]
    passed = max(seconds, 1e-9)
    flat = np.array([value for client in times for value in client])
    p50, p95, p99 = (float(value) for value in np.percentile(flat, [50, 95, 99])) if len(flat) else (None, None, None)
    return LoadResult(
        p50, p95, p99, len(flat) / passed, len(flat) + len(failures), len(failures), clients, round(passed, 3),
        failures[0] if failures else None,
    )  # fmt: skip


def _client(
    make: Callable[[], Caller], rows: list[np.ndarray], ready: threading.Barrier, seconds: float, failures: list[str]
) -> list[float]:
    """Ask until the time is over; milliseconds of each answered request."""
    from tritonclient.utils import InferenceServerException

    call, times = make(), list[float]()
    try:
        for place in range(WARM_UP):
            _once(call, rows[place % len(rows)], InferenceServerException)
        ready.wait(START_SECONDS)
        until, place = time.perf_counter() + seconds, 0
        while time.perf_counter() < until:
            started = time.perf_counter()
            failure = _once(call, rows[place % len(rows)], InferenceServerException)
            if failure is None:
                times.append(1000 * (time.perf_counter() - started))
            else:
                failures.append(failure)
                time.sleep(0.01)  # a server that is gone refuses at once
            place += 1
    finally:
        call.close()
    return times


def _once(call: Caller, row: np.ndarray, refused: type[Exception]) -> str | None:
    try:
        call(row)
    except refused as error:
        return str(error)
    return None
