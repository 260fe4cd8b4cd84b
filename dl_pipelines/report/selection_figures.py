"""Figures of what was compared: candidates by metric and speed with the Pareto front, samples a second by workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dl_pipelines.evaluation.choosing import MEASURES, axis, value
from dl_pipelines.evaluation.svg import drawing, label
from dl_pipelines.evaluation.wording import in_unit, number, plural
from dl_pipelines.report.facts import Facts
from dl_pipelines.report.figures import figure, keys
from dl_pipelines.report.scatter import WIDTH, Point, Range, scatter
from dl_pipelines.report.sections.comparison import compared
from dl_pipelines.report.sections.scaling import PARTS, scaled

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

    rows.sort(key=lambda row: row["chosen"])
    points = [_point(row, name, show) for row in rows]
    front = [point for point, row in zip(points, rows, strict=True) if row["pareto"]]
    title = f"{metric.label} (validation rows) and {_NAMES[name]}"
    drawn = scatter(title, "Candidates and the Pareto front", _NAMES[name], points, front, number, show)
    legend = keys([("series-1", "chosen"), ("series-0", "on the Pareto front"), ("series-past", "another is better")])
    why = found["why"][0].upper() + found["why"][1:]
    caption = f"A point for each candidate with its intervals; on the line nothing is better in both. {why}."
    return figure(drawn, caption, legend)


def _point(row: Mapping[str, Any], name: str, show: Callable[[float], str]) -> Point:
    kind = "series-1" if row["chosen"] else "series-0" if row["pareto"] else "series-past"
    told = f"{row['candidate']}: {show(_middle(row, 'metric'))}, {number(_middle(row, name))}"
    return Point(
        row["candidate"], _middle(row, name), _middle(row, "metric"), _ends(row, name), _ends(row, "metric"), kind, told
    )


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
