"""Figures of the compression: the steps of the chain in order, and every variant by its cost and its loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dl_pipelines.evaluation.bars import marked, short
from dl_pipelines.evaluation.svg import drawing, label, safe
from dl_pipelines.evaluation.wording import in_unit, number
from dl_pipelines.report import chain
from dl_pipelines.report.chain import Row
from dl_pipelines.report.facts import Facts
from dl_pipelines.report.figures import figure, keys
from dl_pipelines.report.scatter import Point, scatter

BROAD, MARGIN, GAP = 960, 58, 8
CARD, BAND = 138, 84
"""Pixels: of the chain's drawing across, its left margin, between cards; the height of a card and of a band of bars."""
SMALLEST, LARGEST = 4.0, 13.0
"""Radius of the point of an empty file and of the largest one."""


def steps(facts: Facts) -> Any:
    """A card for each step: what was tried and taken; below them size and latency of the strongest artifact so far."""
    groups = chain.steps(chain.ledger(facts))
    if len(groups) < 2:
        return None
    column = min(190.0, (BROAD - MARGIN) / len(groups))
    strongest = _strongest(groups)
    served = {id(row) for row in chain.made_of(chain.ledger(facts))}
    parts = [label(0, 16, "step", "axis-name"), label(0, 78, "taken", "axis-name")]
    for place, group in enumerate(groups):
        x = MARGIN + place * column
        parts += _card(group, strongest[place], x, column - GAP, served)
        if place:
            parts.append(f'<path class="whisker" d="M{x - 7:.1f} 56h6m-3 -3l3 3l-3 3"/>')
    bands: list[tuple[str, Callable[[Row], float | None]]] = [
        ("size, MB", lambda row: row["size_mb"]), ("latency, ms", lambda row: row["latency_p50_ms"]),
    ]  # fmt: skip
    for place, (name, measured) in enumerate(bands):
        parts += _band(name, groups, strongest, measured, CARD + place * BAND, column)
    gains_at = CARD + len(bands) * BAND + 14
    parts.append(label(0, gains_at, "speed gain", "axis-name"))
    for place, row in enumerate(strongest):
        x = MARGIN + place * column + (column - GAP) / 2
        parts.append(label(x, gains_at, f"{row['gain']['value']:.3g}x" if row["gain"] else "", "middle value"))
    drawn = drawing(parts, MARGIN + len(groups) * column, gains_at + 10, "The steps of the compression", wide=True)
    legend = keys([("chosen", "serves"), ("kept", "taken at this step"), ("rejected", "nothing better: as before")])
    caption = (
        f"The chain{marked(facts.simulated)}: each step begins from the last network that was taken. Below, the "
        "strongest artifact after each step, as measured when it was taken; the speed gain is against the uncompressed "
        "model, timed in turns."
    )
    return figure(drawn, caption, legend)


def _strongest(groups: Sequence[Sequence[Row]]) -> list[Row]:
    """The strongest artifact after each step."""
    found: list[Row] = []
    for group in groups:
        taken = [row for row in group if row["taken"]]
        found.append(taken[-1] if taken else found[-1])
    return found


def _card(group: Sequence[Row], after: Row, x: float, wide: float, served: set[int]) -> list[str]:
    taken = after if any(row is after for row in group) else None
    kind = "serves" if taken and taken["chosen"] else "taken" if taken and id(taken) in served else ""
    letters = max(6, int(wide / 6.6))
    technique = "as trained" if group[0]["technique"] == "none" else group[0]["technique"].replace("_", " ")
    made = [row for row in group if row["size_mb"] is not None]
    tried = f"{len(made)} tried" if made else "not made"
    tried += f", {len(group) - len(made)} not made" if made and len(made) < len(group) else ""
    middle = x + wide / 2
    parts = [
        f'<rect class="card {kind}" x="{x:.1f}" y="2" width="{wide:.1f}" height="{CARD - 24}" rx="6">'
        f"<title>{safe(_tooltip(group))}</title></rect>",
        label(middle, 16, group[0]["phase"], "middle small axis-name"),
    ]
    parts += [
        label(middle, 31 + 13 * line, text, "middle small strong")
        for line, text in enumerate(_wrapped(technique, letters, 2))
    ]
    parts.append(
        label(middle, 60, tried if len(tried) <= letters else f"{len(made)} of {len(group)} made", "middle small")
    )
    lines = [*_wrapped(taken["variant"], letters, 2), _on(taken["runtime"], letters)] if taken else ["nothing"]
    parts += [label(middle, 78 + 13 * line, text, "middle small") for line, text in enumerate(lines)]
    return parts


