"""An open-loop load generator: requests are due at times drawn in advance, whether or not earlier ones were answered.

Latency counts from the intended time, so a server that stalls is seen as its users see it. A closed loop (load_test.py)
sends nothing while it waits, and so hides what a stall would have cost. See Tene, "How NOT to measure latency", 2013.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

    from dl_pipelines.serving.protocols import Calls

Arrivals = Literal["poisson", "constant"]
CONNECTIONS = 32
GRACE_SECONDS = 1.0
"""What is due and could not be sent so long after the last due time is not sent at all, and counts as not answered."""
LATE_MS = 5.0
BUSY = 0.9
"""A client that sends later than LATE_MS over a free connection (p99), or wants so much of a core, is at its limit."""
_SCHEDULED = Path("/proc/thread-self/schedstat")
"""Of a thread: nanoseconds on a core, nanoseconds that it waited for one (Linux)."""


@dataclass(frozen=True)
class Step:
    """What one rate did. Times in milliseconds from the intended time; None beyond what was answered or measured.

    `late_p99_ms`: how late requests left that had a free connection. `waited`: requests that had none when they were
    due. `client_cores`: that this process had; `client_waits`: seconds in a second that its threads waited for a core.
    `saturated`: why the client, not the server, may be the limit; else None.
    """

    rate: float
    answered_rps: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    requests: int
    failed: int
    unsent: int
    waited: int
    late_p99_ms: float
    client_cores: float
    client_waits: float
    connections: int
    seconds: float
    saturated: str | None
    failure: str | None

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    def keeps(self, limit_ms: float) -> bool:
        """Whether every request was answered, and 99 of 100 within so many milliseconds."""
        return not self.failed and not self.unsent and self.p99_ms is not None and self.p99_ms <= limit_ms


def due_times(rate: float, seconds: float, arrivals: Arrivals = "poisson", seed: int = 0) -> np.ndarray:
    """Seconds from the start [round(rate * seconds), at least 1], rising: of independent users, or evenly apart."""
    import numpy as np

    count = max(1, round(rate * seconds))
    if arrivals == "constant":
        return np.arange(count) / rate
    return np.sort(np.random.default_rng([seed, count]).uniform(0, seconds, count))  # a Poisson process of that count


@dataclass
class _Plan:
    """One step while it runs, by request: when it is due, when it left, when it was answered (infinite: never)."""

    due: Sequence[float]
    start: float
    last: float
    sent: np.ndarray
    done: np.ndarray
    waited: np.ndarray
    failures: list[str] = field(default_factory=list)
    core_waits: list[float] = field(default_factory=list)


class OpenLoop:
    """Connections that stay open from step to step, each with one request under way at a time.

    `make` connects one; `rows` [N, ...] are asked for singly, in turn. More requests than connections wait here, and
    their waiting counts. The client shares this machine with the server: what it takes is in the figures.
    """

    def __init__(self, make: Callable[[], Calls], rows: np.ndarray, connections: int = CONNECTIONS):
        self._rows = [rows[at : at + 1] for at in range(len(rows))]
        self._calls: list[Calls] = []
        try:
            for _ in range(connections):
                self._calls.append(make())
            for call in self._calls:  # the first request of a connection is slower
                call(self._rows[0])
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> OpenLoop:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        for call in self._calls:
            call.close()

    def step(self, rate: float, seconds: float, arrivals: Arrivals = "poisson", seed: int = 0) -> Step:
        """Send `rate` requests a second for `seconds`, wait for the answers, and say what was seen."""
        import numpy as np

        due = due_times(rate, seconds, arrivals, seed)
        nothing = np.full(len(due), np.inf)
        start = time.perf_counter() + 0.01
        last = start + max(seconds, float(due[-1])) + GRACE_SECONDS
        plan = _Plan(due.tolist(), start, last, nothing.copy(), nothing.copy(), np.zeros(len(due), bool))
        turns, spent = itertools.count(), time.process_time()
        with ThreadPoolExecutor(len(self._calls)) as pool:
            for work in [pool.submit(self._work, call, plan, turns) for call in self._calls]:
                work.result()
        wall = time.perf_counter() - start
        return _summed_up(plan, rate, seconds, wall, (time.process_time() - spent) / wall, len(self._calls))

    def _work(self, call: Calls, plan: _Plan, turns: Iterator[int]) -> None:
        waited = _waited_for_a_core()
        self._ask(call, plan, turns)
        plan.core_waits.append(_waited_for_a_core() - waited)

    def _ask(self, call: Calls, plan: _Plan, turns: Iterator[int]) -> None:
        """Take the next request, wait until it is due, ask; `next` of a counter is whole under the interpreter lock."""
        from tritonclient.utils import InferenceServerException

        clock, rows, due = time.perf_counter, self._rows, plan.due
        for turn in turns:
            if turn >= len(due):
                return
            free, at = clock(), plan.start + due[turn]
            if free > plan.last:
                continue
            if at > free:
                time.sleep(at - free)
            else:
                plan.waited[turn] = True
            plan.sent[turn] = clock() - plan.start
            try:
                call(rows[turn % len(rows)])
            except InferenceServerException as error:
                plan.failures.append(str(error))
                continue
            plan.done[turn] = clock() - plan.start


def _summed_up(plan: _Plan, rate: float, seconds: float, wall: float, cores: float, connections: int) -> Step:
    """A step from the times of its requests; one without an answer counts as an endless one."""
    import numpy as np

    due, count = np.array(plan.due), len(plan.due)
    times, answered = 1000 * (plan.done - due), int(np.isfinite(plan.done).sum())
    unsent = int(np.isinf(plan.sent).sum())
    prompt = np.isfinite(plan.sent) & ~plan.waited
    late = 1000 * float(np.quantile((plan.sent - due)[prompt], 0.99)) if prompt.any() else 0.0
    waits = sum(plan.core_waits) / wall
    found = {share: _quantile(times, share) for share in (0.5, 0.95, 0.99)}
    return Step(
        rate=rate,
        answered_rps=answered / max(seconds, float(plan.done[np.isfinite(plan.done)].max()) if answered else 0.0),
        p50_ms=found[0.5], p95_ms=found[0.95], p99_ms=found[0.99],
        p999_ms=_quantile(times, 0.999) if count >= 1000 else None,
        requests=count, failed=len(plan.failures), unsent=unsent, waited=int(plan.waited.sum()),
        late_p99_ms=late, client_cores=cores, client_waits=waits, connections=connections, seconds=wall,
        saturated=_saturated(late, cores, waits), failure=plan.failures[0] if plan.failures else None,
    )  # fmt: skip


def _quantile(times: np.ndarray, share: float) -> float | None:
    """A time that was measured, never one between two: with few requests it is the longest."""
    import numpy as np

    value = float(np.quantile(times, share, method="higher"))
    return value if np.isfinite(value) else None


def _saturated(late_ms: float, cores: float, waits: float) -> str | None:
    if late_ms > LATE_MS:
        return f"this machine had no core for the client, which sent {late_ms:.1f} ms late (p99) over free connections"
    if cores > BUSY:
        return f"the client took {cores:.0%} of a core"
    if cores + waits > BUSY:
        return f"the client had {cores:.0%} of a core, and its threads waited {waits:.1f} s a second for more"
    return None


def _waited_for_a_core() -> float:
    """Seconds that this thread has waited for a core; 0 where the kernel does not tell."""
    try:
        return int(_SCHEDULED.read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0
