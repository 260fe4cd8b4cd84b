"""Which home a project of a database outside of a home is of: the first one that has it. A second one is refused.

Two homes of one project would serve by one ledger, remove each other's old rows and then miss them.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from dl_pipelines.store import durable
from dl_pipelines.store.home import Home
from dl_pipelines.store.insert import insert_new

if TYPE_CHECKING:
    import sqlalchemy as sa


class OtherHomeError(ValueError):
    """A project of this home is another home's in the database; says which and what to do."""


def require_own(connection: sa.Connection, home: Home) -> None:
    """Note that the projects which this home has artifacts of are its own. Raises OtherHomeError.

    A home that was moved is the same one; so is a copy of it.
    """
    import sqlalchemy as sa

    from dl_pipelines.store.database import now
    from dl_pipelines.store.tables import project_homes as table

    projects = sorted(path.name for path in home.artifacts.glob("*") if path.is_dir())
    if not projects:
        return
    own = identity(home)
    query = sa.select(table.c.project, table.c.home, table.c.root).where(table.c.project.in_(projects))
    known = {row.project: row for row in connection.execute(query)}
    if missing := [name for name in projects if name not in known]:
        rows = [{"project": name, "home": own, "root": str(home.root), "at": now()} for name in missing]
        insert_new(connection, table, rows, table.c.project)
        known = {row.project: row for row in connection.execute(query)}  # somebody may have been faster
    for name, row in known.items():
        if row.home != own:
            raise OtherHomeError(
                f"found the project {name} in the database as that of another home ({row.root}); expected one home a "
                f"project: two would go by one ledger, and each remove what the other counts on; give {home.root} "
                "another DLP_DATABASE_URL, or the project another name; if it is that home, made anew, write "
                f"{row.home} into {home.identity}"
            )


def identity(home: Home) -> str:
    """What tells this home from others, made when it is first asked for."""
    from filelock import FileLock

    home.locks.mkdir(parents=True, exist_ok=True)
    with FileLock(home.locks / "identity.lock"):
        if not home.identity.exists():
            durable.write_text(home.identity, secrets.token_hex(16) + "\n")
        return home.identity.read_text(encoding="utf-8").strip()
