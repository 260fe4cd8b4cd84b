"""Pictures of what an evaluation found: forecasts, errors by horizon and over time, against baselines, ablations.

A picture is drawn when its data is there, whatever the task. The report shows them in its own colours; `markdown` makes
one that stands alone, for Dagster.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dl_pipelines.evaluation.svg import BOTTOM, RIGHT, TOP, WIDTH, Plane, dot, drawing, label, safe
from dl_pipelines.evaluation.wording import in_unit, number
from dl_pipelines.tasks.base import Metric

Picture = tuple[str, str]
"""What it shows, and the SVG element."""
Show = Callable[[Any], str]
BROAD = 500
"""Pixels across of a forecast."""
MOST_BARS = 12
STYLE = (
    "svg{font:12px system-ui,sans-serif;background:#fff}text{fill:#1c1e21}.middle{text-anchor:middle}"
    ".end{text-anchor:end}.axis-name{fill:#62676d}.title{font-weight:600;font-size:13px}.small{font-size:11px}"
    ".grid{stroke:#dfe1e4;fill:none}.line{fill:none;stroke-width:2}"
    ".limit{stroke:#1c1e21;stroke-dasharray:4 3;fill:none}"
    ".whisker{stroke:#1c1e21;fill:none;stroke-width:1.2}.stroke-0{stroke:#2563b8}.stroke-1{stroke:#c2561a}"
    ".series-0,.band-0{fill:#2563b8}.series-1,.band-1{fill:#c2561a}.band{fill-opacity:.18}.stroke-ink{stroke:#1c1e21}"
    ".series-ink{fill:#1c1e21}.stroke-past{stroke:#9aa1a9}.series-past{fill:#9aa1a9}.bar{fill:#62676d;fill-opacity:.4}"
    ".bar.chosen{fill:#2563b8;fill-opacity:1}"
)
"""The report's light colours, for a picture that no page's style sheet reaches."""


def markdown(pictures: Iterable[Picture]) -> str:
    """Pictures as Markdown images that stand alone: SVG in data URIs, with colours of their own."""
    return "\n\n".join(f"![{name.translate(_PLAIN)}]({_uri(drawn)})" for name, drawn in pictures)


_PLAIN = str.maketrans(dict.fromkeys("[]()\\`<>\n", " "))


def _uri(drawn: str) -> str:
    alone = drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    alone = alone.replace(">", f"><style>{STYLE}</style>", 1)
    return f"data:image/svg+xml;base64,{base64.b64encode(alone.encode()).decode()}"


def shown(
    details: Mapping[str, Any], against: Mapping[str, Any] | None, metrics: Mapping[str, Metric], simulated: bool
) -> dict[str, dict[str, str]]:
    """For `draft.show`: Markdown by name, for each kind of picture whose data is there."""
    kinds = {
        "forecasts": forecasts(details, simulated),
        "errors": [*by_horizon(details, metrics, simulated), *backtest(details, metrics, simulated)],
        "baselines": baselines(against or {}, metrics, simulated),
    }
    return {name: {"md": markdown(pictures)} for name, pictures in kinds.items() if pictures}


def forecasts(details: Mapping[str, Any], simulated: bool = False) -> list[Picture]:
    """Forecast and actual with the interval, one picture an item of `examples`."""
    return [_forecast(example, simulated) for example in details.get("examples") or []]


def _forecast(example: Mapping[str, Any], simulated: bool) -> Picture:
    past, ahead = example["history"], example["mean"]
    before, after = range(-len(past), 0), range(len(ahead))
    low, high = example.get("low"), example.get("high")
    lines = [past, example["actual"], ahead, low or [], high or []]
    plane = Plane((before[0] if past else 0, after[-1]), _ends(value for line in lines for value in line), BROAD, 210)
    name = f"{example['item']}, {len(ahead)} steps from {example['origin']}{_of(simulated)}"
    dates = [*example["history_dates"], *example["dates"]]
    parts = [*plane.grid(number), *plane.names({plane.x[0]: dates[0], 0: example["origin"], plane.x[1]: dates[-1]}, "")]
    if low and high:
        parts.append(plane.band(after, low, high, "band-0"))
    parts += [
        plane.upright(0),
        plane.line(before, past, "stroke-past"),
        plane.line(after, example["actual"], "stroke-ink"),
        plane.line(after, ahead, "stroke-0"),
    ]
    keys = [("series-past", "before"), ("series-ink", "actual"), ("series-0", "forecast")]
    if low and high:
        start, end = example["interval"]
        keys.append(("band band-0", f"{number(round(100 * (end - start), 6))}%"))
    return name, drawing([label(8, 14, _short(name, 44), "title"), *parts, *plane.legend(keys)], BROAD, 210, name)


def by_horizon(details: Mapping[str, Any], metrics: Mapping[str, Metric], simulated: bool = False) -> list[Picture]:
    """Each metric of `by_horizon` by steps ahead, with its interval."""
    rows = details.get("by_horizon") or []
    names = dict.fromkeys(name for row in rows for name, value in row.items() if isinstance(value, Mapping))
    if len(rows) < 2:
        return []
    return [_steps(name, rows, metrics, simulated) for name in names]


def _steps(name: str, rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, Metric], simulated: bool) -> Picture:
    steps = [row["step"] for row in rows]
    value, low, high = ([row[name][key] if name in row else None for row in rows] for key in ("value", "low", "high"))
    about, show = _about(name, metrics)
    ends = _ends([*low, *high, *value], zero=metrics[name].better == "lower" if name in metrics else False)
    plane, title = Plane((steps[0], steps[-1]), ends), f"{about} by steps ahead{_of(simulated)}"
    ticks = {at: str(at) for at in (steps[0], steps[len(steps) // 2], steps[-1])}
    parts = [label(8, 14, _short(title, 50), "title"), *plane.grid(show), *plane.names(ticks, "steps ahead")]
    parts += [plane.band(steps, low, high, "band-0"), plane.line(steps, value, "stroke-0")]
    parts += [
        dot(plane.place(at, float(found)), "series-0", f"{at} ahead: {show(found)}")
        for at, found in zip(steps, value, strict=True) if found is not None and len(steps) <= 40
    ]  # fmt: skip
    return title, drawing(parts, WIDTH, plane.height, title)


def backtest(details: Mapping[str, Any], metrics: Mapping[str, Metric], simulated: bool = False) -> list[Picture]:
    """Over time: what was forecast and came to pass in all, by origin, and each metric that is there."""
    rows = details.get("backtest") or []
    if len(rows) < 2:
        return []
    found: list[Picture] = []
    if all({"actual", "forecast"} <= row.keys() for row in rows):
        lines = {"stroke-ink": [row["actual"] for row in rows], "stroke-0": [row["forecast"] for row in rows]}
        keys = [("series-ink", "actual"), ("series-0", "forecast")]
        found.append(_over_time(f"Total by origin{_of(simulated)}", rows, lines, number, keys, zero=False))
    for name in [name for name in rows[0] if name in metrics]:
        about, show = _about(name, metrics)
        zero = metrics[name].better == "lower"
        values = {"stroke-0": [row.get(name) for row in rows]}
        found.append(_over_time(f"{about} by origin{_of(simulated)}", rows, values, show, [], zero))
    return found


def _over_time(
    title: str, rows: Sequence[Mapping[str, Any]], lines: Mapping[str, Sequence[float | None]], show: Show,
    keys: Sequence[tuple[str, str]], zero: bool,
) -> Picture:  # fmt: skip
    places, last = range(len(rows)), len(rows) - 1
    plane = Plane((0, last), _ends((value for line in lines.values() for value in line), zero))
    parts = [label(8, 14, _short(title, 30 if keys else 50), "title"), *plane.grid(show)]
    parts += plane.names({0: rows[0]["date"], last: rows[-1]["date"]}, "origin")
    parts += [plane.line(places, line, kind) for kind, line in lines.items()]
    return title, drawing([*parts, *plane.legend(keys)], WIDTH, plane.height, title)


def baselines(against: Mapping[str, Any], metrics: Mapping[str, Metric], simulated: bool = False) -> list[Picture]:
    """Bars with whiskers of each metric: this model, what it has to beat, and the floor where there is one."""
    found: list[Picture] = []
    for name in against.get("metrics") or []:
        rows = [row for row in against["rows"] if row["metric"] == name]
        if not rows:
            continue
        about, show = _about(name, metrics)
        listed = [("this model", rows[0]["ours"], "chosen")]
        listed += [(_said(row["baseline"]), row["theirs"], "") for row in rows]
        title = f"{about}: this model and its baselines{_of(simulated)}"
        found.append((title, bars(title, listed[:MOST_BARS], show)))
    return found


def bars(title: str, rows: Sequence[tuple[str, Mapping[str, float], str]], show: Show) -> str:
    """Bars from 0 with the interval of each as a whisker: name, estimate, class."""
    left, height = 150, TOP + 26 * len(rows) + 12
    most = max((max(row["high"], row["value"]) for _, row, _ in rows), default=0) or 1
    scale = (BROAD - left - 130) / most
    parts = [label(8, 14, _short(title, 70), "title")]
    for place, (name, row, kind) in enumerate(rows):
        y = TOP + 14 + 26 * place
        width, low, high = (max(0.0, row[key]) * scale for key in ("value", "low", "high"))
        told = f"{show(row['value'])} [{show(row['low'])}, {show(row['high'])}]"
        parts += [
            label(left - 8, y + 4, _short(name, 22), "end"),
            f'<rect class="bar {kind}" x="{left}" y="{y - 8}" width="{max(1.0, width):.1f}" height="16" rx="2">'
            f"<title>{safe(name)}: {safe(told)}</title></rect>",
            f'<path class="whisker" d="M{left + low:.1f} {y}H{left + high:.1f}M{left + low:.1f} {y - 4}v8'
            f'M{left + high:.1f} {y - 4}v8"/>',
            label(left + max(width, high) + 6, y + 4, told, "small"),
        ]
    return drawing(parts, BROAD, height, title)


def effects(title: str, rows: Sequence[tuple[str, Mapping[str, float]]], show: Show) -> str:
    """Points with their intervals on both sides of 0: name, estimate."""
    left, height = 150, TOP + 26 * len(rows) + BOTTOM
    most = max((abs(row[key]) for _, row in rows for key in ("value", "low", "high")), default=0) or 1
    middle, scale = left + (BROAD - left - RIGHT) / 2, (BROAD - left - 2 * RIGHT) / 2 / most
    parts = [
        label(8, 14, _short(title, 70), "title"),
        f'<path class="limit" d="M{middle:.1f} {TOP}V{height - BOTTOM + 4}"/>',
        *(label(middle + at * scale, height - BOTTOM + 18, show(at), "middle") for at in (-most, 0.0, most)),
    ]
    for place, (name, row) in enumerate(rows):
        y = TOP + 14 + 26 * place
        low, high = middle + row["low"] * scale, middle + row["high"] * scale
        told = f"{name}: {show(row['value'])} [{show(row['low'])}, {show(row['high'])}]"
        parts += [
            label(left - 8, y + 4, _short(name, 22), "end"),
            f'<path class="whisker" d="M{low:.1f} {y}H{high:.1f}M{low:.1f} {y - 4}v8M{high:.1f} {y - 4}v8"/>',
            dot((middle + row["value"] * scale, y), "series-0", told).replace('r="2.5"', 'r="4.5"'),
        ]
    return drawing(parts, BROAD, height, title)


def _about(name: str, metrics: Mapping[str, Metric]) -> tuple[str, Show]:
    """A metric's name for people, and how its values are written."""
    unit = metrics[name].unit if name in metrics else ""
    return (metrics[name].label if name in metrics else name), lambda value: in_unit(value, unit)


def _ends(values: Iterable[float | None], zero: bool = False) -> tuple[float, float]:
    """The least and the largest value with some room, or from 0 on."""
    there = [value for value in values if value is not None]
    if not there:
        return 0.0, 1.0
    low, high = (min(0.0, *there), max(there)) if zero else (min(there), max(there))
    room = 0.04 * (high - low) or abs(high) * 0.04 or 1.0
    return (low if zero else low - room), high + room


def _of(simulated: bool) -> str:
    return " (simulated)" if simulated else ""


def _said(name: str) -> str:
    return name.replace("_", " ")


def _short(text: str, most: int) -> str:
    """The end stays: it says whether data is simulated."""
    return text if len(text) <= most else f"{text[: most // 2 - 2]} ... {text[-(most // 2 - 2) :]}"
