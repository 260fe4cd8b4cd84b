"""Measures candidates on the same rows: parity, metrics, paired loss, size, interleaved latency. It decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dl_pipelines.compression.base import Variant
from dl_pipelines.compression.candidates import Key, served_files
from dl_pipelines.compression.ledger import Estimate, Trial
from dl_pipelines.inference.runtimes import ModelRunError, RuntimeFileError, Session, open_runtime
from dl_pipelines.tasks.base import Parity, Rows, Task

if TYPE_CHECKING:
    import numpy as np

RESAMPLES, CONFIDENCE, SEED = 1000, 0.95, 0


@dataclass(frozen=True)
class Bench:
    """The rows, what the trained model answered on them (`reference` [N, ...]), and how candidates are run."""

    task: Task
    rows: Rows
    reference: np.ndarray
    threads: int
    rounds: int

    def run(self, candidates: Mapping[Key, Variant], say: Callable[[str, int], None]) -> list[Trial]:
        """A trial for each candidate, in order; the first is the baseline of the speed-ups."""
        trials: dict[Key, Trial] = {}
        sessions: dict[Key, Session] = {}
        for done, (key, variant) in enumerate(candidates.items()):
            say(f"scoring {variant.name} on {key[1]}", done)
            trials[key], session = self._score(variant, key[1])
            if session is not None:
                sessions[key] = session
        say("timing, interleaved", len(candidates))
        timed = self._time(sessions)
        baseline = timed.get(next(iter(candidates)))
        return [_with_latency(trial, timed.get(key), baseline) for key, trial in trials.items()]

    def parity(self, variant: Variant, session: Session) -> tuple[Parity, np.ndarray]:
        """Parity with the trained model (exact for fp32) and the outputs on the rows."""
        from dl_pipelines.inference.parity import check_parity

        exact = variant.precision == "fp32"
        return check_parity(self.task, self.reference, session, self.rows.inputs, exact=exact)

    def _score(self, variant: Variant, runtime: str) -> tuple[Trial, Session | None]:
        from dl_pipelines.evaluation.metrics import with_intervals

        trial = Trial(variant.name, variant.technique, runtime, variant.precision, failure=variant.failure)
        if variant.path is None:
            return trial, None
        try:
            session = open_runtime(runtime, variant.path, self.threads)
            parity, outputs = self.parity(variant, session)
        except (RuntimeFileError, ModelRunError) as error:
            return replace(trial, failure=str(error)), None
        scored = replace(
            trial,
            size_mb=sum(path.stat().st_size for path in served_files(variant.path)) / 1e6,
            loss=self._loss(outputs),
            metrics=with_intervals(self.task, outputs, self.rows.targets, RESAMPLES, CONFIDENCE, SEED),
            parity_passed=parity.passed,
            parity=parity.summary,
        )
        return scored, session

    def _loss(self, outputs: np.ndarray) -> Estimate:
        """Paired loss of the primary metric against the trained model, positive is worse."""
        from dl_pipelines.evaluation.metrics import paired_difference

        metric, targets = self.task.primary, self.rows.targets
        change = paired_difference(self.task, metric, self.reference, outputs, targets, RESAMPLES, CONFIDENCE, SEED)
        if self.task.metrics[metric].better == "lower":
            return change
        return {"value": 0.0 - change["value"], "low": 0.0 - change["high"], "high": 0.0 - change["low"]}

    def _time(self, sessions: Mapping[Key, Session]) -> dict[Key, dict[str, Any]]:
        """Latency of one row at a time, all sessions interleaved."""
        from dl_pipelines.inference.timing import time_interleaved

        one = self.rows.inputs[:1].copy()
        keys = {"/".join(key): key for key in sessions}
        calls = {name: (lambda session=sessions[key]: session.run(one)) for name, key in keys.items()}
        return {keys[name]: timed for name, timed in time_interleaved(calls, self.rounds).items()}


def _with_latency(trial: Trial, timed: Mapping[str, Any] | None, baseline: Mapping[str, Any] | None) -> Trial:
    from dl_pipelines.inference.timing import speed_up

    if timed is None:
        return trial
    latency = {name: timed[name] for name in ("p50_ms", "low", "high")}
    faster = speed_up(baseline["samples"], timed["samples"]) if baseline else None
    return replace(trial, latency=latency, speed_up=faster)
