"""What served when, with which share, why and by whom: read from the ledgers, for any time. It changes nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from dl_pipelines.serving.champion import MOVES, Row, ledger, routed
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.wire.routing import CHALLENGER, CHAMPION

SHADOW = "shadow"
TOLD = (*MOVES, "challenger", "withdrawn")
"""Events of the ledger that changed who answers; `published` changed nothing."""


@dataclass(frozen=True)
class Serving:
    """A model that serves: `share` of the units that it answers (a shadow sees all and answers none)."""

    arm: str
    model: str
    share: float
    digest: str
    partition: str
    since: str
    reason: str
    actor: str


@dataclass(frozen=True)
class Change:
    """One row of the history. `number` is its id in the ledger, `share` the challenger's, of others 1 or 0."""

    number: int
    at: str
    event: str
    model: str
    share: float
    digest: str
    partition: str
    reason: str
    actor: str


@dataclass(frozen=True)
class Served:
    """What served at a time, the champion first; every change there ever was, oldest first.

    `open` says what the routing table has and the ledger not yet, after a crash; the next command writes it.
    """

    project: str
    at: str
    arms: tuple[Serving, ...]
    history: tuple[Change, ...]
    open: str = ""

    def plain(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return asdict(self)


def served(workspace: Workspace, at: datetime | None = None) -> Served:
    """What served at a time with an offset (None: now), and the whole history. Raises RoutingError."""
    rows = [row for row in ledger(workspace) if row["event"] in TOLD]
    until = at or datetime.now(UTC)
    arms = _arms([row for row in rows if datetime.fromisoformat(row["at"]) <= until])
    history = tuple(
        Change(
            row["id"], row["at"], row["event"], row["model"], _share(row), row["digest"], row["partition"],
            row["reason"], row["actor"],
        )
        for row in rows
    )  # fmt: skip
    told = until.isoformat(timespec="milliseconds")
    return Served(workspace.project, told, arms, history, "" if at else _open(workspace, arms))


def time_of(text: str) -> datetime:
    """A time from ISO 8601; a day is its beginning, a time without an offset is UTC. Raises ValueError."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"found the time {text!r}; expected ISO 8601, such as 2026-01-31 or 2026-01-31T14:00:00+01:00 (UTC without "
            "an offset)"
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _share(row: Row) -> float:
    """Of the units, that the model of this row answers from then on."""
    return float({"challenger": row["evidence"].get("share", 0), "withdrawn": 0}.get(row["event"], 1))


def _arms(rows: list[Row]) -> tuple[Serving, ...]:
    move = next((row for row in reversed(rows) if row["event"] in MOVES), None)
    if move is None:
        return ()
    trial = rows[-1] if rows[-1]["event"] == "challenger" else None
    share = _share(trial) if trial else 0.0
    arms = [_serving(CHAMPION, 1 - share, move)]
    if trial:
        arms.append(_serving(CHALLENGER if share else SHADOW, share, trial))
    return tuple(arms)


def _serving(arm: str, share: float, row: Row) -> Serving:
    told = row["digest"], row["partition"], row["at"], row["reason"], row["actor"]
    return Serving(arm, row["model"], share, *told)


def _open(workspace: Workspace, arms: tuple[Serving, ...]) -> str:
    table = routed(workspace)
    wanted = list(table.models) if table else []
    if wanted == [arm.model for arm in arms]:
        return ""
    return (
        f"the routing table has {', '.join(wanted) or 'nothing'} and the ledger not yet; the next `dlp serve`, `dlp "
        "run` or `dlp predict` completes it"
    )
