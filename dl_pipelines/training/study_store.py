"""The configurations of a study in Optuna's database: what was asked, what is known of each, what to ask next.

Everything that decides is read from the database, and every draw is seeded by the configuration's number: a study that
was killed goes on as if it had not been. A paused configuration is `RUNNING` to Optuna, whose ended trials can't be
opened again; to the sampler it is shown as pruned at its rung, in a copy of the study in memory.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dl_pipelines.brief.sections import Search
from dl_pipelines.store.database import DatabaseError, with_driver
from dl_pipelines.store.home import DATABASE_URL, Home
from dl_pipelines.training.asha import Configuration, Ladder
from dl_pipelines.training.study_space import Dimension

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

SCHEMA = "optuna"
"""On Postgres: Optuna keeps no tables where another library's migrations are."""
TARGET, FIRST, ERROR = "target", "first", "error"
"""Attributes of a trial: the rung it is trained to, its bracket's first rung, why it failed."""
MOST_WORDS = 1000
"""Characters of an error that are kept."""
STARTUP = 10
"""Configurations that are drawn at random before TPE looks at them."""


def storage_url(home: Home) -> str:
    """A SQLite file of the home, or the Postgres of DLP_DATABASE_URL."""
    url = with_driver(os.environ.get(DATABASE_URL, ""))
    return url if url.startswith("postgresql") else f"sqlite:///{home.studies}"


