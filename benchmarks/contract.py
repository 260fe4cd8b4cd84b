"""What every benchmark prints, and the statistics of interleaved pairs."""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Comparison:
    """One line: `ratio` above 1 = ours is better; for an absolute figure `peer` is None, ratio = limit / ours."""

    name: str
    ours: float
    peer: float | None
    unit: str
    ratio: float
    interval: tuple[float, float] | None
    pairs: int
    conditions: dict[str, Any] = field(default_factory=dict)


def against_limit(
    name: str, ours: float, limit: float, unit: str, higher: bool = False, **conditions: Any
) -> Comparison:
    """An absolute figure; `higher` when more is better (the ratio is then ours / limit)."""
    ratio = ours / limit if higher else limit / ours
    return Comparison(name, round(ours, 4), None, unit, round(ratio, 3), None, 1, {"limit": limit, **conditions})


def paired(name: str, ours: list[float], peer: list[float], unit: str, **conditions: Any) -> Comparison:
    """Interleaved durations: the median of peer / ours, with a 95 % bootstrap interval over the pairs."""
    ratios = [theirs / mine for mine, theirs in zip(ours, peer, strict=True)]
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(2000))
    interval = (round(medians[49], 3), round(medians[1949], 3))
    middle = statistics.median
    return Comparison(
        name,
        round(middle(ours), 3),
        round(middle(peer), 3),
        unit,
        round(middle(ratios), 3),
        interval,
        len(ratios),
        conditions,
    )


def main(parts: Mapping[str, Callable[[], Iterable[Comparison]]], description: str) -> None:
    """Run a benchmark's parts, or those of `--only`: a JSON object a line with `--json`, else a sentence a line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--only", action="append", choices=list(parts), help="a part of it; may be given again")
    given = parser.parse_args()
    machine = {"machine": platform.machine(), "python": platform.python_version()}
    for part in given.only or parts:
        for item in parts[part]():
            line = json.dumps({**asdict(item), "conditions": {**item.conditions, **machine}})
            print(line if given.json else sentence(item), flush=True)


def sentence(item: Comparison) -> str:
    """A line as a person reads it; a limit is one of the figure itself without a peer, else one of the ratio."""
    limit = item.conditions.get("limit", 1)
    than = f"limit {limit:g}" if item.peer is None else f"peer {item.peer:g}, at least {limit:g}"
    met = "met" if is_met(item) else "MISSED"
    return f"{item.name}: {item.ours:g} {item.unit} ({than}), ratio {item.ratio:g}: {met}"


def is_met(item: Comparison) -> bool:
    """Whether the ratio is what was wanted; against a limit of the figure itself it has to be 1."""
    return item.ratio >= (1 if item.peer is None else item.conditions.get("limit", 1))
