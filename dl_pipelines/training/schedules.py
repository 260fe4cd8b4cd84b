"""Learning rates step by step, and what is decided after an epoch: a lower rate, or the end. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dl_pipelines.brief.sections import Training

RISE = 0.3
"""Share of the steps in which one_cycle rises; a longer warm-up makes it longer."""
START, END = 25.0, 1e4
"""one_cycle begins at the learning rate / START and ends at that / END."""
PLATEAU_FACTOR, PLATEAU_EPOCHS, PLATEAU_THRESHOLD = 0.3, 2, 1e-4


def rate(training: Training, step: int, steps: int, lowered: float = 1.0) -> float:
    """The learning rate of a step (from 0), with `steps` an epoch; `lowered` is a plateau's factor so far.

    Linear warm-up, then a half cosine to zero (Loshchilov and Hutter, 2017), or constant; plateau is constant times
    `lowered`. one_cycle is Smith and Topin's (2019) with torch's default numbers.
    """
    total, warm = training.epochs * steps, training.warmup_epochs * steps
    if training.schedule == "one_cycle":
        return training.learning_rate * _one_cycle(step, total, max(RISE * total, warm))
    if step < warm:
        return training.learning_rate * (step + 1) / (warm + 1) * lowered
    if training.schedule == "cosine":
        return training.learning_rate * _half_cosine((step - warm) / max(1.0, total - warm), 1.0, 0.0)
    return training.learning_rate * lowered


def _one_cycle(step: int, total: int, rise: float) -> float:
    top, last = rise - 1, total - 1
    if step <= top:
        return _half_cosine(step / top, 1 / START, 1.0)
    return _half_cosine((step - top) / max(last - top, 1.0), 1.0, 1 / (START * END))


def _half_cosine(share: float, begin: float, end: float) -> float:
    return end + (begin - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


@dataclass
class Plateau:
    """The factor of the rate: smaller when the metric has not become better for more than PLATEAU_EPOCHS epochs."""

    higher: bool
    best: float | None = None
    waited: int = 0
    factor: float = 1.0

    def see(self, value: float) -> None:
        """The metric after an epoch."""
        margin = 1 + PLATEAU_THRESHOLD if self.higher else 1 - PLATEAU_THRESHOLD
        if self.best is None or _better(value, self.best * margin, self.higher):
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        if self.waited > PLATEAU_EPOCHS:
            self.factor, self.waited = self.factor * PLATEAU_FACTOR, 0


@dataclass
class Stopping:
    """When to end early: after `patience` epochs that were no better than the best one; None: never."""

    patience: int | None
    higher: bool
    best: float | None = None
    epoch: int = 0
    waited: int = 0

    def see(self, epoch: int, value: float) -> bool:
        """Whether this epoch is the best so far."""
        if math.isfinite(value) and (self.best is None or _better(value, self.best, self.higher)):
            self.best, self.epoch, self.waited = value, epoch, 0
            return True
        self.waited += 1
        return False

    @property
    def over(self) -> bool:
        """Whether it is time."""
        return self.patience is not None and self.waited >= self.patience

    def told(self, metric: str) -> str:
        """Why, in words."""
        return f"no better {metric} for {self.waited} epoch(s) after epoch {self.epoch}"


def _better(value: float, than: float, higher: bool) -> bool:
    return value > than if higher else value < than
