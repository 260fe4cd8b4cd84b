"""Which candidate is chosen, and how well each fits: pure decisions over plain data. Nothing is measured here.

A row is what `comparison.json` holds of a candidate. One with a `reason` could not be trained or run: it has no figures
and is never chosen. The formulas are told to people in docs/comparison.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from dl_pipelines.brief.targets import Target

Priority = Literal["accuracy", "latency", "throughput", "cost", "energy"]
Row = Mapping[str, Any]

WEIGHTS: Mapping[str, float] = {"metric": 0.5, "priority": 0.3, "targets": 0.2}
"""What counts how much in the fit."""

MEASURES: Mapping[str, tuple[str, Literal["lower", "higher"], str]] = {
    "latency": ("latency_ms", "lower", "answers one row soonest"),
    "throughput": ("throughput", "higher", "answers most rows a second"),
    "cost": ("train_seconds", "lower", "is trained at the lowest cost"),
    "energy": ("energy_j", "lower", "needs the least energy for its answers"),
}
"""By priority: the field of a row, which direction is better, what the best does. Machines cost by the hour."""


def value(row: Row, name: str) -> float | None:
    """A figure of a row, or the middle of its estimate; None where it was not measured."""
    found = row.get(name)
    return found["value"] if isinstance(found, Mapping) else found


def judged(
    rows: Sequence[Row], better: Literal["lower", "higher"], priority: Priority, targets: Sequence[Target] = ()
) -> list[dict[str, Any]]:
    """The rows with `tied`, `chosen`, `pareto`, `fit` (0 to 10) and `fit_parts` (each 0 to 1, None: not known).

    Of a row are read: `metric`, `behind` (the paired difference to the best over rows and seeds, above 0: worse),
    `behind_rows` (the same over rows alone), `metrics` and what MEASURES names.
    """
    able = [row for row in rows if not row.get("reason")]
    tied = ties(able, better)
    winner, front = chosen(tied, better, priority), pareto(able, better, priority)
    return [
        {
            **row,
            "tied": any(row is other for other in tied),
            "chosen": row is winner,
            "pareto": any(row is other for other in front),
            **({"fit": None, "fit_parts": {}} if row.get("reason") else fit(row, able, better, priority, targets)),
        }
        for row in rows
    ]


def ties(able: Sequence[Row], better: str) -> list[Row]:
    """The best, and those that can't be told from it: the interval of how far they are behind it holds 0.

    A candidate is not tied for its own unsteadiness alone, which would let a bad one through when its seeds differ
    enough: its mean has to lie within the best's interval, or the rows alone must not tell the two apart.
    """
    if not able:
        return []
    best = min(able, key=lambda row: _cost(value(row, "metric"), better))
    worst = _cost(best["metric"]["low" if better == "higher" else "high"], better)

    def near(row: Row) -> bool:
        return _cost(value(row, "metric"), better) <= worst or _holds_zero(row["behind_rows"])

    return [row for row in able if row is best or (_holds_zero(row["behind"]) and near(row))]


def _holds_zero(difference: Mapping[str, float]) -> bool:
    return difference["low"] <= 0 <= difference["high"]


def chosen(tied: Sequence[Row], better: str, priority: Priority) -> Row | None:
    """Among those that are tied with the best, itself among them, the best by the priority's measure.

    Where one of them lacks that measure, and where two are equal by it, the metric decides, then the order.
    """
    if not tied:
        return None

    def by_metric(row: Row) -> float:
        return _cost(value(row, "metric"), better)

    if not _decides(tied, priority):
        return min(tied, key=by_metric)
    name, direction, _ = MEASURES[priority]
    return min(tied, key=lambda row: (_cost(value(row, name), direction), by_metric(row)))


def why(rows: Sequence[Row], metric: str, better: str, priority: Priority) -> str:
    """The reason of the choice in a sentence, without figures of a clock; `rows` as judged."""
    winner = next((row for row in rows if row["chosen"]), None)
    if winner is None:
        return "no candidate could be trained and run"
    name, able = winner["candidate"], [row for row in rows if not row.get("reason")]
    others = [row["candidate"] for row in able if row["tied"] and row is not winner]
    if len(able) == 1:
        return f"{name} is the only candidate that could be trained and run"
    unsteady = [row["candidate"] for row in able if not row["tied"] and _holds_zero(row["behind"])]
    if not others and unsteady:
        left_open = f"only their seeds' spread leaves open how far {_listed(unsteady)} fall behind"
        return f"{name} has the best {metric} on validation rows; {left_open}"
    if not others:
        return f"{name} has the best {metric} on validation rows, by more than chance explains against each other one"
    told = f"{name} and {_listed(others)} can't be told apart by {metric} on validation rows; of these {name} "
    if _decides([row for row in able if row["tied"]], priority):
        return f"{told}{MEASURES[priority][2]}"
    said = f"has the {'highest' if better == 'higher' else 'lowest'} {metric}"
    lacks = "" if priority == "accuracy" else f" ({MEASURES[priority][0]}, the priority's measure, is not known of all)"
    return f"{told}{said}{lacks}"


def pareto(able: Sequence[Row], better: str, priority: Priority) -> list[Row]:
    """Those that no other is at least as good as in both the metric and the priority's measure, and better in one."""
    name, direction, _ = MEASURES[axis(able, priority)]
    points = [(_cost(value(row, "metric"), better), _cost(value(row, name), direction)) for row in able]

    def beaten(point: tuple[float, float]) -> bool:
        return any(other[0] <= point[0] and other[1] <= point[1] and other != point for other in points)

    return [row for row, point in zip(able, points, strict=True) if not beaten(point)]


