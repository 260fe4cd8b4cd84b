"""Latency over rate as the serving benchmark measured it, as inline SVG; colours are classes."""

from __future__ import annotations

import math
from typing import Any

from dl_pipelines.evaluation.svg import LEFT, Plane, dot, drawing, label
from dl_pipelines.report.facts import Facts
from dl_pipelines.report.figures import figure, keys
from dl_pipelines.report.sections.rates import benchmark, limit, rounded
from dl_pipelines.serving.settings import PROTOCOLS

WIDTH, HEIGHT = 700, 280
_ROUND, _FINE = (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)


def rates(facts: Facts) -> Any:
    """p99 of each protocol at each rate, both by factors, and the limit across."""
    found = benchmark(facts)
    lines = {item["name"]: _points(item["steps"]) for item in found["protocols"]} if found else {}
    every = [point for points in lines.values() for point in points]
    if found is None or len({rate for rate, _ in every}) < 2:
        return None
    across, up = [rate for rate, _ in every], [*(p99 for _, p99 in every), found["limit_ms"]]
    plane = Plane(_ends(across, 1.03), _ends(up, 1.25), WIDTH, HEIGHT)
    parts = [label(LEFT, 14, "p99 (ms) by requests a second", "title")]
    for value in _ticks(min(up), max(up)):
        y = plane.place(plane.x[0], math.log(value))[1]
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - 14}"/>')
        parts.append(label(LEFT - 6, y + 4, rounded(value), "end"))
    ticks = {math.log(value): rounded(value) for value in _ticks(min(across), max(across))}
    parts += plane.names(ticks, "requests a second that were due")
    y = math.log(found["limit_ms"])
    parts += [plane.across(y), label(WIDTH - 14, plane.place(0, y)[1] - 5, limit(found), "end axis-name small")]
    for colour, (name, points) in enumerate(lines.items()):
        logs = [(math.log(rate), math.log(p99)) for rate, p99 in points]
        parts.append(plane.line([x for x, _ in logs], [y for _, y in logs], f"stroke-{colour}"))
        parts += [
            dot(plane.place(*at), f"series-{colour}", f"{PROTOCOLS[name]} at {rounded(rate)}/s: {rounded(p99)} ms")
            for at, (rate, p99) in zip(logs, points, strict=True)
        ]  # fmt: skip
    drawn = drawing(parts, WIDTH, HEIGHT, "p99 by rate and protocol", wide=True)
    legend = keys([(f"series-{colour}", PROTOCOLS[name]) for colour, name in enumerate(lines)])
    caption = "99 of 100 requests were answered by then, counted from when they were due; both axes by factors."
    return figure(drawn, caption, legend)


def _points(steps: list[dict[str, Any]]) -> list[tuple[float, float]]:
    return [(step["rate"], step["p99_ms"]) for step in steps if step["p99_ms"]]


def _ends(values: list[float], room: float) -> tuple[float, float]:
    return math.log(min(values) / room), math.log(max(values) * room)


def _ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... within a range; closer ones within a narrow one."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = _ROUND if high / low > 20 else _FINE
    return [value for power in powers for value in (10.0**power * each for each in steps) if low <= value <= high]
