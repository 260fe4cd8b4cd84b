"""Figures of what was compared: candidates by metric and speed with the Pareto front, samples a second by workers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dl_pipelines.evaluation.choosing import MEASURES, axis, value
from dl_pipelines.evaluation.svg import drawing, label, safe
from dl_pipelines.evaluation.wording import in_unit, number, plural
from dl_pipelines.report.facts import Facts
from dl_pipelines.report.figures import figure, keys
from dl_pipelines.report.sections.comparison import compared
from dl_pipelines.report.sections.scaling import PARTS, scaled

Range = tuple[float, float]
WIDTH, HEIGHT = 700, 320
LEFT, RIGHT, TOP, BOTTOM = 70, 30, 34, 48
WIDE_RATIO = 8.0
"""Values further apart are drawn by their factors."""
_NAMES = {
    "latency_ms": "latency of one row, ms", "throughput": "rows a second", "train_seconds": "training, s",
    "energy_j": "energy of 1,000 answers, J",
}  # fmt: skip


def pareto(facts: Facts) -> Any:
    """Each candidate's metric against the priority's figure, with both intervals; the front is joined."""
    found = compared(facts)
    rows = [row for row in found["rows"] if not row["reason"]] if found else []
    if found is None or len(rows) < 2:
        return None
    metric, (name, _, _) = facts.metrics[found["metric"]], MEASURES[axis(rows, found["priority"])]

    def show(at: float) -> str:
        return in_unit(at, metric.unit)

    across = _Scale([_ends(row, name) for row in rows], LEFT, WIDTH - RIGHT)
    up = _Scale([_ends(row, "metric") for row in rows], HEIGHT - BOTTOM, TOP, factors=False)
    parts = [label(LEFT, 16, f"{metric.label} (validation rows) and {_NAMES[name]}", "title")]
    for at in up.ticks():
        parts.append(f'<path class="grid" d="M{LEFT} {up(at):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(label(LEFT - 6, up(at) + 4, show(float(f"{at:.3g}")), "end"))
    parts += [label(across(at), HEIGHT - BOTTOM + 18, number(float(f"{at:.2g}")), "middle") for at in across.ticks()]
    parts.append(label((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, _NAMES[name], "middle axis-name"))
    front = sorted((across(_middle(row, name)), up(_middle(row, "metric"))) for row in rows if row["pareto"])
    if len(front) > 1:
        parts.append('<path class="line stroke-0" d="M' + "L".join(f"{x:.1f} {y:.1f}" for x, y in front) + '"/>')
    for row in sorted(rows, key=lambda row: row["chosen"]):
        parts += _point(row, name, across, up, show)
    drawn = drawing(parts, WIDTH, HEIGHT, "Candidates and the Pareto front", wide=True)
    legend = keys([("series-1", "chosen"), ("series-0", "on the Pareto front"), ("series-past", "another is better")])
    why = found["why"][0].upper() + found["why"][1:]
    caption = f"A point for each candidate with its intervals; on the line nothing is better in both. {why}."
    return figure(drawn, caption, legend)


def _point(
    row: Mapping[str, Any], name: str, across: Callable[[float], float], up: Callable[[float], float],
    show: Callable[[float], str],
) -> list[str]:  # fmt: skip
    x, y = across(_middle(row, name)), up(_middle(row, "metric"))
    (left, right), (low, high) = (
        [place(at) for at in _ends(row, key)] for place, key in ((across, name), (up, "metric"))
    )
    kind = "series-1" if row["chosen"] else "series-0" if row["pareto"] else "series-past"
    told = f"{row['candidate']}: {show(_middle(row, 'metric'))}, {number(_middle(row, name))}"
    beyond = x > WIDTH - RIGHT - 8 * len(row["candidate"])
    return [
        f'<path class="whisker" d="M{left:.1f} {y:.1f}H{right:.1f}M{x:.1f} {low:.1f}V{high:.1f}"/>',
        f'<circle class="dot {kind}" cx="{x:.1f}" cy="{y:.1f}" r="6"><title>{safe(told)}</title></circle>',
        label(x - 10 if beyond else x + 10, y - 8, row["candidate"], "end" if beyond else ""),
    ]


class _Scale:
    """From values to pixels; by factors where they are far apart."""

    def __init__(self, ends: Sequence[Range], first: float, last: float, factors: bool = True):
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        self._log = factors and low > 0 and high / low > WIDE_RATIO
        low, high = (math.log(low), math.log(high)) if self._log else (low, high)
        room = (high - low or abs(high) or 1.0) * 0.06
        self._low, self._high, self._first, self._last = low - room, high + room, first, last

    def __call__(self, at: float) -> float:
        at = math.log(at) if self._log else at
        return self._first + (self._last - self._first) * (at - self._low) / (self._high - self._low)

    def ticks(self) -> list[float]:
        """Values to be named."""
        found = [self._low + (self._high - self._low) * share for share in (0.06, 0.35, 0.65, 0.94)]
        return [math.exp(at) if self._log else at for at in found]


def _middle(row: Mapping[str, Any], name: str) -> float:
    return float(value(row, name) or 0.0)


def _ends(row: Mapping[str, Any], name: str) -> Range:
    """The interval; a figure without one is a point."""
    found = row[name]
    return (found["low"], found["high"]) if isinstance(found, Mapping) else (float(found), float(found))


def scaling(facts: Facts) -> Any:
    """Where the time of a step goes, by number of workers: a bar of its parts, with samples a second beside it."""
    found = scaled(facts)
    rows = [row for row in found["rows"] if not row["reason"]] if found else []
    if found is None or len(rows) < 2:
        return None
    left, step, right = 110, 34, 250
    height = 44 + step * len(rows)
    scale = (WIDTH - left - right) / (max(sum(row["step_ms"].values()) for row in rows) or 1)
    parts = [
        label(left, 20, "ms of a step", "axis-name"), label(WIDTH - 8, 20, "samples a second", "end axis-name"),
    ]  # fmt: skip
    for place, row in enumerate(rows):
        x, y = float(left), 36 + step * place
        parts.append(label(left - 8, y + 13, plural(row["workers"], "worker"), "end"))
        for colour, part in enumerate(PARTS):
            wide = row["step_ms"][part] * scale
            parts.append(
                f'<rect class="series-{colour}" x="{x:.1f}" y="{y}" width="{max(0.0, wide):.1f}" height="18">'
                f"<title>{part}: {number(row['step_ms'][part])} ms</title></rect>"
            )
            x += wide
        rate = row["samples_per_second"]
        told = f"{number(round(rate['value'], 1))} [{number(round(rate['low'], 1))}, {number(round(rate['high'], 1))}]"
        parts.append(label(x + 8, y + 13, f"{sum(row['step_ms'].values()):.3g} ms", "small"))
        parts.append(label(WIDTH - 8, y + 13, told, "end value"))
    drawn = drawing(parts, WIDTH, height, "Parts of a step by number of workers", wide=True)
    legend = keys([(f"series-{colour}", part) for colour, part in enumerate(PARTS)])
    return figure(drawn, "The same samples by each number of workers; a step of more workers has more samples.", legend)