def axis(able: Sequence[Row], priority: Priority) -> str:
    """What the metric is held against: the priority's measure where each has it, else the latency."""
    return priority if _decides(able, priority) else "latency"


def fit(
    row: Row, able: Sequence[Row], better: str, priority: Priority, targets: Sequence[Target]
) -> dict[str, Any]:  # fmt: skip
    """`fit` = 10 x the mean of its parts by WEIGHTS, without parts that are not known; and the parts.

    `metric`: the metric as a share of the best candidate's (the best's share of it where lower is better). `priority`:
    likewise by the priority's measure; the metric itself where that is accuracy. `targets`: the share of the brief's
    targets it meets, of those that can be judged on a candidate.
    """
    parts: dict[str, float | None] = {"metric": _share(row, able, "metric", better)}
    if priority == "accuracy":
        parts["priority"] = parts["metric"]
    else:
        name, direction, _ = MEASURES[priority]
        parts["priority"] = _share(row, able, name, direction)
    parts["targets"] = _met(row, targets)
    known = {name: part for name, part in parts.items() if part is not None}
    weight = sum(WEIGHTS[name] for name in known)
    mean = sum(WEIGHTS[name] * part for name, part in known.items()) / weight if weight else 0.0
    return {"fit": round(10 * mean, 2), "fit_parts": {n: None if p is None else round(p, 4) for n, p in parts.items()}}


def _decides(rows: Sequence[Row], priority: Priority) -> bool:
    return priority != "accuracy" and all(value(row, MEASURES[priority][0]) is not None for row in rows)


def _cost(found: float | None, better: str) -> float:
    """Lower is better, whatever the direction; what is not known is worst."""
    if found is None:
        return float("inf")
    return found if better == "lower" else -found


def _share(row: Row, able: Sequence[Row], name: str, better: str) -> float | None:
    """How close to the best, 0 to 1; None where it was not measured."""
    own, found = value(row, name), [item for other in able if (item := value(other, name)) is not None]
    if own is None:
        return None
    best = min(found) if better == "lower" else max(found)
    if own == best:
        return 1.0
    part, whole = (best, own) if better == "lower" else (own, best)
    return min(1.0, max(0.0, part / whole)) if whole else 0.0


def _met(row: Row, targets: Sequence[Target]) -> float | None:
    """The share of targets that are met; those on slices and on the live server can't be judged."""
    system = {"latency_p50_ms": value(row, "latency_ms"), "size_mb": row.get("size_mb")}
    found = [
        target.met_by(measured)
        for target in targets
        if target.slice is None and (measured := {**row.get("metrics", {}), **system}.get(target.metric)) is not None
    ]
    return sum(found) / len(found) if found else None


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
