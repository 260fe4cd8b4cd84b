"""What every benchmark prints, and the statistics of interleaved pairs."""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
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


def paired(
    name: str, ours: Sequence[float], peer: Sequence[float], unit: str, higher: bool = False, **conditions: Any
) -> Comparison:
    """Interleaved durations: the median of peer / ours, with a 95 % bootstrap interval over the pairs.

    `higher`: rates, of which more is better; it is then ours / peer.
    """
    pairs = list(zip(ours, peer, strict=True))
    middle, interval = _median([mine / theirs if higher else theirs / mine for mine, theirs in pairs])
    told = round(statistics.median(ours), 3), round(statistics.median(peer), 3)
    return Comparison(name, *told, unit, round(middle, 3), _rounded(interval), len(pairs), conditions)


def added(
    name: str, ours: Sequence[float], peer: Sequence[float], limit: float, unit: str, **conditions: Any
) -> Comparison:
    """What ours takes beyond the peer's, interleaved: an absolute figure, the median over the pairs.

    Its ratio is limit / ours with its interval; what is below a thousandth of the limit counts as that. Raises
    RuntimeError when ours took less: it contains the peer's, so something else had the cores meanwhile.
    """
    extra, (low, high) = _median([mine - theirs for mine, theirs in zip(ours, peer, strict=True)])
    if high <= 0:
        raise RuntimeError(f"found {name} of {extra:.3g} {unit}; expected more than 0: is something else running?")
    ratio, worst, best = (limit / max(value, limit / 1000) for value in (extra, high, low))
    told = {"limit": limit, "with": round(statistics.median(ours), 4), "without": round(statistics.median(peer), 4)}
    interval = _rounded((worst, best))
    return Comparison(name, round(extra, 4), None, unit, round(ratio, 3), interval, len(ours), {**told, **conditions})


def _median(values: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """With its 95 % bootstrap interval."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(2000))
    return statistics.median(values), (medians[49], medians[1949])


def _rounded(interval: tuple[float, float]) -> tuple[float, float]:
    return round(interval[0], 3), round(interval[1], 3)


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
