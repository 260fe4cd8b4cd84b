"""Drawings as parts of the page: with their caption and legend. What is drawn is charts.py's."""

from __future__ import annotations

from typing import Any

from dl_pipelines.evaluation.svg import safe


def figure(drawn: str, caption: str, legend: str = "") -> Any:
    """A figure as markup that Jinja does not escape; every text in it went through `safe`."""
    from markupsafe import Markup

    return Markup(f'<figure><div class="drawn">{drawn}</div>{legend}<figcaption>{safe(caption)}</figcaption></figure>')


def keys(named: list[tuple[str, str]]) -> str:
    """A legend: class and name."""
    inside = "".join(f'<span><i class="{kind}"></i>{safe(name)}</span>' for kind, name in named)
    return f'<div class="keys">{inside}</div>'
