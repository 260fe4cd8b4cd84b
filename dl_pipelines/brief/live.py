"""The sections of a brief about a model that is live: 8 serving, 9 monitoring, 10 lifecycle."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal

from pydantic import Field, field_validator

from dl_pipelines.brief.references import Secret, Section, Traffic, TrafficRef


class PredictionLog(Section):
    """What is kept of live requests. A request's own inputs never are: only a few numbers about them."""

    sample: float = Field(
        default=1, ge=0, le=1,
        description="share of the units whose answers and summaries are kept; of others only who answered and when",
    )  # fmt: skip
    columns: tuple[str, ...] = Field(
        default=(),
        description="request parameters that are kept as they come, as country; unit_id too is only kept hashed unless "
        "it is named here",
    )
    keep_days: int | None = Field(default=None, ge=1, description="days that answers are kept; None: for ever")
    segment_mb: float = Field(default=16, gt=0, le=1024, description="a file of the log is followed by the next one")


class Router(Section):
    """How the router treats a challenger: the champion answers whenever it fails."""

    timeout_ms: float = Field(default=500, gt=0, description="a challenger without an answer by then has failed")
    breaker: int = Field(default=10, ge=1, description="failures in a row after which a challenger is not asked again")


class Benchmark(Section):
    """The serving benchmark: an open loop of rising rates, and the settings that it may choose from."""

    seconds: float = Field(default=0, ge=0, le=60, description="of each step; 0: nothing is measured or chosen")
    p99_ms: float | None = Field(
        default=None, gt=0, description="what a rate must keep; None: the brief's target of the served latency, else 50"
    )
    queue_delays_ms: tuple[Annotated[float, Field(ge=0, le=1000)], ...] = (0, 0.5, 2)
    instances: tuple[Annotated[int, Field(ge=1, le=16)], ...] = (1, 2)
    threads: tuple[Annotated[int, Field(ge=1, le=64)], ...] = (1, 2)
    keep_days: int = Field(default=30, ge=1, description="days for which later models of this shape go by its choice")


class Serving(Section):
    """8. How it is served. Times in milliseconds (latency, queue delay)."""

    max_batch: int = Field(default=16, ge=1, le=1024)
    queue_delay_ms: float = Field(default=0, ge=0, le=1000, description="a request waits so long for others to come")
    instances: int = Field(default=1, ge=1, le=16)
    threads: int = Field(default=1, ge=1, le=64)
    timeout_ms: float = Field(default=2000, gt=0)
    durability: Literal["process", "disk"] = "process"
    load_seconds: float = Field(default=3, gt=0, le=600, description="length of the load test")
    load_clients: int = Field(default=4, ge=1, le=256)
    parity_tolerance: float = Field(default=1e-3, gt=0, description="allowed absolute difference of live outputs")
    log: PredictionLog = PredictionLog()
    router: Router = Router()
    benchmark: Benchmark = Benchmark()


class Monitoring(Section):
    """9. What is watched live. `false_alarms` is the rate per window, over all its features, if nothing has changed."""

    traffic: Traffic = TrafficRef(name="clients")
    min_records: int = Field(default=200, ge=20)
    false_alarms: float = Field(default=0.01, gt=0, lt=0.5)
    resamples: int = Field(default=500, ge=100, le=20_000)
    webhook: Secret | None = Field(default=None, description="where alerts are posted, as ${NAME}")
    seed: int = Field(default=0, ge=0)


class Rollout(Section):
    """The live experiment of a challenger: a share of the units at each stage, and what has to be shown there.

    Each stage is analysed by itself, by the arm that a unit was assigned to; a unit counts once, by its mean.
    """

    shares: tuple[float, ...] = Field(
        default=(0, 0.01, 0.1, 0.5),
        description="of the units, that the challenger answers, rising; 0: shadow, it sees all and answers nobody",
    )
    min_units: int = Field(
        default=2000, ge=20, description="units with a label, of both arms, that a stage needs before the next one"
    )
    min_hours: float = Field(default=1, ge=0, description="that a stage lasts at least")
    label_hours: float = Field(
        default=24, ge=0, description="a request is judged by its label when it is so old, not earlier"
    )
    alpha: float = Field(
        default=0.01, gt=0, lt=0.5,
        description="chance that a challenger is promoted which is worse by the margin, however often one looks",
    )  # fmt: skip
    harm_alpha: float = Field(
        default=0.05, gt=0, lt=0.5,
        description="chance that a challenger which is worse by no margin is taken out, by all tests of all stages",
    )  # fmt: skip
    max_units: int = Field(
        default=50_000, ge=100,
        description="units of a stage, old enough for a label, after which an undecided challenger is taken out",
    )  # fmt: skip
    max_hours: float = Field(
        default=336, gt=0,
        description="hours of a stage after which an undecided challenger is taken out: little traffic, no labels",
    )  # fmt: skip
    error_margin: float = Field(default=0.005, gt=0, lt=1, description="by which the share of failures may be higher")
    latency_quantile: float = Field(default=0.95, gt=0, lt=1)
    latency_margin: float = Field(
        default=0.25, gt=0, description="by which that quantile, and 1 ms for the server, may grow, as a share"
    )

    @field_validator("shares")
    @classmethod
    def _rising(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        rising = all(before < after for before, after in itertools.pairwise(shares))
        if not shares or not rising or not shares[0] >= 0 or not 0 < shares[-1] < 1:
            raise ValueError("rising shares from 0 on, the last one above 0 and below 1, such as [0, 0.01, 0.1, 0.5]")
        return shares


class Lifecycle(Section):
    """10. When it is trained again, who takes over, what is kept."""

    retrain_hour: int = Field(
        default=3, ge=0, le=23, description="hour of the daily retraining, in the brief's time zone"
    )
    retrain_on_drift: bool = True
    promotion: Literal["automatic", "manual"] = Field(
        default="automatic", description="manual: the sensor proposes, a person decides (`dlp promote`, or the job)"
    )
    evidence: Literal["held_out", "live"] = Field(
        default="held_out",
        description="what decides: held-out rows alone, or after them a live experiment in stages (rollout)",
    )
    rollout: Rollout = Rollout()
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="of the interval that decides a promotion")
    margin: float = Field(default=0.0, ge=0, description="by how much a challenger may be worse, primary metric")
    keep: int = Field(default=5, ge=1, description="newest artifacts of each stage that `dlp gc` keeps")
