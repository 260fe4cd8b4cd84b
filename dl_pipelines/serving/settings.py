"""How a model is run by its server: queue delay, instances, threads. What a benchmark may choose from, what it chose.

Nothing is measured here (benchmark.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from dl_pipelines.brief.live import Serving
from dl_pipelines.brief.targets import Target
from dl_pipelines.evaluation.wording import number, plural
from dl_pipelines.store.artifacts import Artifact, ArtifactError

STAGE = "serving_benchmark"
CHOICE = "choice.json"
PROTOCOLS = {"grpc": "gRPC", "http": "HTTP", "shared_memory": "shared memory"}
"""Name of a protocol, and how a person reads it."""
DEFAULT_LIMIT_MS = 50.0


@dataclass(frozen=True)
class Settings:
    """How long a request waits for others (ms), how many copies of the model run, and CPU threads of each."""

    queue_delay_ms: float
    instances: int
    threads: int

    @classmethod
    def of(cls, serving: Serving) -> Settings:
        """As the brief says."""
        return cls(serving.queue_delay_ms, serving.instances, serving.threads)

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> Settings:
        """From a row of what was measured."""
        return cls(row["queue_delay_ms"], row["instances"], row["threads"])

    def applied(self, serving: Serving) -> Serving:
        """The brief's section with these in place of its own."""
        return serving.model_copy(update=asdict(self))

    def __str__(self) -> str:
        copies = f"{plural(self.instances, 'instance')} of {plural(self.threads, 'thread')}"
        return f"{copies}, {number(self.queue_delay_ms)} ms queue delay"


def in_words(rate: float) -> str:
    """A rate in three digits: it is not known better."""
    return f"{number(float(f'{rate:.3g}'))} requests/s"


def copies(serving: Serving, cores: int) -> list[Settings]:
    """The brief's own with other instances and threads, no more threads in all than this machine has cores."""
    asked, own = serving.benchmark, Settings.of(serving)
    every = (replace(own, instances=many, threads=each) for many in asked.instances for each in asked.threads)
    return [item for item in dict.fromkeys(every) if item != own and item.instances * item.threads <= cores]


def delays(serving: Serving, best: Settings) -> list[Settings]:
    """The best so far with other queue delays."""
    every = (replace(best, queue_delay_ms=delay) for delay in serving.benchmark.queue_delays_ms)
    return [item for item in dict.fromkeys(every) if item != best]


def limit_of(serving: Serving, targets: tuple[Target, ...]) -> tuple[float, str]:
    """Milliseconds that 99 of 100 requests must keep, and where that was said.

    A target on p95 is held by 99 of 100 too: stricter than it says, and one rule for all.
    """
    if serving.benchmark.p99_ms is not None:
        return serving.benchmark.p99_ms, "serving.benchmark.p99_ms"
    for metric in ("latency_p99_ms", "latency_p95_ms"):
        found = [item.value for item in targets if (item.metric, item.where, item.op) == (metric, "served", "<=")]
        if found:
            return min(found), f"the brief's target of {metric}"
    return DEFAULT_LIMIT_MS, "no target of the brief"


def chosen(serving: Serving, benchmark: Artifact | None) -> Serving:
    """The section with what a benchmark chose; as it is without one.

    Raises ArtifactError when the benchmark was made before the brief asked for it.
    """
    if benchmark is None:
        return serving
    choice = benchmark.read_json(CHOICE)
    if not choice:
        raise ArtifactError(
            f"found that {STAGE} {benchmark.short} measured nothing; expected a choice: serving.benchmark.seconds is "
            f"{serving.benchmark.seconds:g}; run {STAGE} again"
        )
    return Settings(**choice).applied(serving)
