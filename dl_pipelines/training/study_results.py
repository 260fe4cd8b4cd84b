"""What a study says: the best configuration, the importance of each field with an interval, the table of the template.

Importance is fANOVA's (Hutter et al., 2014; Optuna's evaluator): the share of the variance that a field explains alone,
here of the configurations' ranks. Ranks, because most configurations are given up early: whoever got further is before
whoever did not, and a loss that has exploded is just the last one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dl_pipelines.training.study_space import Dimension
from dl_pipelines.training.study_store import ERROR, Trials

if TYPE_CHECKING:
    import numpy as np
    import optuna
    from optuna.trial import FrozenTrial

TREES = 16
RESAMPLES = 30
LEAST = 8
"""Configurations that an importance is told of; of fewer a forest says nothing."""


def best_of(trials: Trials) -> FrozenTrial | None:
    """The best of those that were trained to their end; of equal ones the first. None when there is none."""
    from optuna.trial import TrialState

    done = [trial for trial in trials.all() if trial.state == TrialState.COMPLETE]
    return min(done, key=lambda trial: (trial.value, trial.number), default=None)


def values_of(trial: FrozenTrial, fields: Sequence[Dimension]) -> dict[str, Any]:
    """What a configuration has for each field; the brief's own where its space has no room for that."""
    return {field.path: trial.params.get(field.path, field.own) for field in fields}


def overrides_of(trial: FrozenTrial, fields: Sequence[Dimension]) -> dict[str, Any]:
    """Where a configuration differs from the brief."""
    return {path: value for path, value in trial.params.items() if value != _own(fields)[path]}


def _own(fields: Sequence[Dimension]) -> dict[str, Any]:
    return {field.path: field.own for field in fields}


def history(trials: Trials) -> list[dict[str, Any]]:
    """By configuration: its last `value`, the `best` so far (trained to the end), `state`, share of its `epochs`."""
    from optuna.trial import TrialState

    rows, best = [], None
    names = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    for trial in trials.all():
        value = None if trial.value is None else round(trials.sign * trial.value, 6)
        if trial.state == TrialState.COMPLETE and value is not None:
            best = value if best is None or trials.sign * value < trials.sign * best else best
        share = trials.ladder.shares[max(trial.intermediate_values, default=0)] if trial.value is not None else 0
        rows.append({
            "trial": trial.number, "value": value, "best": best, "state": names[trial.state],
            "epochs": round(share, 4), "params": values_of(trial, trials.fields), "error": trial.user_attrs.get(ERROR),
        })  # fmt: skip
    return rows


def importances(trials: Trials, confidence: float) -> dict[str, dict[str, float]]:
    """By path: `value`, and `low` and `high` over bootstrap resamples of the configurations; {} of too few.

    Percentiles of what the resamples give; where the whole lies outside of them, they are widened to hold it.
    """
    import numpy as np

    shown = [trial for trial in trials.all() if {field.path for field in trials.fields} <= set(trial.params)]
    fields = [field for field in trials.fields if not field.distribution().single()]
    if len(shown) < LEAST or not fields:
        return {}
    study = ranked(shown, fields)
    whole = _evaluated(study, fields, 0)
    every, rng = study.get_trials(deepcopy=False), np.random.default_rng(trials.search.seed)
    drawn = []
    for number in range(RESAMPLES):
        again = [every[place] for place in rng.integers(0, len(every), len(every))]
        drawn.append(_evaluated(_study(again), fields, number + 1))
    tail = (1 - confidence) / 2
    ends = np.quantile(np.array(drawn), [tail, 1 - tail], axis=0)
    return {
        field.path: {
            "value": round(float(value), 4), "low": round(float(min(low, value)), 4),
            "high": round(float(max(high, value)), 4),
        }
        for field, value, low, high in zip(fields, whole, *ends, strict=True)
    }  # fmt: skip


