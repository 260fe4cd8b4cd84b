"""The trainings of a study, from where its database says it is, to its end.

A kill at any moment costs what was trained since the last checkpoints: the database is written before a training begins
and after it has ended, and whatever is noted as begun is begun again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dl_pipelines.brief.sections import Training
from dl_pipelines.store import durable
from dl_pipelines.training.asha import Begin, next_move
from dl_pipelines.training.job import Job
from dl_pipelines.training.pool import Ended, Pool

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from dl_pipelines.training.study_store import Trials


@dataclass
class Run:
    """Trainings of a study, from where its database says it is, to its end."""

    trials: Trials
    make_job: Callable[[Path, Mapping[str, Any]], Job]
    """The job of a configuration in a folder. Raises ValueError where its values don't fit together."""
    metric: str
    primary: str
    higher: bool
    """Whether more of the primary metric is better."""
    folder: Path
    tell: Callable[[str, int], None] = lambda *_: None
    """Hears what has ended, and how many configurations aren't being trained."""

    def run(self, pool: Pool) -> None:
        """Train until there is nothing left; what is paused then is pruned."""
        for one in self.trials.configurations():
            if one.going:
                self._submit(pool, self.trials.all()[one.number])
        while True:
            self._fill(pool)
            if not pool.waiting:
                break
            for ended in pool.wait():
                self._settle(ended)
        for one in self.trials.configurations():
            if not one.over:
                self.trials.finish(one.number)
                durable.remove_tree(self._place(one.number))

    def _fill(self, pool: Pool) -> None:
        while pool.waiting < pool.side:
            move = next_move(self.trials.configurations(), self.trials.ladder, self.trials.count)
            if move is None:
                return
            begun = isinstance(move, Begin)
            self._submit(pool, self.trials.begin() if begun else self.trials.promote(move.number, move.rung))

    def _submit(self, pool: Pool, trial: FrozenTrial) -> None:
        try:
            job = self.make_job(self._place(trial.number), trial.params)
        except ValueError as error:
            self._fail(trial.number, str(error))
            return
        pool.submit(job, self.trials.ladder.epochs(trial.user_attrs["target"], job.training.epochs))

    def _settle(self, ended: Ended) -> None:
        number, training = int(ended.job.folder.name), ended.job.training
        if ended.error is not None:
            self._fail(number, ended.error)
            return
        given, target = self.trials.ladder, self.trials.all()[number].user_attrs["target"]
        stopped = len(ended.curves) < given.epochs(target, training.epochs)  # patience ran out: it is what it is
        last = given.top if stopped else target
        curves = {rung: ended.curves[: given.epochs(rung, training.epochs)] for rung in range(last + 1)}
        values = {rung: self._value(training, curve) for rung, curve in curves.items()}
        if not all(map(math.isfinite, values.values())):
            self._fail(number, f"found a {self.metric} that is not finite; expected a finite one")
            return
        self.trials.report(number, values)
        if last == given.top:
            self.trials.finish(number)
            durable.remove_tree(ended.job.folder)
        self._told(f"configuration {number}: {self.metric} {values[last]:.4g} after {len(ended.curves)} epochs")

    def _value(self, training: Training, curve: list[dict[str, Any]]) -> float:
        """The metric of the model that this much of a training leaves: with patience, of the best epoch."""
        if training.patience is None:
            return curve[-1]["validation"].get(self.metric, math.nan)
        sign = -1.0 if self.higher else 1.0
        return min(curve, key=lambda line: sign * line["validation"][self.primary])["validation"][self.metric]

    def _fail(self, number: int, why: str) -> None:
        self.trials.finish(number, why)
        durable.remove_tree(self._place(number))
        self._told(f"configuration {number} failed: {why.splitlines()[0]}")

    def _told(self, text: str) -> None:
        resting = [one for one in self.trials.configurations() if not one.going]
        self.tell(text, len(resting))

    def _place(self, number: int) -> Path:
        return self.folder / f"{number:05d}"
