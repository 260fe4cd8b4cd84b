"""Measures variants on the same rows: parity, metrics, paired loss, size, interleaved latency, energy. Decides nothing.

Parity is with the network that a variant was exported from; losses are against the trained model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TypeAlias

from dl_pipelines.brief.targets import SYSTEM_METRICS, Target
from dl_pipelines.compression.base import Objective, Variant
from dl_pipelines.compression.candidates import served_files
from dl_pipelines.compression.ledger import Estimate, Trial
from dl_pipelines.evaluation.slices import GATED_ROWS
from dl_pipelines.inference.runtimes import ModelRunError, RuntimeFileError, Session, open_runtime
from dl_pipelines.tasks.base import Parity, Rows, Task

if TYPE_CHECKING:
    import numpy as np

    from dl_pipelines.training.energy import Counter

RESAMPLES, CONFIDENCE, SEED = 1000, 0.95, 0
AGAIN = "the strongest again"
"""Another session of the same file."""
ENERGY_SECONDS, ENERGY_TURNS = 0.3, 7
"""A model answers alone for so long, in turns with the others, while the counter runs."""


Drawn: TypeAlias = "Mapping[str, np.ndarray]"


@dataclass(frozen=True)
class Candidate:
    """A variant as a runtime opens it. `variant.path` is in the runtime's format, or None with the failure."""

    variant: Variant
    runtime: str

    @property
    def key(self) -> str:
        """`static_int8 on openvino`."""
        return f"{self.variant.name} on {self.runtime}"