def _on(runtime: str, letters: int) -> str:
    return f"on {runtime}" if len(runtime) + 3 <= letters else runtime


def _tooltip(group: Sequence[Row]) -> str:
    return " / ".join(f"{chain.name(row)}: {chain.state(row)}, {row['reason']}" for row in group)


def _wrapped(text: str, letters: int, most: int) -> list[str]:
    """A name in lines, torn behind spaces and underscores; what is too long is cut."""
    lines = [""]
    for word in text.replace("_", "_ ").split(" "):
        gap = "" if not lines[-1] or lines[-1].endswith("_") else " "
        if lines[-1] and len(lines[-1] + gap + word) > letters:
            lines.append(word)
        else:
            lines[-1] += gap + word
    shown = lines[:most] if len(lines) <= most else [*lines[: most - 1], "".join(lines[most - 1 :])]
    return [short(line, letters) if len(line) > letters else line for line in shown]


def _band(
    name: str, groups: Sequence[Sequence[Row]], strongest: Sequence[Row], measured: Callable[[Row], float | None],
    top: float, column: float,
) -> list[str]:  # fmt: skip
    """Bars of one figure of the strongest artifact after each step."""
    most = max((measured(row) or 0.0 for row in strongest), default=0.0) or 1.0
    floor, tall, wide = top + BAND - 8, BAND - 34, min(44.0, column - 24)
    parts = [
        f'<path class="grid" d="M{MARGIN} {floor:.1f}H{MARGIN + len(groups) * column - GAP:.1f}"/>',
        label(0, floor - 4, name, "axis-name"),
    ]
    for place, row in enumerate(strongest):
        value, x = measured(row) or 0.0, MARGIN + place * column + (column - GAP) / 2
        now = any(row is other for other in groups[place])
        kind = ("chosen" if row["chosen"] else "kept") if now else "rejected"
        high = max(1.0, tall * value / most)
        parts += [
            f'<rect class="bar {kind}" x="{x - wide / 2:.1f}" y="{floor - high:.1f}" width="{wide:.1f}" '
            f'height="{high:.1f}" rx="2"><title>{safe(chain.name(row))}</title></rect>',
            label(x, floor - high - 5, f"{value:.3g}", "middle value"),
        ]
    return parts


def pareto(facts: Facts) -> Any:
    """Each variant's loss by what the objective counts, its area the size of its file; the front is joined."""
    objective = facts.brief["compression"]["objective"]
    rows = [row for row in chain.ledger(facts) if row["loss"] and _cost(row, objective)]
    if len(rows) < 2:
        return None
    unit, budget = facts.metrics[facts.primary].unit, facts.brief["compression"]["max_loss"]

    def show(at: float) -> str:
        return in_unit(at, unit)

    top = _top(rows, budget)
    front = pareto_rows([row for row in rows if row["loss"]["value"] <= top], objective)
    largest = max(row["size_mb"] or 0.0 for row in rows) or 1.0
    ordered = sorted(rows, key=lambda row: (row["chosen"], row["taken"], row["kept"]))
    points = [_point(row, objective, top, largest, front, show) for row in ordered]
    joined = [point for point, row in zip(points, ordered, strict=True) if any(row is other for other in front)]
    title = f"Loss of {facts.primary} (validation rows) and {objective}{marked(facts.simulated)}"
    drawn = scatter(
        title, "Variants and the Pareto front", _AXES[objective], points, joined, _ticks(objective), show,
        limit=(budget, f"budget {show(budget)}"), height=380, by_factors=3,
    )  # fmt: skip
    legend = keys([("chosen", "serves"), ("kept", "could serve"), ("rejected", "rejected")])
    sizes = f"{number(min(row['size_mb'] or 0.0 for row in rows))} to {number(largest)} MB"
    caption = (
        f"A point for each variant, better to the left and below; its area grows with the size of its file ({sizes}). "
        "On the line nothing is better in both. Ringed: taken, so that later steps were held against it."
    )
    if any(row["loss"]["value"] > top for row in rows):
        caption += " At the upper edge: losses beyond the picture."
    return figure(drawn, caption, legend)


