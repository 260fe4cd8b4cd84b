"""Which home a project of a database outside of a home is of: the first one that asks for it. A second one is refused.

Two homes of one project would serve by one ledger, remove each other's old rows and then miss them.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from dl_pipelines.store import durable
from dl_pipelines.store.database import DatabaseError, now
from dl_pipelines.store.home import Home
from dl_pipelines.store.insert import insert_new

if TYPE_CHECKING:
    import sqlalchemy as sa


class OtherHomeError(DatabaseError):
    """The project is another home's in the database; says which and what to do."""


def require_own(connection: sa.Connection, home: Home, project: str) -> None:
    """Note that a project is this home's own, unless it is somebody's already. Raises OtherHomeError.

    Nothing is said of the home's other projects. A home that was moved is the same one; a copy beside it is refused.
    """
    import sqlalchemy as sa

    from dl_pipelines.store.tables import project_homes as table

    own = identity(home)
    query = sa.select(table.c.home, table.c.root).where(table.c.project == project)
    row = connection.execute(query).one_or_none()
    if row is None:
        _require_new(connection, home, project)
        values = {"project": project, "home": own, "root": str(home.root), "at": now()}
        insert_new(connection, table, [values], table.c.project)
        row = connection.execute(query).one()  # somebody may have been faster
    if row.home != own:
        others = connection.execute(sa.select(table.c.project).where(table.c.home == own).limit(1)).first()
        schema = connection.get_execution_options().get("schema_translate_map", {}).get(None)
        name = f"{schema}.{table.name}" if schema else table.name
        anew = f"if it is that home, made anew, write {row.home} into {home.identity}; "
        if others or _identity(Home(Path(row.root))) == row.home:  # it would lose those, or be a copy
            anew = ""
        raise OtherHomeError(
            f"found the project {project} in the database as that of another home ({row.root}); expected one home a "
            "project: two would go by one ledger, and each remove what the other counts on; work with that home, or "
            f"give the project another name, or {home.root} another DLP_DATABASE_URL; {anew}if no "
            f"other home has it any more: UPDATE {name} SET home = '{own}' WHERE project = '{project}'"
        )
    if row.root != str(home.root):
        _require_moved(home, Path(row.root), own)
        connection.execute(table.update().where(table.c.project == project).values(root=str(home.root)))


def _require_new(connection: sa.Connection, home: Home, project: str) -> None:
    """A database of an older version has rows of projects, and none that says whose they are."""
    import sqlalchemy as sa

    from dl_pipelines.store.tables import label_inbox, metadata

    folder = home.artifacts / project
    if folder.is_dir():
        return
    tables = [item for item in metadata.sorted_tables if "project" in item.c and item is not label_inbox]
    queries = (sa.select(item.c.project).where(item.c.project == project).limit(1) for item in tables)
    if any(connection.execute(query).first() for query in queries):  # in the inbox, anybody may have written
        raise OtherHomeError(
            f"found rows of the project {project} in the database that no home has said to be its own, and no {folder}"
            "; expected them to be this home's; run `dlp gc --dry-run` in the home that has the project, or make that "
            "folder if none has it any more"
        )


def refused(connection: sa.Connection, home: Home) -> list[str]:
    """Projects with a brief in this home that are another's in the database, with its place. Notes nothing."""
    import sqlalchemy as sa

    from dl_pipelines.store.tables import project_homes as table

    names = [path.stem for path in sorted(home.briefs.glob("*.yaml"))]
    query = sa.select(table.c.project, table.c.root).where(table.c.project.in_(names), table.c.home != _identity(home))
    return [f"{row.project} ({row.root})" for row in connection.execute(query.order_by(table.c.project))]


def _require_moved(home: Home, before: Path, own: str) -> None:
    if _identity(Home(before)) == own and not before.samefile(home.root):
        raise OtherHomeError(
            f"found {home.root} to be a copy of the home {before}; expected one home a project: two would go by one "
            "ledger, and each remove what the other counts on; work with that home, or remove "
            f"{before / 'home.id'} if this one takes its place, or remove {home.identity}: then "
            "this is another home, with projects of other names or another DLP_DATABASE_URL"
        )


def identity(home: Home) -> str:
    """What tells this home from others, made when it is first asked for. Raises DatabaseError when it can't be."""
    from filelock import FileLock

    try:
        if home.identity.exists():
            return home.identity.read_text(encoding="utf-8").strip()
        home.locks.mkdir(parents=True, exist_ok=True)
        with FileLock(home.locks / "identity.lock"):
            if not home.identity.exists():
                durable.write_text(home.identity, secrets.token_hex(16) + "\n")
            return home.identity.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise DatabaseError(
            f"found {error.strerror or error} at {error.filename or home.root}; expected a home that can be written: "
            f"{home.identity} tells a database that homes share which one this is; give another with --home or DLP_HOME"
        ) from error


def _identity(home: Home) -> str | None:
    """That of a home which may be gone, or on another machine."""
    try:
        return home.identity.read_text(encoding="utf-8").strip()
    except OSError:
        return None
