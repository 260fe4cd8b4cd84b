"""Who is charged when a server dies again while challengers are tried: they are, and the router asks them no more.

A model that ends the whole server leaves no failure behind: requests under way are gone with the router that asked.
The verdict is the router's own marker beside the routing table (triton_models/router/1/breaker.py), which the router
tells in its log when it is started again; so it must be written while no router runs. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from pathlib import Path

from dl_pipelines.serving.breaker import Breaker
from dl_pipelines.serving.state import given_up, marker_file, projects, routing_file
from dl_pipelines.store import durable
from dl_pipelines.store.home import Home
from dl_pipelines.wire.routing import RoutingTable, read_table

DEATHS = 2
"""Deaths within a minute under one table after which its challengers are charged."""
SHADOW = "shadow"
"""The arm by which the router logs its shadow."""


class Blame:
    """Counts the deaths of one home's server under each routing table."""

    def __init__(self, home: Home, limit: int = DEATHS):
        self._home, self._limit = home, limit
        self._deaths: dict[tuple[str, int, str], Breaker] = defaultdict(lambda: Breaker(limit))

    def died(self, now: float) -> list[str]:
        """The server died, no router runs: what was decided, in words. Raises OSError when it can't be written."""
        told: list[str] = []
        for project in projects(self._home):
            with contextlib.suppress(ValueError):  # raised to whoever asks for that project
                told += self._project(read_table(routing_file(self._home, project)), now)
        return told

    def _project(self, table: RoutingTable, now: float) -> list[str]:
        marker = marker_file(self._home, table.project)
        charged: list[tuple[str, str]] = []
        known = given_up(self._home, table)
        for arm, model in challengers(table):
            deaths = self._deaths[table.project, table.revision, model]
            deaths.failed(now)
            if deaths.open(now) and model not in known:
                charged.append((arm, model))
        if not charged:
            return []
        why = f"the server died {self._limit} times within a minute while it was asked"
        found = _read(marker)
        for arm, model in charged:
            found["open"].append([table.revision, model])
            found["untold"].append([table.revision, arm, model, why])
        durable.write_json(marker, found)
        return [f"{model} of {table.project} is not asked any more: {why}" for _, model in charged]


def challengers(table: RoutingTable) -> list[tuple[str, str]]:
    """Arm and model of whatever is asked beside the champion, each model once."""
    named = [*((arm.name, arm.model) for arm in table.arms), *([(SHADOW, table.shadow)] if table.shadow else [])]
    first: dict[str, str] = {}
    for arm, model in named:
        if model != table.champion:
            first.setdefault(model, arm)
    return [(arm, model) for model, arm in first.items()]


def _read(marker: Path) -> dict[str, list[list]]:
    """The marker; empty lists when there is none, or what is there makes no sense."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(marker.read_text(encoding="utf-8"))
        opened = [[int(revision), str(model)] for revision, model in found["open"]]
        untold = [[int(at), str(arm), str(model), str(why)] for at, arm, model, why in found.get("untold", [])]
        return {"open": opened, "untold": untold}
    return {"open": [], "untold": []}
