"""The routing table: which model answers for a project. The router reads it at each request; publishing replaces it.

Copied beside the router: standard library only. It moves no traffic by itself and knows no server.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path


class RoutingError(ValueError):
    """A routing table is missing or can't be used; says what to do."""


CHAMPION, CHALLENGER = "champion", "challenger"


@dataclass(frozen=True)
class Arm:
    """A share of the units: `weight` is relative to the other arms' weights."""

    name: str
    model: str
    weight: float


@dataclass(frozen=True)
class RoutingTable:
    """What a project's router does. The champion's arm is first; it answers whatever a challenger fails to answer.

    `version` is the ledger row of the champion's publication, `revision` that of this table in the ledger of rollouts
    (0 outside of one): both are logged with each request. `shadow` names a model that is asked too and answers nobody.
    `salt` makes each experiment assign anew. `timeout_ms` and `breaker` are about challengers (brief: serving.router).
    """

    project: str
    champion: str
    arms: tuple[Arm, ...]
    version: int
    revision: int = 0
    shadow: str = ""
    salt: str = ""
    timeout_ms: float = 500.0
    breaker: int = 10

    @classmethod
    def parse(cls, text: str) -> RoutingTable:
        """From JSON. Raises RoutingError."""
        try:
            data = json.loads(text)
            arms = tuple(Arm(str(arm["name"]), str(arm["model"]), float(arm["weight"])) for arm in data["arms"])
            optional = {
                name: kind(data[name])
                for name, kind in _OPTIONAL.items()
                if name in data  # a table of an older version has none of them
            }
            table = cls(str(data["project"]), str(data["champion"]), arms, int(data["version"]), **optional)
        except (KeyError, TypeError, ValueError) as error:
            raise RoutingError(
                f"found a routing table that can't be read ({type(error).__name__}: {error}); expected project, "
                "champion, arms and version; promote a model again"
            ) from error
        weights = [arm.weight for arm in arms]
        if not arms or any(not 0 <= weight < math.inf for weight in weights) or not sum(weights) > 0:
            raise RoutingError(
                f"found the weights {weights} in the routing table of {table.project}; expected at least one arm with "
                "a weight above zero and none below; promote a model again"
            )
        if arms[0].model != table.champion:
            raise RoutingError(
                f"found {arms[0].model} as the first arm of {table.project}; expected its champion, {table.champion}; "
                "promote a model again"
            )
        return table

    def plain(self) -> dict[str, object]:
        """As plain data, for JSON."""
        return asdict(self)

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that has to be loaded, each once: the arms' and the shadow."""
        return tuple(dict.fromkeys([*(arm.model for arm in self.arms), *([self.shadow] if self.shadow else [])]))

    def arm(self, unit: str) -> Arm:
        """The arm of a unit: the same unit gets the same arm, shares follow the weights.

        Challengers take the lower end: a share that grows takes units from the champion only, and gives none back.
        """
        if len(self.arms) == 1:
            return self.arms[0]
        place = place_of(self.salt or self.project, unit) * sum(arm.weight for arm in self.arms)
        for arm in reversed(self.arms):
            if place < arm.weight:
                return arm
            place -= arm.weight
        return self.arms[0]  # a rounding at the upper end


_OPTIONAL = {"revision": int, "shadow": str, "salt": str, "timeout_ms": float, "breaker": int}


def place_of(salt: str, unit: str) -> float:
    """Where a unit stands between 0 and 1 (not included), by SHA-256: evenly spread, the same everywhere."""
    return (int.from_bytes(hashlib.sha256(f"{salt}:{unit}".encode()).digest()[:8], "big") >> 11) / 2**53


def only(project: str, model: str, version: int) -> RoutingTable:
    """A table that sends everything to one model."""
    return RoutingTable(project, model, (Arm(CHAMPION, model, 1.0),), version)


def read_table(path: Path) -> RoutingTable:
    """The table in a file. Raises RoutingError when it is missing or damaged."""
    try:
        return RoutingTable.parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RoutingError(
            f"found no routing table at {path.name} ({error.strerror}); expected one beside the router; promote a "
            "model (`dlp run`) first"
        ) from error


class Watched:
    """A routing table that is read again when its file was replaced; one `stat` a look. Any thread may look."""

    def __init__(self, path: Path):
        self._path, self._name = path, str(path)
        self._seen: tuple[tuple[int, int, int], RoutingTable] | None = None

    def table(self) -> RoutingTable:
        """The table as it is now. Raises RoutingError."""
        try:
            stat = os.stat(self._name)  # noqa: PTH116 - a third of the time, at every request
        except OSError:
            self._seen = None
            return read_table(self._path)
        now, seen = (stat.st_mtime_ns, stat.st_ino, stat.st_size), self._seen
        if seen is None or seen[0] != now:
            self._seen = seen = now, read_table(self._path)
        return seen[1]
