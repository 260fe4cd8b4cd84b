"""Optuna's plots of a study in the page: pictures of their own, so that their styles and ids stay apart from ours."""

from __future__ import annotations

import base64
from typing import Any

from dl_pipelines.evaluation.svg import safe
from dl_pipelines.report.cells import Found
from dl_pipelines.report.facts import Facts
from dl_pipelines.report.figures import figure
from dl_pipelines.report.sections.study import STAGE, study

PLOTS = {
    "history.svg": "Optimization history",
    "importance.svg": "Importance of each field",
    "parallel.svg": "Configurations as lines",
    "slice.svg": "Configurations by field",
}
CAPTION = "Optuna's plots of the search. Most configurations were given up early: each is shown with its last value."


def plots(facts: Facts) -> Any:
    """All four, as far as the study has them, on light cards; None without a study."""
    if study(facts) is None:
        return None
    found = [(facts.find(STAGE, name), title) for name, title in PLOTS.items()]
    drawn = [_picture(one.value, title) for one, title in found if isinstance(one, Found)]
    return figure("".join(drawn), CAPTION) if drawn else None


def _picture(text: str, title: str) -> str:
    held = base64.b64encode(text.encode()).decode()
    return f'<img class="plot" alt="{safe(title)}" src="data:image/svg+xml;base64,{held}">'