def ranked(trials: Sequence[FrozenTrial], fields: Sequence[Dimension]) -> optuna.Study:
    """The configurations with their ranks as values, 0 the best, and the logarithm of what counts in factors."""
    import optuna

    ordered = sorted(trials, key=_order)
    ranks = {trial.number: place / max(1, len(ordered) - 1) for place, trial in enumerate(ordered)}
    given = {field.path: _even(field) for field in fields}
    return _study([
        optuna.trial.create_trial(
            params={field.path: _evenly(field, trial.params[field.path]) for field in fields},
            distributions=given, value=ranks[trial.number],
        )
        for trial in trials
    ])  # fmt: skip


def _order(trial: FrozenTrial) -> tuple[float, float, int]:
    """Failed ones last; who got further first; then by the value there."""
    if trial.value is None:
        return (1.0, math.inf, trial.number)
    return (-float(max(trial.intermediate_values, default=0)), trial.value, trial.number)


def _even(field: Dimension) -> optuna.distributions.BaseDistribution:
    """Optuna's evaluator weighs a range by its length, whatever its scale: a logarithmic one is given as logarithms."""
    from optuna.distributions import FloatDistribution

    given = field.range
    if not given.log or given.low is None or given.high is None:
        return field.distribution()
    return FloatDistribution(math.log(given.low), math.log(given.high))


def _evenly(field: Dimension, value: Any) -> Any:
    return math.log(value) if field.range.log else value


def _study(trials: Sequence[FrozenTrial]) -> optuna.Study:
    import optuna

    study = optuna.create_study()
    study.add_trials(trials)
    return study


def _evaluated(study: optuna.Study, fields: Sequence[Dimension], seed: int) -> np.ndarray:
    """Shares by field, 1 in all; zeros where all ranks are alike."""
    import numpy as np
    from optuna.importance import FanovaImportanceEvaluator

    evaluator = FanovaImportanceEvaluator(n_trees=TREES, max_depth=16, seed=seed)
    try:
        found = evaluator.evaluate(study, [field.path for field in fields])
    except RuntimeError:  # no variance in any tree
        return np.zeros(len(fields))
    shares = np.array([found[field.path] for field in fields])
    return shares / total if (total := shares.sum()) > 0 else shares


def table(trials: Trials, importance: Mapping[str, Mapping[str, float]], method: str) -> list[dict[str, Any]]:
    """A row a field: the brief's own value, the range, how it was searched, its importance, the best value."""
    best = best_of(trials)
    values = {} if best is None else values_of(best, trials.fields)
    return [
        {
            "row": field.row, "field": field.path, "label": field.label, "brief": field.own,
            "best": values.get(field.path), "range": field.told(), "method": method,
            "importance": importance.get(field.path),
            "at_edge": field.path in values and field.at_edge(values[field.path]),
        }
        for field in trials.fields
    ]  # fmt: skip


def reason(trials: Trials, metric: str) -> str:
    """Why the study chose what it chose, in a sentence."""
    best, history_ = best_of(trials), history(trials)
    assert best is not None
    value, own = history_[best.number]["value"], history_[0]["value"]
    if best.number == 0:
        return f"the brief's own settings have the best {metric} of {len(history_)} configurations, {value:.4g}"
    against = f"the brief's own have {own:.4g}" if own is not None else "the brief's own could not be trained"
    return f"configuration {best.number} of {len(history_)} has the best {metric}, {value:.4g}; {against}"


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table as a person reads it."""
    head = "| setting | brief | range | best | importance |\n|---|---|---|---|---|\n"

    def share(found: Mapping[str, float] | None) -> str:
        return "" if found is None else f"{found['value']:.0%} [{found['low']:.0%}, {found['high']:.0%}]"

    def shown(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    return head + "\n".join(
        f"| {row['label']} | {shown(row['brief'])} | {row['range']} | {shown(row['best'])}"
        f"{' (at the edge of its range)' if row['at_edge'] else ''} | {share(row['importance'])} |"
        for row in rows
    )
