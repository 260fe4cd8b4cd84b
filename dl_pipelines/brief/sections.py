"""The ten sections of a brief, in the template's order, with their defaults; frozen, unknown fields refused.

Only the frame is here; sections 8 to 10 are in live.py. What depends on a task, source, family or technique is `{name,
params}` and is validated by the class that the name is registered for. A stage receives its own section, never the
whole brief.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dl_pipelines.brief.live import Lifecycle, Monitoring, Serving
from dl_pipelines.brief.references import (
    Augmentation,
    Family,
    FamilyRef,
    Section,
    Source,
    Task,
    TechniqueRef,
    Techniques,
)
from dl_pipelines.brief.targets import Target

_HOST = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?):([1-9][0-9]{0,3})")


class Problem(Section):
    """1. What the system must do, and how well."""

    task: Task
    description: str = ""
    targets: tuple[Target, ...] = ()
    priority: Literal["accuracy", "latency", "throughput", "cost", "energy"] = Field(
        default="accuracy", description="what decides between candidates that are equally good"
    )


class Validation(Section):
    """What a day of records must satisfy beyond the schema of the task."""

    max_quarantined: float = Field(
        default=0.05, ge=0, le=1, description="share of a day's records that may be quarantined"
    )
    max_duplicates: float = Field(
        default=0.01, ge=0, le=1, description="share of a day's records that may repeat another"
    )
    min_records: int = Field(default=1, ge=1, description="records a day must have after cleaning")
    mean_range: tuple[float, float] | None = Field(
        default=None, description="allowed range of a record's mean input value"
    )


class Split(Section):
    """Shares of the splits; the train split gets the rest."""

    validation: float = Field(default=0.15, gt=0, lt=1)
    test: float = Field(default=0.15, gt=0, lt=1)

    @model_validator(mode="after")
    def _leaves_train(self) -> Split:
        if self.validation + self.test >= 0.9:
            raise ValueError("validation + test below 0.9, so that something is left to train on")
        return self


class AugmentationPlan(Section):
    """Which variants are made: `offline` copies are stored, `online` transforms are drawn anew each epoch."""

    factor: int = Field(default=1, ge=1, le=32, description="records out per train record in, with the original")
    offline: tuple[Augmentation, ...] = ()
    online: tuple[Augmentation, ...] = ()
    seed: int = Field(default=0, ge=0)


class Data(Section):
    """2. From which records, how they are cleaned, split and augmented."""

    source: Source
    timezone: str = "UTC"
    start: date | None = Field(default=None, description="first day; None: the source's own first day")
    window_days: int | None = Field(default=None, ge=1, description="days a model trains on; None: all history")
    validation: Validation = Validation()
    split: Split = Split()
    augmentation: AugmentationPlan = AugmentationPlan()

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError("an IANA time zone such as UTC or Europe/Berlin")
        ZoneInfo(value)
        return value


class Comparison(Section):
    """Candidates that are trained alike, with several seeds, and measured; none: no comparison."""

    candidates: tuple[Family, ...] = ()
    seeds: int = Field(default=3, ge=1, le=20, description="trainings of each candidate")
    epochs: int | None = Field(default=None, ge=1, le=10_000, description="of each training; None: training.epochs")
    max_rows: int | None = Field(default=None, ge=10, description="train rows that are drawn; None: all")
    choose: bool = Field(default=True, description="train the best candidate in place of architecture.family")
    keep_days: int = Field(default=30, ge=1, description="days for which later models go by the same comparison")


class Pretrained(Section):
    """Weights that a training begins from, where names and shapes fit."""

    weights: str = Field(description="a safetensors file")
    freeze: float = Field(
        default=0.0, ge=0, lt=1, description="share of the layers, from the input on, that stay as they are"
    )
    layer_decay: float = Field(
        default=1.0, gt=0, le=1, description="factor of the learning rate from each layer to the one before it"
    )


class Architecture(Section):
    """3. What is trained."""

    family: Family = FamilyRef(name="cnn")
    comparison: Comparison = Comparison()
    pretrained: Pretrained | None = None


class Range(Section):
    """Values that a search may take: `choices`, or from `low` to `high`, whole numbers where both ends are whole."""

    low: float | None = None
    high: float | None = None
    log: bool = Field(default=False, description="whether factors count, not differences")
    choices: tuple[bool | int | float | str, ...] = ()

    @model_validator(mode="after")
    def _one_kind(self) -> Range:
        ends = self.low is not None and self.high is not None
        if self.choices and (self.low is not None or self.high is not None or self.log):
            raise ValueError("either choices, or low and high")
        if not self.choices and not (ends and self.low < self.high):  # type: ignore[operator]
            raise ValueError("choices, or low below high")
        if self.log and not (self.low is not None and self.low > 0):
            raise ValueError("low above 0 with log: true")
        return self

    @property
    def whole(self) -> bool:
        """Whether it is a range of whole numbers."""
        return not self.choices and float(self.low or 0).is_integer() and float(self.high or 0).is_integer()


class Search(Section):
    """The hyperparameter study: how many configurations are tried, from which space, which are given up early."""

    trials: int = Field(default=0, ge=0, le=10_000, description="configurations, the brief's own first; 0: no search")
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    pruner: Literal["asha", "hyperband", "none"] = "asha"
    space: dict[str, Range] = Field(
        default_factory=dict,
        description="path below training or architecture.family.params -> values; empty: around the brief's own",
    )
    metric: str | None = Field(default=None, description="of validation rows; None: loss where the task has it")
    max_rows: int | None = Field(default=None, ge=10, description="train rows that are drawn; None: all")
    keep_days: int = Field(default=30, ge=1, description="days for which later models go by the same study")
    seed: int = Field(default=0, ge=0)


class Training(Section):
    """4. How it is trained. Units: epochs, records a worker and step, fraction of 1 for the rates."""

    epochs: int = Field(default=10, ge=1, le=10_000)
    batch_size: int = Field(default=64, ge=1, description="records a worker and step")
    accumulate: int = Field(
        default=1, ge=1, le=1024, description="batches whose gradients make one step of the optimizer"
    )
    learning_rate: float = Field(default=1e-3, gt=0, lt=10)
    weight_decay: float = Field(default=1e-4, ge=0, lt=1, description="of weights; never of norms and biases")
    optimizer: Literal["adamw", "adam", "sgd", "rmsprop", "muon"] = "adamw"
    schedule: Literal["cosine", "one_cycle", "plateau", "constant"] = "cosine"
    warmup_epochs: float = Field(default=0.5, ge=0)
    loss: str | None = Field(default=None, description="one that the family has; None: its first")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    class_weights: Literal["none", "balanced"] = "none"
    precision: Literal["fp32", "bf16", "fp16", "mixed"] = Field(
        default="fp32", description="mixed: bf16 where the hardware has it, else fp16 on a GPU, else fp32"
    )
    compile: Literal["auto", "on", "off"] = Field(
        default="auto", description="auto: where a measurement says that it pays"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: a GPU where there is one")
    clip: float | None = Field(default=None, gt=0, description="largest global norm of a step's gradients; None: any")
    ema: float | None = Field(
        default=None, gt=0, lt=1, description="decay a step of averaged weights, which are the model then; None: none"
    )
    patience: int | None = Field(
        default=None, ge=1, description="epochs without a better validation metric until it stops; None: all epochs"
    )
    checkpoint_steps: int | None = Field(
        default=None, ge=1, description="steps between checkpoints; None: one at the end of each epoch"
    )
    warm_epochs: int | None = Field(
        default=None, ge=1, le=10_000,
        description="epochs of a training that starts from the last model of this experiment, of an earlier day; None: "
        "each starts anew",
    )  # fmt: skip
    seed: int = Field(default=0, ge=0)
    search: Search = Search()


class Scaling(Section):
    """The scaling report: the same samples by each number of workers, measured; none: no report."""

    workers: tuple[Annotated[int, Field(ge=1, le=64)], ...] = ()
    steps: int = Field(default=30, ge=5, le=100_000, description="steps of one worker; more workers share them")
    keep_days: int = Field(default=30, ge=1, description="days for which later models go by the same report")


class Distributed(Section):
    """5. Over how many workers. A failed worker restarts the training from its last checkpoint, `restarts` times."""

    communicator: Literal["horovod", "torch", "single"] = "horovod"
    workers: int = Field(default=2, ge=1, le=64)
    threads: int = Field(default=1, ge=1, description="CPU threads a worker")
    hosts: tuple[str, ...] = Field(
        default=(), description="horovod's: name:slots of each machine; empty: this one, reachable from itself only"
    )
    compression: Literal["none", "fp16", "bf16"] = Field(
        default="none", description="of gradients while they are exchanged"
    )
    reduction: Literal["average", "adasum"] = "average"
    shared_memory: bool = Field(
        default=True,
        description="exchange gradients that are neither compressed nor reduced by adasum through memory, where all "
        "workers are on one machine; false: through the communicator's sockets",
    )
    bucket_mb: float = Field(default=8, gt=0, le=1024, description="gradients that are exchanged together")
    cycle_ms: float = Field(default=10, gt=0, le=1000, description="how often horovod looks for gradients")
    restarts: int = Field(default=2, ge=0, le=10)
    stall_seconds: float = Field(default=120, gt=0, description="no progress for so long ends the attempt")
    price_per_hour: float | None = Field(
        default=None, ge=0, description="of the machines, in USD; None: costs are not told"
    )
    scaling: Scaling = Scaling()

    @model_validator(mode="after")
    def _single_is_one(self) -> Distributed:
        if self.communicator == "single" and self.workers != 1:
            raise ValueError("workers: 1 with communicator: single")
        return self

    @field_validator("hosts")
    @classmethod
    def _names_and_slots(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [host for host in hosts if not _HOST.fullmatch(host)]
        if wrong:
            raise ValueError(f"name:slots of each machine, such as 10.0.0.7:2 or gpu-1:8, not {wrong[0]!r}")
        names = [host.rpartition(":")[0].lower() for host in hosts]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"each machine once, not {twice[0]} again; give it more slots")
        return hosts

    @model_validator(mode="after")
    def _hosts_have_slots(self) -> Distributed:
        slots = sum(int(host.rpartition(":")[2]) for host in self.hosts)
        if self.hosts and self.communicator != "horovod":
            raise ValueError("communicator: horovod with hosts; the others train on one machine")
        if self.hosts and slots < self.workers:
            raise ValueError(f"hosts with at least as many slots ({slots}) as workers ({self.workers})")
        return self


class Ablation(Section):
    """What each augmentation is worth: trainings with all of them, without each one, and with none, for each seed."""

    seeds: int = Field(default=0, ge=0, le=10, description="trainings of each plan; 0: not measured")
    epochs: int | None = Field(default=None, ge=1, le=10_000, description="of each training; None: training.epochs")
    max_rows: int | None = Field(default=None, ge=10, description="train rows that are drawn; None: all")


class Evaluation(Section):
    """6. How it is measured: bootstrap intervals at `confidence`, thresholds by metric on the test rows."""

    resamples: int = Field(default=1000, ge=100, le=100_000)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    thresholds: dict[str, float] = Field(default_factory=dict, description="metric -> bound on the test rows")
    seed: int = Field(default=0, ge=0)
    ablation: Ablation = Ablation()


class Compression(Section):
    """7. What may be tried to make it smaller, faster or thriftier, for which objective, within which loss."""

    objective: Literal["latency", "size", "energy"] = Field(
        default="latency", description="energy needs a counter that this machine shows (RAPL)"
    )
    techniques: Techniques = Field(
        default=(TechniqueRef(name="static_int8"),), description="all, or those that may be tried"
    )
    runtimes: tuple[Literal["onnxruntime", "openvino"], ...] = Field(
        default=("onnxruntime", "openvino"), description="that may serve; the first is the baseline"
    )
    max_loss: float = Field(
        default=0.005, ge=0, le=1, description="of the primary metric, in its own unit, on validation rows"
    )
    timing_rounds: int = Field(default=30, ge=5, le=10_000)

    @field_validator("runtimes")
    @classmethod
    def _runtimes_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) < len(value):
            raise ValueError("at least one runtime, each once")
        return value

    @field_validator("techniques")
    @classmethod
    def _techniques_once(cls, value: Any) -> Any:
        if value != "all" and any(ref in value[:place] for place, ref in enumerate(value)):
            raise ValueError("each technique once, or with other params")
        return value


class Brief(BaseModel):
    """A whole brief. Only `project`, `problem.task` and `data.source` have no default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    project: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$", description="lower case letters, digits, underscores")
    problem: Problem
    data: Data
    architecture: Architecture = Architecture()
    training: Training = Training()
    distributed: Distributed = Distributed()
    evaluation: Evaluation = Evaluation()
    compression: Compression = Compression()
    serving: Serving = Serving()
    monitoring: Monitoring = Monitoring()
    lifecycle: Lifecycle = Lifecycle()

    @field_validator("project")
    @classmethod
    def _not_a_shared_name(cls, value: str) -> str:
        if value in {"default", "all", "shared"} or "__" in value:
            raise ValueError("a project name other than default, all, shared, and without '__'")
        return value
