"""Counts of what the router did, and a thread that brings them to Triton's own metrics, away from any request.

What they are called in `/metrics` is below; there they go on when a router is loaded anew. Knows Triton only by the
families given.
"""

from __future__ import annotations

import bisect
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

BOUNDS_MS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0)
FAMILIES = {
    "dlp_requests_total": "Requests by assigned arm and what became of them",
    "dlp_latency_ms_bucket": "Requests answered within so many milliseconds inside the router, by assigned arm",
    "dlp_shadow_requests_total": "Requests shown to the shadow, or left out because it could not keep up",
    "dlp_log_errors_total": "Appends to the prediction log that failed",
}
"""Counters. The buckets are cumulative and have an `le`, as those of a Prometheus histogram."""
GAUGES = {
    "dlp_breaker_open": "1 while a challenger is not asked any more",
    "dlp_arm_share": "Share of the units that the routing table gives to an arm",
}
EVERY_S = 0.5

Labels = tuple[tuple[str, str], ...]
Key = tuple[str, Labels]


class Counters:
    """Counts by family and labels; thread-safe. All have the label `project`."""

    def __init__(self, project: str):
        self._project, self._lock = project, threading.Lock()
        self._requests: Counter[tuple[str, str]] = Counter()
        self._places: Counter[tuple[str, int]] = Counter()
        self._shadow: Counter[str] = Counter()
        self._log_errors = 0
        self._open: dict[str, bool] = {}
        self._shares: dict[str, float] = {}

    def request(self, arm: str, outcome: str, milliseconds: float | None = None) -> None:
        """A request ended: answered, fell_back, failed or refused."""
        with self._lock:
            self._requests[arm, outcome] += 1
            if milliseconds is not None:
                self._places[arm, bisect.bisect_left(BOUNDS_MS, milliseconds)] += 1

    def shadow(self, outcome: str, count: int = 1) -> None:
        """Requests of the shadow: answered, failed or left_out."""
        with self._lock:
            self._shadow[outcome] += count

    def log_error(self) -> None:
        """An append to the log failed."""
        with self._lock:
            self._log_errors += 1

    def breakers(self, states: Mapping[str, bool]) -> None:
        """Whether the breaker of each present challenger is open; one that is gone has none."""
        with self._lock:
            self._open = {**dict.fromkeys(self._open, False), **states}

    def shares(self, weights: Mapping[str, float]) -> None:
        """The arms of the present routing table with their weights; an arm that is gone has none."""
        whole = sum(weights.values())
        with self._lock:
            self._shares = {**dict.fromkeys(self._shares, 0.0), **{arm: weights[arm] / whole for arm in weights}}

    def totals(self) -> dict[Key, float]:
        """Everything, as it is now."""
        with self._lock:
            found: dict[Key, float] = {("dlp_log_errors_total", self._labels()): float(self._log_errors)}
            for (arm, outcome), count in self._requests.items():
                found["dlp_requests_total", self._labels(arm=arm, outcome=outcome)] = float(count)
            for outcome, count in self._shadow.items():
                found["dlp_shadow_requests_total", self._labels(outcome=outcome)] = float(count)
            for model, is_open in self._open.items():
                found["dlp_breaker_open", self._labels(model=model)] = float(is_open)
            for arm, share in self._shares.items():
                found["dlp_arm_share", self._labels(arm=arm)] = share
            for arm in {arm for arm, _ in self._places}:
                below = 0
                for place, bound in enumerate((*map(_told, BOUNDS_MS), "+Inf")):
                    below += self._places[arm, place]
                    found["dlp_latency_ms_bucket", self._labels(arm=arm, le=bound)] = float(below)
        return found

    def _labels(self, **labels: str) -> Labels:
        return (("project", self._project), *labels.items())


def _told(bound: float) -> str:
    return f"{bound:g}"


class Publisher:
    """Brings the counts to Triton twice a second."""

    def __init__(self, counters: Counters, family: Callable[[str, str, bool], Any], before: Callable[[], None]):
        """`family` makes a metric family of a name, a help text, gauge or not; `before` is called each time."""
        self._counters, self._before = counters, before
        self._families = {name: family(name, text, False) for name, text in FAMILIES.items()}
        self._families |= {name: family(name, text, True) for name, text in GAUGES.items()}
        self._metrics: dict[Key, Any] = {}
        self._sent: dict[Key, float] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, name="counters", daemon=True)
        self._thread.start()

    def publish(self) -> None:
        """Send how much the counters grew, and the gauges as they are: another router may have set them meanwhile."""
        for key, total in self._counters.totals().items():
            name, labels = key
            if key not in self._metrics:
                self._metrics[key] = self._families[name].metric(dict(labels))
            if name in GAUGES:
                self._metrics[key].set(total)
            elif grown := total - self._sent.get(key, 0.0):
                self._metrics[key].increment(grown)
                self._sent[key] = total

    def close(self) -> None:
        """Send the rest and end; what breakers were open is the next router's to say."""
        self._counters.breakers({})
        self._end.set()
        self._thread.join(5)

    def _work(self) -> None:
        ended = False
        while not ended:
            ended = self._end.wait(EVERY_S)
            try:
                if not ended:
                    self._before()
                self.publish()
            except Exception as error:  # noqa: BLE001 - Triton's own errors; counting goes on, requests don't notice
                print(f"router: counts were not published: {error}", file=sys.stderr, flush=True)
