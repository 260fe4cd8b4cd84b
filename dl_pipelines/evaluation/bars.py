"""Pictures of estimates beside each other: bars and points with their intervals as whiskers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dl_pipelines.evaluation.svg import BOTTOM, RIGHT, TOP, dot, drawing, label, safe
from dl_pipelines.evaluation.wording import in_unit
from dl_pipelines.tasks.base import Metric

Picture = tuple[str, str]
"""What it shows, and the SVG element."""
Show = Callable[[Any], str]
BROAD = 472
"""Pixels across of a broad picture: two fit beside each other in the report."""
MOST_BARS = 12


def baselines(against: Mapping[str, Any], metrics: Mapping[str, Metric], simulated: bool = False) -> list[Picture]:
    """Bars with whiskers of each metric: this model, what it has to beat, and the floor where there is one."""
    found: list[Picture] = []
    for name in against.get("metrics") or []:
        rows = [row for row in against["rows"] if row["metric"] == name]
        if not rows:
            continue
        said, show = words(name, metrics)
        listed = [("this model", rows[0]["ours"], "chosen")]
        beaten = against.get("must_beat") or []
        listed += [
            (_said(row["baseline"]) + ("" if row["baseline"] in beaten else " (the floor)"), row["theirs"], "")
            for row in rows
        ]
        title = f"{said}{marked(simulated)}"
        found.append((title, bars(title, listed[:MOST_BARS], show)))
    return found


def bars(title: str, rows: Sequence[tuple[str, Mapping[str, float], str]], show: Show) -> str:
    """Bars from 0 with the interval of each as a whisker: name, estimate, class."""
    left, height = 150, TOP + 26 * len(rows) + 12
    most = max((max(row["high"], row["value"]) for _, row, _ in rows), default=0) or 1
    scale = (BROAD - left - 175) / most
    parts = [label(8, 14, short(title, 70), "title")]
    for place, (name, row, kind) in enumerate(rows):
        y = TOP + 14 + 26 * place
        width, low, high = (max(0.0, row[key]) * scale for key in ("value", "low", "high"))
        told = f"{show(row['value'])} [{show(row['low'])}, {show(row['high'])}]"
        parts += [
            label(left - 8, y + 4, short(name, 24), "end"),
            f'<rect class="bar {kind}" x="{left}" y="{y - 8}" width="{max(1.0, width):.1f}" height="16" rx="2">'
            f"<title>{safe(name)}: {safe(told)}</title></rect>",
            f'<path class="whisker" d="M{left + low:.1f} {y}H{left + high:.1f}M{left + low:.1f} {y - 4}v8'
            f'M{left + high:.1f} {y - 4}v8"/>',
            label(left + max(width, high) + 6, y + 4, told, "small"),
        ]
    return drawing(parts, BROAD, height, title)


def effects(title: str, rows: Sequence[tuple[str, Mapping[str, float]]], show: Show) -> str:
    """Points with their intervals on both sides of 0: name, estimate."""
    left, height = 170, TOP + 26 * len(rows) + BOTTOM
    most = max((abs(row[key]) for _, row in rows for key in ("value", "low", "high")), default=0) or 1
    middle, scale = left + (BROAD - left - RIGHT) / 2, (BROAD - left - 2 * RIGHT) / 2 / most
    parts = [
        label(8, 14, short(title, 70), "title"),
        f'<path class="limit" d="M{middle:.1f} {TOP}V{height - BOTTOM + 4}"/>',
        *(label(middle + at * scale, height - BOTTOM + 18, show(at), "middle") for at in (-most, 0.0, most)),
    ]
    for place, (name, row) in enumerate(rows):
        y = TOP + 14 + 26 * place
        low, high = middle + row["low"] * scale, middle + row["high"] * scale
        told = f"{name}: {show(row['value'])} [{show(row['low'])}, {show(row['high'])}]"
        parts += [
            label(left - 8, y + 4, short(name, 24), "end"),
            f'<path class="whisker" d="M{low:.1f} {y}H{high:.1f}M{low:.1f} {y - 4}v8M{high:.1f} {y - 4}v8"/>',
            dot((middle + row["value"] * scale, y), "series-0", told).replace('r="2.5"', 'r="4.5"'),
        ]
    return drawing(parts, BROAD, height, title)


def words(name: str, metrics: Mapping[str, Metric]) -> tuple[str, Show]:
    """A metric's name for people, and how its values are written."""
    unit = metrics[name].unit if name in metrics else ""
    return (metrics[name].label if name in metrics else name), lambda value: in_unit(value, unit)


def marked(simulated: bool) -> str:
    """What stands behind the name of a picture of simulated data."""
    return " (simulated)" if simulated else ""


def short(text: str, most: int) -> str:
    """The end stays: it says whether data is simulated."""
    return text if len(text) <= most else f"{text[: most // 2 - 2]} ... {text[-(most // 2 - 2) :]}"


def _said(name: str) -> str:
    return name.replace("_", " ")
