"""Targets: what the system must reach, as a contract on an artifact (`trained`, `compressed` or `served`)."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Where = Literal["trained", "compressed", "served"]

# Metrics that any task has, because they belong to the artifact and not to its answers: (unit, better).
SYSTEM_METRICS: dict[str, tuple[str, str]] = {
    "latency_p50_ms": ("ms", "lower"),
    "latency_p95_ms": ("ms", "lower"),
    "latency_p99_ms": ("ms", "lower"),
    "throughput_rps": ("requests/s", "higher"),
    "size_mb": ("MB", "lower"),
}
# On which artifacts a system metric is measured; what a task registers is measured on all three.
MEASURED_ON: dict[str, tuple[Where, ...]] = {
    "latency_p50_ms": ("compressed", "served"),
    "latency_p95_ms": ("served",),
    "latency_p99_ms": ("served",),
    "throughput_rps": ("served",),
    "size_mb": ("trained", "compressed", "served"),
}


class Target(BaseModel):
    """`{metric, op, value, slice, where}`; `slice` names a subset of the rows, None is all of them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    metric: str
    op: Literal[">=", "<="] = ">="
    value: float
    slice: str | None = None
    where: Where = "served"

    @property
    def name(self) -> str:
        """How the verdict calls it: `accuracy >= 0.95 (served)`."""
        part = f" on {self.slice}" if self.slice else ""
        return f"{self.metric} {self.op} {self.value:g}{part} ({self.where})"

    def met_by(self, measured: float) -> bool:
        """Whether a measured value, in the metric's own unit, meets the target."""
        return measured >= self.value if self.op == ">=" else measured <= self.value