@dataclass(frozen=True)
class Bench:
    """The rows, what the trained model answered on them (`reference` [N, ...]), how a model is run as it will serve."""

    task: Task
    rows: Rows
    reference: np.ndarray
    threads: int
    rounds: int
    instances: int = 1
    targets: tuple[Target, ...] = ()
    objective: Objective = "latency"
    counter: Counter | None = None
    """Of energy; None where the objective does not need it."""
    _known: dict[bytes | None, Drawn] = field(default_factory=dict, init=False, compare=False, repr=False)
    """Metrics of resamples of the reference: of all rows, and of slices."""

    def open(self, path: Path, runtime: str, precision: str = "fp32") -> Session:
        """A model as it will serve. Raises RuntimeFileError."""
        return open_runtime(runtime, path, self.threads, precision)

    def run(
        self, candidates: Sequence[Candidate], own: Mapping[str, np.ndarray], baseline: Candidate, strongest: Candidate,
        say: Callable[[str, int, int], None],
    ) -> tuple[list[Trial], Trial]:  # fmt: skip
        """A trial for each candidate, and one of the strongest so far, timed in turns with them and with the baseline.

        The strongest is measured in two sessions: one of a model is a hundredth faster than another, and no interval
        over rounds knows of it. What is to beat is the faster of both, and the thriftier. `own`: by a variant's name
        the outputs [N, ...] of the torch network it was exported from.
        """
        trials: dict[str, Trial] = {}
        sessions: dict[str, Session] = {}
        known = {item.key: item for item in (baseline, strongest, *candidates)}
        for done, (key, candidate) in enumerate(known.items()):
            say(f"scoring {key}", done, len(known) + 1)
            trials[key], session = self._score(candidate, own[candidate.variant.name])
            if session is not None:
                sessions[key] = session
        say("timing them in turns", len(known), len(known) + 1)
        if strongest.key in sessions:
            sessions[AGAIN] = sessions[strongest.key].again()
        timed = self._time(sessions, self.rounds)
        joules = self._energy(sessions)
        twice = [key for key in (strongest.key, AGAIN) if key in sessions] or [strongest.key]
        faster = min(twice, key=lambda key: timed[key]["p50_ms"] if key in timed else 0)
        thriftier = min(twice, key=lambda key: median(joules.get(key, [0])))
        for key, trial in trials.items():
            trials[key] = self._judged(_with_latency(trial, timed, key, baseline.key, faster))
            trials[key] = _with_energy(trials[key], joules, key, thriftier)
        return [trials[item.key] for item in candidates], trials[strongest.key]

    def parity(self, variant: Variant, own: np.ndarray, session: Session) -> tuple[Parity, np.ndarray]:
        """Parity with the network's own outputs (exact for fp32), and the outputs on the rows."""
        from dl_pipelines.inference.parity import check_parity

        return check_parity(self.task, own, session, self.rows.inputs, exact=variant.precision == "fp32")

    def loss(self, outputs: np.ndarray, chosen: np.ndarray | None = None) -> Estimate:
        """Paired loss of the primary metric against the trained model, on all or the `chosen` rows; positive is worse.

        Raises KeyError where these rows don't determine the metric.
        """
        return self._loss(outputs, self._drawn(outputs, chosen), chosen)

    def worst(self, outputs: np.ndarray) -> float:
        """The upper end of the loss's interval, overall or on the gated slice that loses most. Raises KeyError too."""
        return max(loss["high"] for loss in (self.loss(outputs), *self._slices(outputs).values()))

    def determined(self, outputs: np.ndarray, chosen: np.ndarray | None = None) -> bool:
        """Whether these rows determine the primary metric, of the trained model and of these outputs."""
        rows = slice(None) if chosen is None else chosen
        targets, metric = self.rows.targets[rows], self.task.primary
        return all(metric in self.task.measure(found[rows], targets) for found in (self.reference, outputs))

    def _loss(self, outputs: np.ndarray, drawn: Drawn, chosen: np.ndarray | None = None) -> Estimate:
        """With the metrics of resamples of the outputs, which take longer than anything else here."""
        from dl_pipelines.evaluation.metrics import estimate

        metric, places = self.task.primary, slice(None) if chosen is None else chosen
        sign = 1.0 if self.task.metrics[metric].better == "lower" else -1.0
        values = [self.task.measure(found[places], self.rows.targets[places])[metric] for found in
                  (self.reference, outputs)]  # fmt: skip
        key = None if chosen is None else chosen.tobytes()
        if key not in self._known:
            self._known[key] = self._drawn(self.reference, chosen)
        before, after = self._known[key].get(metric), drawn.get(metric)
        apart = None if before is None or after is None else sign * (after - before)
        return {
            name: 0.0 + value for name, value in estimate(sign * (values[1] - values[0]), apart, CONFIDENCE).items()
        }

    def _drawn(self, outputs: np.ndarray, chosen: np.ndarray | None = None) -> Drawn:
        places = slice(None) if chosen is None else chosen
        return self.task.resampled(outputs[places], self.rows.targets[places], RESAMPLES, SEED)

    def time_files(self, files: Mapping[str, tuple[Path, str]], rounds: int | None = None) -> dict[str, dict[str, Any]]:
        """Latency of one row of float32 or int8 model files `{name: (path, runtime)}`, interleaved."""
        sessions = {name: self.open(path, runtime) for name, (path, runtime) in files.items()}
        return self._time(sessions, rounds or self.rounds)

    def _score(self, candidate: Candidate, own: np.ndarray) -> tuple[Trial, Session | None]:
        from dl_pipelines.evaluation.metrics import estimate

        variant, runtime = candidate.variant, candidate.runtime
        trial = Trial(
            variant.name, variant.technique, runtime, variant.precision, failure=variant.failure,
            untried=variant.untried, details=variant.details, network=variant.network is not None,
        )  # fmt: skip
        if variant.path is None:
            return trial, None
        try:
            session = self.open(variant.path, runtime, variant.precision)
            parity, outputs = self.parity(variant, own, session)
        except (RuntimeFileError, ModelRunError) as error:
            return replace(trial, failure=str(error)), None
        if wrong := _not_finite(outputs):
            return replace(trial, failure=wrong), None
        drawn, measured = self._drawn(outputs), self.task.measure(outputs, self.rows.targets)
        scored = replace(
            trial,
            size_mb=sum(path.stat().st_size for path in served_files(variant.path)) / 1e6,
            loss=self._loss(outputs, drawn) if self.determined(outputs) else None,
            slices=self._slices(outputs),
            metrics={name: estimate(value, drawn.get(name), CONFIDENCE) for name, value in measured.items()},
            by_slice=self._metrics_of_slices(outputs),
            parity_passed=parity.passed,
            parity=parity.summary,
        )
        return scored, session

    def _slices(self, outputs: np.ndarray) -> dict[str, Estimate]:
        """Paired losses on the slices that are large enough to decide on."""
        return {
            name: self.loss(outputs, chosen)
            for name, chosen in self.rows.slices.items()
            if int(chosen.sum()) >= GATED_ROWS and self.determined(outputs, chosen)
        }

    def _metrics_of_slices(self, outputs: np.ndarray) -> dict[str, dict[str, float]]:
        wanted = {target.slice for target in self.targets if target.slice is not None}
        return {
            name: self.task.measure(outputs[chosen], self.rows.targets[chosen])
            for name, chosen in self.rows.slices.items()
            if name in wanted and int(chosen.sum()) >= GATED_ROWS
        }

    def _judged(self, trial: Trial) -> Trial:
        """With the brief's targets that can be told here: on validation rows, one row at a time."""
        found = []
        for target in self.targets:
            value = _value(trial, target)
            if value is not None:
                found.append({"name": target.name, "value": value, "met": target.met_by(value)})
        return replace(trial, targets=tuple(found))

    def _time(self, sessions: Mapping[str, Session], rounds: int) -> dict[str, dict[str, Any]]:
        """Latency of one row at a time, as many at once as there will be instances, all models interleaved."""
        from dl_pipelines.inference.timing import time_interleaved

        one = self.rows.inputs[:1].copy()
        if self.instances == 1:
            return time_interleaved(
                {name: (lambda s=session: s.run(one)) for name, session in sessions.items()}, rounds
            )
        with ThreadPoolExecutor(self.instances) as threads:
            calls = {name: self._together(session, one, threads) for name, session in sessions.items()}
            return time_interleaved(calls, rounds)

    def _together(self, session: Session, one: np.ndarray, threads: ThreadPoolExecutor) -> Callable[[], Any]:
        sessions = [session, *(session.again() for _ in range(self.instances - 1))]
        return lambda: list(threads.map(lambda each: each.run(one), sessions))

    def _energy(self, sessions: Mapping[str, Session]) -> dict[str, list[float]]:
        """Joules of a thousand answers, by turns; nothing without a counter."""
        from dl_pipelines.training.energy import joules_in_turns

        if self.counter is None:
            return {}
        one = self.rows.inputs[:1].copy()
        answers = {name: (lambda s=session: len(s.run(one))) for name, session in sessions.items()}
        return joules_in_turns(self.counter, answers, ENERGY_SECONDS, ENERGY_TURNS)


