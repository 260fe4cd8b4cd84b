"""The evidence of a live experiment as it grew: each bound by the units that were seen, stage by stage. It draws only.

A line is the difference so far, the band around it what it may be at every look at once, the dashed line what the
challenger may be worse by.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dl_pipelines.evaluation.bars import Picture
from dl_pipelines.evaluation.svg import LEFT, Plane, drawing, label
from dl_pipelines.evaluation.wording import number, percent

Row = Mapping[str, Any]
WIDTH, HEIGHT = 640, 190
APART = 8.0
"""Pixels between two drawings of one document."""


@dataclass
class Course:
    """One bound over the looks: `units` seen so far (over all stages), and at which of them a stage began."""

    name: str
    unit: str
    margin: float = 0.0
    state: str = ""
    units: list[float] = field(default_factory=list)
    value: list[float | None] = field(default_factory=list)
    low: list[float | None] = field(default_factory=list)
    high: list[float | None] = field(default_factory=list)
    stages: dict[int, float] = field(default_factory=dict)


def courses(looks: Sequence[Row]) -> list[Course]:
    """The course of each bound, in the order of the decision: the primary metric first. `looks`: of one experiment."""
    found: dict[str, Course] = {}
    before = 0.0
    for stage, group in itertools.groupby(looks, key=lambda row: row["stage"]):
        seen = 0.0
        for row in group:
            seen = float(units(row["evidence"]))
            for bound in row["decision"]["bounds"]:
                course = found.setdefault(bound["name"], Course(bound["name"], bound["unit"]))
                course.stages.setdefault(stage, before)
                course.units.append(before + seen)
                for name in ("value", "low", "high"):
                    getattr(course, name).append(bound[name])
                course.margin, course.state = bound["margin"], bound["state"]
        before += seen
    return list(found.values())


def units(evidence: Mapping[str, Any]) -> int:
    """Units that a stage has seen: of both arms, where each has its own."""
    first, second = evidence["champion"]["units"], evidence["challenger"]["units"]
    return max(first, second) if evidence["paired"] is not None else first + second


def worded(value: float, unit: str) -> str:
    """A difference for people: shares in percent."""
    return f"{percent(value)}%" if unit.startswith("share") else number(round(value, 4))


def pictures(looks: Sequence[Row], simulated: bool = False) -> list[Picture]:
    """A drawing for each bound that has been looked at."""
    return [(course.name, _drawn(course, simulated)) for course in courses(looks) if course.units]


def together(drawn: Sequence[Picture]) -> str:
    """Several drawings as one, one below the other; of no drawing a sentence."""
    step = HEIGHT + APART
    if not drawn:
        parts = [label(LEFT, 20, "no look at the evidence has been taken yet", "")]
        return drawing(parts, WIDTH, 40, "the evidence of a live experiment")
    parts = [f'<g transform="translate(0 {place * step:g})">{svg}</g>' for place, (_, svg) in enumerate(drawn)]
    return drawing(parts, WIDTH, step * len(drawn), "the evidence of a live experiment")


def _drawn(course: Course, simulated: bool) -> str:
    known = [item for line in (course.value, course.low, course.high) for item in line if item is not None]
    bottom, top = min([*known, -course.margin, 0.0]), max([*known, 0.0])
    room = (top - bottom or 1.0) * 0.05
    plane = Plane((0.0, max(course.units)), (bottom - room, top + room), WIDTH, HEIGHT)
    title = (
        f"{course.name}: challenger against champion, above 0 is better{' (simulated traffic)' if simulated else ''}"
    )
    ticks = {at: f"stage {stage}" for stage, at in course.stages.items()}
    parts = [label(LEFT, 14, title, "title"), *plane.grid(lambda value: worded(float(f"{value:.2g}"), course.unit))]
    axis = f"units seen; dashed: what it may be at worst, {worded(-course.margin, course.unit)}"
    parts += plane.names({**ticks, plane.x[1]: f"{plane.x[1]:,.0f} units"}, axis)
    parts.append(plane.across(-course.margin))
    for at, after in itertools.pairwise([*course.stages.values(), float("inf")]):
        inside = [place for place, seen in enumerate(course.units) if at < seen <= after]
        x = [course.units[place] for place in inside]
        low, value, high = ([line[place] for place in inside] for line in (course.low, course.value, course.high))
        parts += [plane.band(x, low, high, "band-0"), plane.line(x, value, "stroke-0")]
        parts += [_whisker(plane, x[0], low[0], high[0])] if len(x) == 1 else []
        parts += [plane.upright(at)] if at else []
    return drawing(parts, WIDTH, HEIGHT, title, wide=True)


def _whisker(plane: Plane, x: float, low: float | None, high: float | None) -> str:
    """The interval of a stage that was looked at once: a band of no width is not seen."""
    if low is None or high is None:
        return ""
    (across, bottom), (_, top) = plane.place(x, low), plane.place(x, high)
    return f'<path class="whisker" d="M{across:.1f} {bottom:.1f}V{top:.1f}"/>'
