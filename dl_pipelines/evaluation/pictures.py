"""Pictures of what an evaluation found: forecasts, errors by horizon and over time, against baselines, ablations.

A picture is drawn when its data is there, whatever the task. The report shows them in its own colours; `markdown` makes
one that stands alone, for Dagster.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dl_pipelines.evaluation.bars import BROAD, Picture, Show, baselines, marked, short, words
from dl_pipelines.evaluation.svg import WIDTH, Plane, dot, drawing, label
from dl_pipelines.evaluation.wording import number
from dl_pipelines.tasks.base import Metric

STYLE = {
    "": "svg{font:12px system-ui,sans-serif;background:#fff}text{fill:#1c1e21}",
    "middle": "text-anchor:middle", "end": "text-anchor:end", "axis-name": "fill:#62676d",
    "title": "font-weight:600;font-size:13px", "small": "font-size:11px", "grid": "stroke:#dfe1e4;fill:none",
    "line": "fill:none;stroke-width:2", "limit": "stroke:#1c1e21;stroke-dasharray:4 3;fill:none",
    "whisker": "stroke:#1c1e21;fill:none;stroke-width:1.2", "band": "fill-opacity:.18", "bar": "fill:#b9bcc0",
    "bar.chosen": "fill:#2563b8", "stroke-0": "stroke:#2563b8", "series-0": "fill:#2563b8", "band-0": "fill:#2563b8",
    "stroke-ink": "stroke:#1c1e21", "series-ink": "fill:#1c1e21", "stroke-past": "stroke:#9aa1a9",
    "series-past": "fill:#9aa1a9",
}  # fmt: skip
"""The report's light colours by class, for a picture that no page's style sheet reaches."""


def markdown(pictures: Iterable[Picture]) -> str:
    """Pictures as Markdown images that stand alone: SVG in data URIs, with colours of their own."""
    return "\n\n".join(f"![{name.translate(_PLAIN)}]({_uri(drawn)})" for name, drawn in pictures)


_PLAIN = str.maketrans(dict.fromkeys("[]()\\`<>\n", " "))


def _uri(drawn: str) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(alone(drawn).encode()).decode()}"


def alone(drawn: str) -> str:
    """A drawing as an SVG document: with the colours it uses, without what only shows when it is pointed at."""
    bare = re.sub("<title>.*?</title>", "", drawn)
    used = {kind for kinds in re.findall('class="([^"]*)"', bare) for kind in kinds.split()}
    rules = [f".{kind}{{{rule}}}" if kind else rule for kind, rule in STYLE.items()
             if not kind or kind.split(".")[-1] in used]  # fmt: skip
    bare = bare.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return bare.replace(">", f"><style>{''.join(rules)}</style>", 1)


def shown(
    details: Mapping[str, Any], against: Mapping[str, Any] | None, metrics: Mapping[str, Metric], simulated: bool
) -> dict[str, dict[str, str]]:
    """For `draft.show`: Markdown by name, for each kind of picture whose data is there."""
    kinds = {
        "forecasts": forecasts(details, simulated),
        "by_horizon": by_horizon(details, metrics, simulated),
        "backtest": backtest(details, metrics, simulated),
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
    name = f"{example['item']}, {len(ahead)} steps from {example['origin']}{marked(simulated)}"
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
    return name, drawing(
        [label(8, 14, short(name, 60), "title"), *parts, *plane.legend(keys, below=True)], BROAD, 210, name
    )


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
    said, show = words(name, metrics)
    ends = _ends([*low, *high, *value], *_limits(name, metrics))
    plane, title = Plane((steps[0], steps[-1]), ends), f"{said}{marked(simulated)}"
    ticks = {at: str(at) for at in (steps[0], steps[len(steps) // 2], steps[-1])}
    parts = [label(8, 14, short(title, 44), "title"), *plane.grid(show), *plane.names(ticks, "steps ahead")]
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
        found.append(_over_time(f"Total of the horizon{marked(simulated)}", rows, lines, number, keys, (False, None)))
    for name in [name for name in rows[0] if name in metrics]:
        said, show = words(name, metrics)
        values = {"stroke-0": [row.get(name) for row in rows]}
        found.append(_over_time(f"{said}{marked(simulated)}", rows, values, show, [], _limits(name, metrics)))
    return found


def _over_time(
    title: str, rows: Sequence[Mapping[str, Any]], lines: Mapping[str, Sequence[float | None]], show: Show,
    keys: Sequence[tuple[str, str]], limits: tuple[bool, float | None],
) -> Picture:  # fmt: skip
    places, last = range(len(rows)), len(rows) - 1
    plane = Plane((0, last), _ends((value for line in lines.values() for value in line), *limits))
    parts = [label(8, 14, short(title, 44), "title"), *plane.grid(show)]
    parts += plane.names({0: rows[0]["date"], last: rows[-1]["date"]}, "" if keys else "origin")
    parts += [plane.line(places, line, kind) for kind, line in lines.items()]
    return title, drawing([*parts, *plane.legend(keys, below=True)], WIDTH, plane.height, title)


def _limits(name: str, metrics: Mapping[str, Metric]) -> tuple[bool, float | None]:
    """Of a metric's axis: whether it starts at 0 (errors), and where it ends at the latest (shares that are good)."""
    better = metrics[name].better if name in metrics else "lower"
    return better == "lower", 1.0 if better == "higher" and metrics[name].unit == "share" else None


def _ends(values: Iterable[float | None], zero: bool = False, most: float | None = None) -> tuple[float, float]:
    """The least and the largest value with some room, or from 0 on, or up to `most`."""
    there = [value for value in values if value is not None]
    if not there:
        return 0.0, 1.0
    low, high = (min(0.0, *there), max(there)) if zero else (min(there), max(there))
    room = 0.04 * (high - low) or abs(high) * 0.04 or 1.0
    return (low if zero else low - room), high + room if most is None else min(most, high + room)
