"""What the router and Triton count, read from the server's own /metrics: rates, latency quantiles, errors, by arm.

Counts run since the router was loaded; a rate is the difference of two looks. It asks no model and reads no log.
"""

from __future__ import annotations

import http.client
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from dl_pipelines.serving.process import TritonError

REQUESTS, LATENCY, SHADOW = "dlp_requests_total", "dlp_latency_ms_bucket", "dlp_shadow_requests_total"
LOG_ERRORS, BREAKER = "dlp_log_errors_total", "dlp_breaker_open"
OUTCOMES = ("answered", "fell_back", "failed", "refused")
QUANTILES = (0.5, 0.95, 0.99)

Labels = frozenset[tuple[str, str]]
Samples = Mapping[tuple[str, Labels], float]
"""Values by a metric's name and labels."""

_LINE = re.compile(r'([A-Za-z_:][\w:]*)(?:\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\})?\s+(\S+)(?:\s+-?\d+)?\s*')
_LABEL = re.compile(r'\s*([A-Za-z_]\w*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)')
_ESCAPES = {r"\n": "\n", r"\"": '"', r"\\": "\\"}


def parse(text: str) -> dict[tuple[str, Labels], float]:
    """Prometheus' text format 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats). Raises TritonError."""
    found: dict[tuple[str, Labels], float] = {}
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        try:
            if match is None:
                raise ValueError("no sample")
            found[match[1], _labels(match[2] or "")] = float(match[3])
        except ValueError:
            raise TritonError(
                f"found {line[:100]!r} among the server's metrics; expected NAME{{LABELS}} VALUE; is it Triton that "
                "listens there?"
            ) from None
    return found


def _labels(text: str) -> Labels:
    found, at = [], 0
    while at < len(text):
        match = _LABEL.match(text, at)
        if match is None:
            raise ValueError("no label")
        found.append((match[1], re.sub(r"\\.", lambda escape: _ESCAPES.get(escape[0], escape[0]), match[2])))
        at = match.end()
    return frozenset(found)


def scrape(port: int, timeout: float = 3) -> dict[tuple[str, Labels], float]:
    """What the server at this metrics port of 127.0.0.1 says now. Raises OSError, TritonError."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", "/metrics")
        reply = connection.getresponse()
        text = reply.read().decode()
        if reply.status != 200:
            raise TritonError(f"found status {reply.status} at the metrics port {port}; expected 200; read its log")
        return parse(text)
    except http.client.HTTPException as error:
        raise ConnectionError(f"{type(error).__name__} on port {port}") from error
    finally:
        connection.close()


def quantile(buckets: Iterable[tuple[float, float]], share: float) -> float | None:
    """A quantile from cumulative counts by upper bound, the last one infinite; None of nothing.

    Linear within a bucket, as Prometheus' `histogram_quantile` does; beyond the last finite bound it is that bound.
    """
    rising = sorted(buckets)
    total = rising[-1][1] if rising else 0.0
    if not total > 0:
        return None
    wanted, low, below = share * total, 0.0, 0.0
    for bound, count in rising:
        if count >= wanted:
            if math.isinf(bound):
                return low
            return low + (bound - low) * (wanted - below) / (count - below) if count > below else bound
        low, below = bound, count
    return low


@dataclass(frozen=True)
class ArmTraffic:
    """One arm between two looks: requests a second by outcome, quantiles of the latency in the router, ms (or None)."""

    arm: str
    rates: Mapping[str, float]
    totals: Mapping[str, float]
    latency_ms: Mapping[float, float | None]

    @property
    def rate(self) -> float:
        """Requests a second."""
        return sum(self.rates.values())

    @property
    def errors(self) -> float:
        """The share of its requests that failed or fell back on the champion; 0 when there were none."""
        bad = self.rates.get("failed", 0.0) + self.rates.get("fell_back", 0.0)
        return bad / self.rate if self.rate else 0.0


@dataclass(frozen=True)
class Traffic:
    """What a project's router did between two looks; `triton` are Triton's own requests a second, by model."""

    project: str
    seconds: float
    arms: tuple[ArmTraffic, ...]
    refused: float
    shadow: Mapping[str, float]
    log_errors: float
    breakers: Mapping[str, bool]
    triton: Mapping[str, float]

    def arm(self, name: str) -> ArmTraffic:
        """An arm by name; one without requests is all zeros."""
        none = ArmTraffic(name, {}, {}, dict.fromkeys(QUANTILES))
        return next((arm for arm in self.arms if arm.arm == name), none)

    def plain(self) -> dict[str, object]:
        """As plain data, for JSON."""
        return {
            "seconds": self.seconds,
            "arms": [
                {
                    "arm": arm.arm, "requests_per_second": arm.rate, "errors": arm.errors, "totals": dict(arm.totals),
                    **{f"p{100 * share:g}_ms": value for share, value in arm.latency_ms.items()},
                }
                for arm in self.arms
            ],
            "refused_per_second": self.refused, "shadow_per_second": dict(self.shadow),
            "log_errors": self.log_errors, "breakers_open": sorted(name for name, on in self.breakers.items() if on),
            "triton_requests_per_second": dict(self.triton),
        }  # fmt: skip


def traffic(project: str, before: Samples, after: Samples, seconds: float) -> Traffic:
    """What a project's router did in the `seconds` between two looks. A counter that fell began anew from zero."""

    def grown(key: tuple[str, Labels]) -> float:
        now, then = after[key], before.get(key, 0.0)
        return now - then if now >= then else now

    mine = [(name, dict(labels), (name, labels)) for name, labels in after if ("project", project) in labels]
    rates: dict[str, dict[str, float]] = defaultdict(dict)
    totals: dict[str, dict[str, float]] = defaultdict(dict)
    buckets: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for name, labels, key in mine:
        if name == REQUESTS:
            rates[labels["arm"]][labels["outcome"]] = grown(key) / seconds
            totals[labels["arm"]][labels["outcome"]] = after[key]
        elif name == LATENCY:
            buckets[labels["arm"]].append((float(labels["le"]), grown(key)))
    refused = rates.pop("", {}).get("refused", 0.0)  # before it had an arm
    arms = tuple(
        ArmTraffic(arm, rates[arm], totals[arm], {share: quantile(buckets[arm], share) for share in QUANTILES})
        for arm in sorted(rates, key=lambda arm: (arm != "champion", arm))
    )
    return Traffic(
        project,
        seconds,
        arms,
        refused,
        {labels["outcome"]: grown(key) / seconds for name, labels, key in mine if name == SHADOW},
        sum(after[key] for name, _, key in mine if name == LOG_ERRORS),
        {labels["model"]: after[key] > 0 for name, labels, key in mine if name == BREAKER},
        _triton(project, after, grown, seconds),
    )


def _triton(
    project: str, after: Samples, grown: Callable[[tuple[str, Labels]], float], seconds: float
) -> dict[str, float]:
    found: dict[str, float] = defaultdict(float)
    for name, labels in after:
        model = dict(labels).get("model", "")
        if name == "nv_inference_request_success" and (model == project or model.startswith(f"{project}__")):
            found[model] += grown((name, labels)) / seconds
    return dict(found)
