"""Points with intervals on two scales, the line through the best of them, and names that do not cover each other.

What the points are is decided in selection_figures.py and compression_figures.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dl_pipelines.evaluation.svg import drawing, label, safe

Show = Callable[[float], str]
Range = tuple[float, float]
Place = tuple[float, float]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""

WIDTH, HEIGHT = 700, 320
LEFT, RIGHT, TOP, BOTTOM = 70, 30, 34, 48
WIDE_RATIO = 8.0
"""Values further apart are drawn by their factors, unless another ratio is given."""
LETTER, LINE = 7.0, 13
"""Pixels of a letter and of a line of a name."""


@dataclass(frozen=True)
class Point:
    """`across` and `up` are the values, `ends_across` and `ends_up` their intervals, `kind` its class.

    `rank`: names are placed in this order, and what finds no room has none; 0 is named in any case.
    """

    name: str
    across: float
    up: float
    ends_across: Range
    ends_up: Range
    kind: str
    told: str
    radius: float = 6
    rank: int = 0
    whiskers: bool = True


class Scale:
    """From values to pixels; by factors where they are far apart."""

    def __init__(self, ends: Sequence[Range], first: float, last: float, by_factors: float | None = WIDE_RATIO):
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        self._log = by_factors is not None and low > 0 and high / low > by_factors
        low, high = (math.log(low), math.log(high)) if self._log else (low, high)
        room = (high - low or abs(high) or 1.0) * 0.06
        self._low, self._high, self._first, self._last = low - room, high + room, first, last

    def __call__(self, at: float) -> float:
        """Where a value lies, in pixels."""
        at = math.log(at) if self._log else at
        return self._first + (self._last - self._first) * (at - self._low) / (self._high - self._low)

    def ticks(self) -> list[float]:
        """Values to be named: round ones, or even factors apart."""
        if self._log:
            return [math.exp(self._low + (self._high - self._low) * share) for share in (0.06, 0.35, 0.65, 0.94)]
        most = (self._high - self._low) / 3
        power = 10.0 ** math.floor(math.log10(most))
        step = max((power * times for times in (1, 2, 5) if power * times <= most), default=power)
        return [place * step for place in range(math.ceil(self._low / step), math.floor(self._high / step) + 1)]


def scatter(
    title: str, named: str, axis: str, points: Sequence[Point], front: Sequence[Point], show_across: Show,
    show_up: Show, limit: tuple[float, str] | None = None, height: float = HEIGHT, by_factors: float = WIDE_RATIO,
) -> str:  # fmt: skip
    """The drawing, `named` for those who do not see it.

    The points of `front` are joined, the last of `points` is on top, `limit` is a named line across.
    """
    across = Scale([point.ends_across for point in points], LEFT, WIDTH - RIGHT, by_factors)
    levels = [point.ends_up for point in points] + ([(limit[0], limit[0])] if limit else [])
    up = Scale(levels, height - BOTTOM, TOP, by_factors=None)
    parts = [label(LEFT, 16, title, "title")]
    for at in up.ticks():
        parts.append(f'<path class="grid" d="M{LEFT} {up(at):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(label(LEFT - 6, up(at) + 4, show_up(float(f"{at:.3g}")), "end"))
    parts += [label(across(at), height - BOTTOM + 18, show_across(float(f"{at:.2g}")), "middle")
              for at in across.ticks()]  # fmt: skip
    parts.append(label((LEFT + WIDTH - RIGHT) / 2, height - 6, axis, "middle axis-name"))
    if limit:
        parts.append(f'<path class="limit" d="M{LEFT} {up(limit[0]):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(label(WIDTH - RIGHT, up(limit[0]) - 5, limit[1], "end axis-name small"))
    line = sorted((across(point.across), up(point.up)) for point in front)
    if len(line) > 1:
        parts.append('<path class="line stroke-0" d="M' + "L".join(f"{x:.1f} {y:.1f}" for x, y in line) + '"/>')
    for point in points:
        parts += _drawn(point, across, up)
    places = [(across(point.across), up(point.up)) for point in points]
    said = [] if limit is None else _line_across(up(limit[0]), limit[1])
    parts += _names(points, places, (LEFT, TOP - 12, WIDTH, height - BOTTOM), said)
    return drawing(parts, WIDTH, height, named, wide=True)


def _drawn(point: Point, across: Scale, up: Scale) -> list[str]:
    x, y = across(point.across), up(point.up)
    (left, right), (low, high) = map(across, point.ends_across), map(up, point.ends_up)
    whisker = f'<path class="whisker" d="M{left:.1f} {y:.1f}H{right:.1f}M{x:.1f} {low:.1f}V{high:.1f}"/>'
    return [
        *([whisker] if point.whiskers else []),
        f'<circle class="dot {point.kind}" cx="{x:.1f}" cy="{y:.1f}" r="{point.radius:.1f}">'
        f"<title>{safe(point.told)}</title></circle>",
    ]


def _line_across(y: float, text: str) -> list[Box]:
    """Where a line across and its name stand."""
    return [(LEFT, y - 1, WIDTH - RIGHT, y + 1), (WIDTH - RIGHT - LETTER * len(text), y - 5 - LINE, WIDTH - RIGHT, y)]


def _names(points: Sequence[Point], places: Sequence[Place], frame: Box, said: Sequence[Box]) -> list[str]:
    """Each name beside its point where it covers no other name, no point and nothing `said` already."""
    taken = [
        *said,
        *((x - point.radius, y - point.radius, x + point.radius, y + point.radius)
          for point, (x, y) in zip(points, places, strict=True)),
    ]  # fmt: skip
    parts: list[str] = []
    for place in sorted(range(len(points)), key=lambda place: points[place].rank):
        point, (x, y) = points[place], places[place]
        wide = LETTER * len(point.name)
        found = [(_box(x, y, wide, point.radius, *way), way[0]) for way in _WAYS]
        costs = [sum(_shared(box, other) for other in taken) + 9 * _outside(box, frame) for box, _ in found]
        best = min(range(len(found)), key=costs.__getitem__)
        if costs[best] > 0 and point.rank:
            continue
        box, side = found[best]
        taken.append(box)
        at, kind = {1: (box[0], ""), -1: (box[2], "end"), 0: ((box[0] + box[2]) / 2, "middle")}[side]
        parts.append(label(at, box[3] - 3, point.name, kind))
    return parts


_WAYS = (
    (1, -1), (-1, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (0, -1), (0, 1), (1, -2), (-1, -2), (1, 2), (-1, 2),
)  # fmt: skip
"""Where a name may stand: right, left or centred; lines above or below."""


def _box(x: float, y: float, wide: float, radius: float, side: int, lines: int) -> Box:
    left = {1: x + radius + 4, -1: x - radius - 4 - wide, 0: x - wide / 2}[side]
    gap = radius + 2 if side == 0 else 2
    middle = y + lines * (LINE / 2 + gap) if abs(lines) < 2 else y + lines * (LINE / 2 + 6)
    return left, middle - LINE / 2, left + wide, middle + LINE / 2


def _shared(one: Box, other: Box) -> float:
    """Pixels of the area that both cover."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return across * down if across > 0 and down > 0 else 0.0


def _outside(box: Box, frame: Box) -> float:
    """Pixels of a box's area that lie outside of a frame."""
    return (box[2] - box[0]) * (box[3] - box[1]) - _shared(box, frame)