_AXES = {
    "latency": "latency of one row, as a share of the uncompressed model's", "size": "size, MB",
    "energy": "energy of 1,000 answers, J",
}  # fmt: skip
"""By objective. A latency is told as a share: both were timed in turns, so that a slow minute hits both."""


def _cost(row: Row, objective: str) -> tuple[float, float, float] | None:
    """What the objective counts (lower is better), with the ends of its interval."""
    if objective == "size":
        return None if row["size_mb"] is None else (row["size_mb"],) * 3
    if objective == "energy":
        found = row["energy_j"]
        return None if found is None else (found["value"], found["low"], found["high"])
    gain = row["gain"]
    return None if gain is None else (1 / gain["value"], 1 / gain["high"], 1 / gain["low"])


def _ticks(objective: str) -> Callable[[float], str]:
    return (lambda at: in_unit(at, "share")) if objective == "latency" else number


def pareto_rows(rows: Sequence[Row], objective: str) -> list[Row]:
    """Those that no other is at least as good as in cost and loss, and better in one."""
    points = [((_cost(row, objective) or (0.0,))[0], row["loss"]["value"]) for row in rows]

    def beaten(point: tuple[float, float]) -> bool:
        return any(other[0] <= point[0] and other[1] <= point[1] and other != point for other in points)

    return [row for row, point in zip(rows, points, strict=True) if not beaten(point)]


def _top(rows: Sequence[Row], budget: float) -> float:
    """The largest loss that is drawn where it is: one ruined variant must not press all others into a line."""
    good = [row["loss"]["high"] for row in rows if row["kept"]]
    return max(2.5 * budget, 1.5 * max(good, default=0.0), 1e-9)


def _point(
    row: Row, objective: str, top: float, largest: float, front: Sequence[Row], show: Callable[[float], str]
) -> Point:  # fmt: skip
    middle, low, high = _cost(row, objective) or (0.0, 0.0, 0.0)
    loss, beyond = row["loss"], row["loss"]["value"] > top
    named = chain.name(row) + (f" (loses {show(loss['value'])})" if beyond else "")
    speed = f", {number(row['latency_p50_ms'])} ms" if row["latency_p50_ms"] is not None else ""
    gain = f", {row['gain']['value']:.3g} times the speed of the uncompressed" if row["gain"] else ""
    told = (
        f"{chain.name(row)}: {chain.state(row)}; loss {show(loss['value'])} [{show(loss['low'])}, {show(loss['high'])}]"
        f"{speed}{gain}, {number(row['size_mb'])} MB; {row['reason']}"
    )
    best = any(row is other for other in front)
    return Point(
        named, middle, min(loss["value"], top), (low, high), (min(loss["low"], top), min(loss["high"], top)),
        f"bar {chain.kind(row)}{' ringed' if row['taken'] else ''}", told,
        SMALLEST + (LARGEST - SMALLEST) * ((row["size_mb"] or 0.0) / largest) ** 0.5,
        rank=0 if row["chosen"] else 1 if row["taken"] else 2 if best else 3 if row["kept"] else 4,
        whiskers=bool(row["taken"] or best),
    )  # fmt: skip
