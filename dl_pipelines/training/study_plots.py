"""Optuna's own plots of a study as SVG files: history, importance, parallel coordinates, slice. Same study, same bytes.

They show each configuration by the value it had last, because most are given up early. Drawn without a display.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dl_pipelines.training.study_space import Dimension
from dl_pipelines.training.study_store import Trials

if TYPE_CHECKING:
    import optuna
    from optuna.importance import BaseImportanceEvaluator

MOST = 300
"""Configurations in a plot, the best ones: more would make large files and grey areas."""
SLICES = 6
"""Fields in the slice plot, the most important ones."""


def study_plots(trials: Trials, importance: Mapping[str, Mapping[str, float]], metric: str) -> dict[str, str]:
    """SVG by file name; a plot for which there is too little is left out."""
    from optuna.visualization import matplotlib as drawn

    shown = _by_label(trials)
    if len(shown.trials) < 2:
        return {}
    fields = sorted(trials.fields, key=lambda field: -importance.get(field.path, {"value": 0.0})["value"])
    name = f"validation {metric}"
    labels = [field.label for field in fields if _varies(shown, field)]
    plots: dict[str, Callable[[], Any]] = {
        "history.svg": lambda: drawn.plot_optimization_history(shown, target_name=name),
    }
    if labels:
        plots["parallel.svg"] = lambda: drawn.plot_parallel_coordinate(shown, params=labels, target_name=name)
        plots["slice.svg"] = lambda: drawn.plot_slice(shown, params=labels[:SLICES], target_name=name)
    if importance:
        fixed = _known({field.label: importance[field.path]["value"] for field in fields if field.path in importance})
        plots["importance.svg"] = lambda: drawn.plot_param_importances(shown, evaluator=fixed, target_name=name)
    with _drawing():
        return {file: _svg(plot) for file, plot in sorted(plots.items())}


def _by_label(trials: Trials) -> optuna.Study:
    """A study in memory whose parameters are called as people read them; each value is the last one."""
    import optuna

    given = [trial for trial in trials.all() if trial.value is not None]
    given = sorted(given, key=lambda trial: (trial.value, trial.number))[:MOST]
    names = {field.path: field.label for field in trials.fields}
    study = optuna.create_study(direction="minimize" if trials.sign > 0 else "maximize")
    study.add_trials([
        optuna.trial.create_trial(
            params={names[path]: value for path, value in trial.params.items()},
            distributions={names[path]: value for path, value in trial.distributions.items()},
            value=trials.sign * (trial.value or 0.0),
        )
        for trial in sorted(given, key=lambda trial: trial.number)
    ])  # fmt: skip
    return study


def _varies(study: optuna.Study, field: Dimension) -> bool:
    """Whether every configuration has a value, and not all the same."""
    values = [trial.params.get(field.label) for trial in study.get_trials(deepcopy=False)]
    return None not in values and len(set(values)) > 1


@contextlib.contextmanager
def _drawing() -> Iterator[None]:
    """Optuna sets a style for the whole process: all of it is undone."""
    import warnings

    import matplotlib as mpl
    from matplotlib import pyplot as plt
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings(), plt.rc_context():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", message=".*[Tt]ight layout.*")
        mpl.rcParams.update({"svg.hashsalt": "study", "svg.fonttype": "none", "figure.figsize": (9, 4.5)})
        yield


def _svg(plot: Callable[[], Any]) -> str:
    """What a plot draws, as text that stands in a page: without head, date and what differs between two of them."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullFormatter

    plt.switch_backend("agg")
    plot()
    figure = plt.gcf()
    for axes in figure.axes:  # between the decades of a logarithmic axis numbers would stand on each other
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_formatter(NullFormatter())
    held = io.StringIO()
    figure.savefig(held, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    plt.close("all")
    text = held.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    return re.sub(r"(\d\.\d\d)\d+", r"\1", text)


def _known(values: Mapping[str, float]) -> BaseImportanceEvaluator:
    """An evaluator that has evaluated already: the plot shows the same figures as the table."""
    from optuna.importance import BaseImportanceEvaluator

    class Known(BaseImportanceEvaluator):
        def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
            return dict(sorted(values.items(), key=lambda item: -item[1]))

    return Known()
