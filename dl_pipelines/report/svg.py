"""Pieces of inline SVG: labels, figures with their captions, line charts. What is drawn is charts.py's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 26, 36


def line_chart(
    title: str, x: Sequence[float], series: dict[str, list[float]], show: Callable[[Any], str], first: int = 0
) -> str:
    """Lines over `x`; `show` writes a value; `first`: colour of the first line (above 0: axis from the minimum)."""
    values = [value for line in series.values() for value in line]
    low, high = (0.0, max(values)) if first == 0 else (min(values), max(values))
    span = (high - low) or 1.0
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(at: float, value: float) -> tuple[float, float]:
        return LEFT + across * (at - x[0]) / ((x[-1] - x[0]) or 1), TOP + down * (1 - (value - low) / span)

    parts = [label(LEFT, 14, title, "title")]
    for share in (0, 0.5, 1):
        y = TOP + down * (1 - share)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(label(LEFT - 6, y + 4, show(float(f"{low + span * share:.3g}")), "end"))
    for at in dict.fromkeys((x[0], x[len(x) // 2], x[-1])):
        parts.append(label(place(at, low)[0], HEIGHT - BOTTOM + 16, str(at), "middle"))
    parts.append(label(LEFT + across / 2, HEIGHT - 4, "epoch", "middle axis-name"))
    for number_, (name, line) in enumerate(series.items(), start=first):
        points = [place(at, value) for at, value in zip(x, line, strict=True)]
        path = "M" + "L".join(f"{across_:.1f} {down_:.1f}" for across_, down_ in points)
        parts.append(f'<path class="line stroke-{number_}" d="{path}"/>')
        parts += [
            f'<circle class="dot series-{number_}" cx="{a:.1f}" cy="{d:.1f}" r="2.5"><title>epoch {at}, {safe(name)}: '
            f"{show(value)}</title></circle>"
            for (a, d), at, value in zip(points, x, line, strict=True)
        ]
    if len(series) > 1:
        for number_, name in enumerate(series, start=first):
            y = TOP + 10 + 15 * (number_ - first)
            parts.append(
                f'<rect class="series-{number_}" x="{WIDTH - 104}" y="{y - 7}" width="10" height="10" rx="2"/>'
            )
            parts.append(label(WIDTH - 90, y + 2, name, ""))
    return drawing(parts, WIDTH, HEIGHT, title)


def drawing(parts: list[str], width: float, height: float, title: str, wide: bool = False) -> str:
    """An SVG element of its parts; sizes in pixels."""
    return (
        f'<svg class="{"wide" if wide else "narrow"}" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" aria-label="{safe(title)}">{"".join(parts)}</svg>'
    )


def figure(drawn: str, caption: str, legend: str = "") -> Any:
    """A figure as markup that Jinja does not escape; every text in it went through `safe`."""
    from markupsafe import Markup

    return Markup(f'<figure><div class="drawn">{drawn}</div>{legend}<figcaption>{safe(caption)}</figcaption></figure>')


def keys(named: list[tuple[str, str]]) -> str:
    """A legend: class and name."""
    inside = "".join(f'<span><i class="{kind}"></i>{safe(name)}</span>' for kind, name in named)
    return f'<div class="keys">{inside}</div>'


def label(x: float, y: float, text: str, kind: str) -> str:
    """A text at a place; `kind` are classes."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{safe(text)}</text>'


def safe(value: object) -> str:
    """A value as text that can stand in markup."""
    from html import escape

    return escape(str(value), quote=True)