def _not_finite(outputs: np.ndarray) -> str | None:
    import numpy as np

    if outputs.dtype.kind != "f":
        return None
    wrong = int((~np.isfinite(outputs.reshape(len(outputs), -1))).any(axis=1).sum())
    return f"it answers with NaN or infinity to {wrong} of {len(outputs)} rows" if wrong else None


def _value(trial: Trial, target: Target) -> float | None:
    if target.where == "trained":
        return None
    if target.metric in SYSTEM_METRICS:
        if target.metric == "size_mb":
            return trial.size_mb
        inside = target.metric == "latency_p50_ms" and target.where == "compressed" and trial.latency
        return trial.latency["p50_ms"] if inside and trial.latency else None
    if target.slice is not None:
        return trial.by_slice.get(target.slice, {}).get(target.metric)
    found = trial.metrics.get(target.metric)
    return None if found is None else found["value"]


def _with_latency(
    trial: Trial, timed: Mapping[str, Mapping[str, Any]], key: str, baseline: str, strongest: str
) -> Trial:  # fmt: skip
    from dl_pipelines.inference.timing import speed_up

    if key not in timed:
        return trial
    own = timed[key]
    latency = {name: own[name] for name in ("p50_ms", "low", "high")}
    faster = speed_up(timed[strongest]["samples"], own["samples"]) if strongest in timed else None
    gain = speed_up(timed[baseline]["samples"], own["samples"]) if baseline in timed else None
    return replace(trial, latency=latency, speed_up=faster, gain=gain)


def _with_energy(trial: Trial, joules: Mapping[str, list[float]], key: str, strongest: str) -> Trial:
    from dl_pipelines.inference.timing import median_interval, speed_up

    if key not in joules or strongest not in joules:
        return trial
    found = median_interval(joules[key])
    energy = {"value": found["p50_ms"], "low": found["low"], "high": found["high"]}
    return replace(trial, energy=energy, saving=speed_up(joules[strongest], joules[key]))