@contextlib.contextmanager
def open_storage(url: str) -> Iterator[optuna.storages.RDBStorage]:
    """Optuna's storage, its tables made where they are missing. Raises DatabaseError."""
    import optuna
    import sqlalchemy as sa
    import sqlalchemy.exc

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        if url.startswith("postgresql"):
            engine = sa.create_engine(url)
            with engine.begin() as connection:
                connection.execute(sa.text(f"SELECT pg_advisory_xact_lock(hashtext('{SCHEMA}'))"))
                connection.execute(sa.text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
            engine.dispose()
            arguments: dict[str, Any] = {"options": f"-csearch_path={SCHEMA}"}
        else:
            Path(sa.make_url(url).database or "").parent.mkdir(parents=True, exist_ok=True)
            arguments = {"timeout": 30}
        storage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": arguments})
    except (sqlalchemy.exc.SQLAlchemyError, RuntimeError, OSError) as error:
        cause = getattr(error, "orig", None) or error
        shown = sa.make_url(url).render_as_string(hide_password=True)
        raise DatabaseError(
            f"found no usable storage of studies at {shown} ({str(cause).strip()}); expected a database in which "
            "Optuna may make its tables"
        ) from error
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


@dataclass
class Trials:
    """The trials of one study. `sign` is -1 where a higher metric is better: values are stored to be minimized."""

    storage: optuna.storages.RDBStorage
    study: optuna.Study
    fields: Sequence[Dimension]
    search: Search
    ladder: Ladder
    sign: float
    _read: list[FrozenTrial] | None = None
    """What was read last; nobody else writes, and reading them all takes long beside a short training."""

    @property
    def count(self) -> int:
        """How many configurations there will be: as many as are asked for, of a grid no more than it has."""
        if self.search.sampler != "grid":
            return self.search.trials
        return min(self.search.trials, 1 + math.prod(len(values) for values in self._grid().values()))

    def all(self) -> list[FrozenTrial]:
        """By number."""
        if self._read is None:
            self._read = list(self.study.get_trials(deepcopy=False))
        return self._read

    def configurations(self) -> list[Configuration]:
        """What asha.py decides on."""
        return [_configuration(trial) for trial in self.all()]

    def begin(self) -> FrozenTrial:
        """Draw the next configuration, the brief's own first; it is stored at once, as a whole."""
        import optuna

        number = len(self.all())
        first = self.ladder.first(number)
        params, drawn = (self._own(), {}) if number == 0 else self._draw(number, first)
        given = {field.path: field.distribution() for field in self.fields if field.path in params}
        made = self.storage.create_new_trial(self.study._study_id, optuna.trial.create_trial(
            state=optuna.trial.TrialState.RUNNING, params=params, distributions=given, system_attrs=drawn,
            user_attrs={TARGET: first, FIRST: first},
        ))  # fmt: skip
        self._read = [*self.all(), self.storage.get_trial(made)]
        return self._read[number]

    def promote(self, number: int, rung: int) -> FrozenTrial:
        """Note that a configuration is trained on."""
        with self._writing(number) as trial:
            self.storage.set_trial_user_attr(trial, TARGET, rung)
        return self.all()[number]

    def report(self, number: int, values: Mapping[int, float]) -> None:
        """Note what a configuration reached, in the metric's own sign, by rung."""
        known = set(self.all()[number].intermediate_values)
        with self._writing(number) as trial:
            for rung in sorted(set(values) - known):
                self.storage.set_trial_intermediate_value(trial, rung, self.sign * values[rung])

    def finish(self, number: int, error: str | None = None) -> None:
        """A configuration was trained to its end (complete), won't be trained any more (pruned), or failed."""
        from optuna.trial import TrialState

        reached = self.all()[number].intermediate_values
        with self._writing(number) as trial:
            if error is not None:
                self.storage.set_trial_user_attr(trial, ERROR, error[:MOST_WORDS])
                self.storage.set_trial_state_values(trial, TrialState.FAIL)
                return
            rung, value = max(reached.items())
            done = TrialState.COMPLETE if rung == self.ladder.top else TrialState.PRUNED
            self.storage.set_trial_state_values(trial, done, [value])

    @contextlib.contextmanager
    def _writing(self, number: int) -> Iterator[int]:
        """The trial's id, to change it; after that it is read again."""
        found, trial = self.all(), self.all()[number]._trial_id
        try:
            yield trial
        finally:
            found[number] = self.storage.get_trial(trial)

    def _own(self) -> dict[str, Any]:
        """The brief's own values, where the space has them."""
        return {field.path: field.own for field in self.fields if field.fits}

    def _draw(self, number: int, first: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Values of a new configuration, and what the sampler notes of it."""
        import optuna

        copy = optuna.create_study(sampler=self._sampler(number))
        shown = [trial for trial in self.all() if self.ladder.brackets == 1 or _attribute(trial, FIRST) == first]
        with _quiet():
            for trial in shown:
                copy.add_trial(as_seen(trial))
            asked = copy.ask({field.path: field.distribution() for field in self.fields})
        noted = copy.get_trials(deepcopy=False)[-1].system_attrs
        kept = {name: value for name, value in noted.items() if name in ("grid_id", "search_space")}
        return dict(asked.params), kept

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        import numpy as np
        from optuna import samplers

        seed = int(np.random.default_rng([self.search.seed, number]).integers(2**31))
        if self.search.sampler == "random":
            return samplers.RandomSampler(seed=seed)
        if self.search.sampler == "grid":
            return samplers.GridSampler(self._grid(), seed=seed)
        with _quiet():
            partly = not all(field.fits for field in self.fields)
            return samplers.TPESampler(seed=seed, n_startup_trials=STARTUP, group=partly)

    def _grid(self) -> dict[str, list[Any]]:
        """The coarsest grid with as many points as there are trials."""
        points = 1
        while True:
            found = {field.path: field.grid(points) for field in self.fields}
            finer = {field.path: field.grid(points + 1) for field in self.fields}
            if math.prod(map(len, found.values())) >= self.search.trials or found == finer:
                return found
            points += 1


def as_seen(trial: FrozenTrial) -> FrozenTrial:
    """A trial as a sampler has to see it: what is paused as pruned at its rung; a failed one as worse than all."""
    import optuna
    from optuna.trial import TrialState

    state = trial.state
    if state == TrialState.FAIL or (state == TrialState.RUNNING and not _configuration(trial).going):
        state = TrialState.PRUNED
    return optuna.trial.create_trial(
        state=state, params=trial.params, distributions=trial.distributions, system_attrs=trial.system_attrs,
        value=trial.value if state == TrialState.COMPLETE else None,
        intermediate_values={} if trial.state == TrialState.FAIL else trial.intermediate_values,
    )  # fmt: skip


def _configuration(trial: FrozenTrial) -> Configuration:
    from optuna.trial import TrialState

    target, values = _attribute(trial, TARGET), dict(trial.intermediate_values)
    if trial.state == TrialState.FAIL:
        values |= {target: math.inf}
    return Configuration(trial.number, _attribute(trial, FIRST), target, values, trial.state.is_finished())


def _attribute(trial: FrozenTrial, name: str) -> int:
    return trial.user_attrs[name]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's notes on what is experimental."""
    import warnings

    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield
