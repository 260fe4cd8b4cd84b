"""The routing table: which model answers for a project. The router reads it at each request; publishing replaces it.

Copied beside the router: standard library only. It moves no traffic by itself and knows no server.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path


class RoutingError(ValueError):
    """A routing table is missing or can't be used; says what to do."""


@dataclass(frozen=True)
class Arm:
    """A share of the traffic: `weight` is relative to the other arms' weights."""

    name: str
    model: str
    weight: float


@dataclass(frozen=True)
class RoutingTable:
    """What a project's router does. `version` is the id of the ledger row that the table was published for."""

    project: str
    champion: str
    arms: tuple[Arm, ...]
    version: int

    @classmethod
    def parse(cls, text: str) -> RoutingTable:
        """From JSON. Raises RoutingError."""
        try:
            data = json.loads(text)
            arms = tuple(Arm(str(arm["name"]), str(arm["model"]), float(arm["weight"])) for arm in data["arms"])
            table = cls(str(data["project"]), str(data["champion"]), arms, int(data["version"]))
        except (KeyError, TypeError, ValueError) as error:
            raise RoutingError(
                f"found a routing table that can't be read ({type(error).__name__}: {error}); expected project, "
                "champion, arms and version; promote a model again"
            ) from error
        if not arms or any(arm.weight < 0 for arm in arms) or not sum(arm.weight for arm in arms) > 0:
            raise RoutingError(
                f"found the weights {[arm.weight for arm in arms]} in the routing table of {table.project}; expected "
                "at least one arm with a weight above zero and none below; promote a model again"
            )
        return table

    def plain(self) -> dict[str, object]:
        """As plain data, for JSON."""
        return asdict(self)

    def arm(self, request_id: str) -> Arm:
        """The arm of a request: the same id gets the same arm, shares follow the weights."""
        if len(self.arms) == 1:
            return self.arms[0]
        total = sum(arm.weight for arm in self.arms)
        hashed = hashlib.sha256(f"{self.project}:{request_id}".encode()).digest()
        place = int.from_bytes(hashed[:8], "big") / 2**64 * total
        for arm in self.arms:
            if place < arm.weight:
                return arm
            place -= arm.weight
        return max(self.arms, key=lambda arm: arm.weight)  # a rounding at the upper end


def only(project: str, model: str, version: int) -> RoutingTable:
    """A table that sends everything to one model."""
    return RoutingTable(project, model, (Arm("champion", model, 1.0),), version)


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
    """A routing table that is read again when its file was replaced; one `stat` a look."""

    def __init__(self, path: Path):
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._table: RoutingTable | None = None

    def table(self) -> RoutingTable:
        """The table as it is now. Raises RoutingError."""
        try:
            stat = self._path.stat()
        except OSError:
            self._seen = self._table = None
            return read_table(self._path)
        seen = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        if self._table is None or seen != self._seen:
            self._table = read_table(self._path)
            self._seen = seen
        return self._table
