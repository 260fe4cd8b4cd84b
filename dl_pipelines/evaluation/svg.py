"""Pieces of SVG: labels, axes, lines, bands, whole drawings. Colours are classes: a page's style sheet decides them.

What is drawn is decided in pictures.py and in the report's charts.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 26, 36
Values = Sequence[float | None]


@dataclass(frozen=True)
class Plane:
    """The inside of a chart: `x` and `y` are the values at its ends; sizes of the whole chart in pixels."""

    x: tuple[float, float]
    y: tuple[float, float]
    width: float = WIDTH
    height: float = HEIGHT

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies."""
        across, down = self.width - LEFT - RIGHT, self.height - TOP - BOTTOM
        (left, right), (low, high) = self.x, self.y
        return LEFT + across * (x - left) / ((right - left) or 1), TOP + down * (1 - (y - low) / ((high - low) or 1))

    def line(self, x: Sequence[float], y: Values, kind: str) -> str:
        """A line, torn where a value is missing; a point without neighbours is a dot."""
        path, alone = "", ""
        for run in _runs(x, y):
            points = [self._text(*point) for point in run]
            if len(points) > 1:
                path += "M" + "L".join(points)
            else:
                across, down = points[0].split()
                alone += f'<circle class="{kind.replace("stroke", "series")}" cx="{across}" cy="{down}" r="1.5"/>'
        return (f'<path class="line {kind}" d="{path}"/>' if path else "") + alone

    def band(self, x: Sequence[float], low: Values, high: Values, kind: str) -> str:
        """The area between two lines."""
        path = ""
        both = [a if a is not None and b is not None else None for a, b in zip(low, high, strict=True)]
        upper = dict(zip(x, high, strict=True))
        for run in _runs(x, both):
            there = [self._text(*point) for point in run]
            back = [self._text(at, float(upper[at] or 0)) for at, _ in reversed(run)]
            path += "M" + "L".join([*there, *back]) + "Z"
        return f'<path class="band {kind}" d="{path}"/>' if path else ""

    def grid(self, show: Callable[[Any], str]) -> list[str]:
        """Three lines across with what they stand for."""
        low, high = self.y
        parts = []
        for share in (0, 0.5, 1):
            value = low + (high - low) * share
            y = self.place(self.x[0], value)[1]
            parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{self.width - RIGHT:g}"/>')
            parts.append(label(LEFT - 6, y + 4, show(float(f"{value:.3g}")), "end"))
        return parts

    def names(self, ticks: Mapping[float, str], axis: str) -> list[str]:
        """Words below the chart: at places, and what the axis is; the outer ones stay inside."""
        parts = []
        for at, text in ticks.items():
            kind = "end" if at == self.x[1] != self.x[0] and len(text) > 6 else "middle"
            kind = "" if at == self.x[0] and len(text) > 6 else kind
            parts.append(label(self.place(at, self.y[0])[0], self.height - BOTTOM + 16, text, kind))
        return [*parts, label((LEFT + self.width - RIGHT) / 2, self.height - 4, axis, "middle axis-name")]

    def upright(self, x: float) -> str:
        """A dashed line from top to bottom."""
        at = self.place(x, self.y[0])[0]
        return f'<path class="limit" d="M{at:.1f} {TOP}V{self.height - BOTTOM:g}"/>'

    def across(self, y: float) -> str:
        """A dashed line from left to right."""
        return f'<path class="limit" d="M{LEFT} {self.place(self.x[0], y)[1]:.1f}H{self.width - RIGHT:g}"/>'

    def legend(self, named: Sequence[tuple[str, str]], below: bool = False) -> list[str]:
        """What the colours mean, up to the right end of the title's line or of the last one."""
        parts, x, y = [], self.width - RIGHT, self.height - 4 if below else 14
        for kind, name in reversed(named):
            x -= 6.2 * len(name)
            parts.append(label(x, y, name, "small"))
            parts.append(f'<rect class="{kind}" x="{x - 13:.1f}" y="{y - 8:g}" width="9" height="9" rx="2"/>')
            x -= 24
        return parts

    def _text(self, x: float, y: float) -> str:
        across, down = self.place(x, y)
        return f"{across:.1f} {down:.1f}"


def _runs(x: Sequence[float], y: Values) -> list[list[tuple[float, float]]]:
    """Neighbouring points whose value is there."""
    runs: list[list[tuple[float, float]]] = [[]]
    for at, value in zip(x, y, strict=True):
        if value is not None:
            runs[-1].append((at, value))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def line_chart(
    title: str, x: Sequence[float], series: Mapping[str, Sequence[float]], show: Callable[[Any], str], first: int = 0
) -> str:
    """Lines over epochs `x`; `show` writes a value; `first`: colour of the first (above 0: axis from the minimum)."""
    values = [value for line in series.values() for value in line]
    plane = Plane((x[0], x[-1]), (0.0 if first == 0 else min(values), max(values)))
    ticks = {at: str(at) for at in (x[0], x[len(x) // 2], x[-1])}
    parts = [label(LEFT, 14, title, "title"), *plane.grid(show), *plane.names(ticks, "epoch")]
    for colour, (name, line) in enumerate(series.items(), start=first):
        parts.append(plane.line(x, line, f"stroke-{colour}"))
        parts += [
            dot(plane.place(at, value), f"series-{colour}", f"epoch {at}, {name}: {show(value)}")
            for at, value in zip(x, line, strict=True)
        ]
    if len(series) > 1:
        parts += plane.legend([(f"series-{colour}", name) for colour, name in enumerate(series, start=first)])
    return drawing(parts, WIDTH, HEIGHT, title)


def dot(place: tuple[float, float], kind: str, told: str) -> str:
    """A point that says what it is when it is pointed at."""
    x, y = place
    return f'<circle class="dot {kind}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"><title>{safe(told)}</title></circle>'


def drawing(parts: Sequence[str], width: float, height: float, title: str, wide: bool = False) -> str:
    """An SVG element of its parts; sizes in pixels."""
    return (
        f'<svg class="{"wide" if wide else "narrow"}" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" aria-label="{safe(title)}">{"".join(parts)}</svg>'
    )


def label(x: float, y: float, text: str, kind: str) -> str:
    """A text at a place; `kind` are classes."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{safe(text)}</text>'


def safe(value: object) -> str:
    """A value as text that can stand in markup; what can't be printed, which XML forbids, is a question mark."""
    from html import escape

    return escape("".join(letter if letter.isprintable() else "?" for letter in str(value)), quote=True)
