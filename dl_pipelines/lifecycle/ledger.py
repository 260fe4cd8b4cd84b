"""The ledger of live experiments: rows of `rollouts` by experiment, and the looks at each. It moves no traffic.

A row is added before what it says is done. Its unique key says what it is about: a stage of an experiment begins once,
and an experiment ends once, whichever process comes first.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dl_pipelines.lifecycle.rollout import Evidence
from dl_pipelines.store.database import Database
from dl_pipelines.store.workspace import Workspace

Row = Mapping[str, Any]
STAGE, PROPOSED = "stage", "proposed"
PROMOTED, ROLLED_BACK, STOPPED = "promoted", "rolled_back", "stopped"
GROWTH = 1.01
"""By how much what was seen has to grow for a look that decides nothing new to be kept."""
ENDS = (PROMOTED, ROLLED_BACK, STOPPED)


@dataclass(frozen=True)
class Experiment:
    """One challenger against one publication of a champion: its rows of `rollouts`, oldest first."""

    name: str
    rows: tuple[Row, ...]

    @property
    def first(self) -> Row:
        """Its beginning. `decision` holds `digest` (the challenger's artifact), `version`, and `evidence` by id."""
        return self.rows[0]

    @property
    def champion(self) -> str:
        """The champion's model."""
        return self.first["champion"]

    @property
    def challenger(self) -> str:
        """The challenger's model."""
        return self.first["challenger"]

    @property
    def version(self) -> int:
        """The ledger row of the champion's publication: another one is another experiment."""
        return int(self.first["decision"]["version"])

    @property
    def stage(self) -> Row:
        """The row of its last stage; the id is the routing table's revision."""
        return next(row for row in reversed(self.rows) if row["event"] == STAGE)

    @property
    def proposed(self) -> Row | None:
        """The row that proposes its promotion to a person."""
        return next((row for row in self.rows if row["event"] == PROPOSED), None)

    @property
    def end(self) -> Row | None:
        """The row that ended it: the last one, since a promotion that can't be carried out is stopped after it."""
        return next((row for row in reversed(self.rows) if row["event"] in ENDS), None)

    @property
    def revisions(self) -> frozenset[int]:
        """Ids of its rows."""
        return frozenset(row["id"] for row in self.rows)


def name_of(champion: str, challenger: str, version: int) -> str:
    """What an experiment is called: the models without their project, and the champion's publication."""
    first, second = (model.rpartition("__")[2] for model in (challenger, champion))
    return f"{first}-vs-{second}-{version}"


def experiments(workspace: Workspace) -> list[Experiment]:
    """Every experiment of the project, in the order in which they began."""
    from dl_pipelines.store.tables import rollouts

    found: dict[str, list[Row]] = {}
    for row in _rows(workspace, rollouts):
        found.setdefault(row["experiment"], []).append(row)
    return [Experiment(name, tuple(rows)) for name, rows in found.items()]


def running(workspace: Workspace) -> Experiment | None:
    """The experiment that has not ended, or None."""
    return next((item for item in reversed(experiments(workspace)) if item.end is None), None)


def newest(workspace: Workspace, name: str) -> Experiment:
    """An experiment as it is now."""
    return next(item for item in experiments(workspace) if item.name == name)


def add(workspace: Workspace, key: str, **values: Any) -> bool:
    """Add a row of `rollouts`; False when its key is there already."""
    from dl_pipelines.store.tables import rollouts

    values["decision"] = finite(values["decision"])
    with contextlib.closing(Database.of(workspace.home, workspace.project)) as database:
        return database.append_once(rollouts, project=workspace.project, key=key, **values)


def looks(workspace: Workspace, experiment: str | None = None) -> list[Row]:
    """The looks at an experiment, or at all of the project's, oldest first."""
    from dl_pipelines.store.tables import rollout_looks

    return _rows(workspace, rollout_looks, **({"experiment": experiment} if experiment else {}))


def add_look(workspace: Workspace, experiment: Experiment, evidence: Evidence, decision: Mapping[str, Any]) -> bool:
    """Store a look, unless the one before it said the same of hardly less; True when it was stored.

    Looks are taken as often as one likes: by GROWTH, a stage keeps some hundreds of them however long it lasts.
    """
    import sqlalchemy as sa

    from dl_pipelines.store.database import now
    from dl_pipelines.store.tables import rollout_looks as table

    stage = experiment.stage["stage"]
    with contextlib.closing(Database.of(workspace.home, workspace.project)) as database, database.begin() as connection:
        query = sa.select(table.c.evidence, table.c.decision).order_by(table.c.id.desc()).limit(1)
        last = connection.execute(query.where(table.c.experiment == experiment.name, table.c.stage == stage)).first()
        if last and last.decision["action"] == decision["action"]:
            before, size = _size(Evidence.of(last.evidence)), _size(evidence)
            if size <= before or size < GROWTH * before:
                return False
        connection.execute(
            table.insert().values(
                project=workspace.project, experiment=experiment.name, stage=stage, at=now(),
                evidence=finite(evidence.plain()), decision=finite(decision),
            )
        )  # fmt: skip
    return True


def _size(evidence: Evidence) -> int:
    """Units seen and units judged, of both arms."""
    return sum(arm.units + arm.labelled for arm in (evidence.champion, evidence.challenger))


def withdrawn(workspace: Workspace) -> dict[int, str]:
    """When challengers were taken out of the traffic, by the id of the row that ended their experiment."""
    from dl_pipelines.serving.champion import ledger

    rows = [row for row in ledger(workspace) if row["event"] == "withdrawn"]
    return {row["evidence"]["revision"]: row["at"] for row in rows}


def finite(value: Any) -> Any:
    """Plain data that JSON can hold: None for a number that is none."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _rows(workspace: Workspace, table: Any, **equal: Any) -> list[Row]:
    with contextlib.closing(Database.of(workspace.home, workspace.project)) as database:
        return database.rows(table, project=workspace.project, **equal)
