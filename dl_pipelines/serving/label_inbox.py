"""The label key of a home, and the table `label_inbox`: other systems write labels there, signed with the key.

Who can only ask the server, or even write into the inbox, can't label a prediction: without the key no signature is
right. The key is in the home's file `label.key` and nowhere else; it is in no log, snapshot, command line or report.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dl_pipelines.serving.labels import LabelError, Stored, canonical, fitting_label, keep_first, require_plain
from dl_pipelines.store import durable
from dl_pipelines.store.database import Database, patiently
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.tasks.base import Task

if TYPE_CHECKING:
    import sqlalchemy as sa

KEY_BYTES = 32
BATCH = 1000
_MAKE = "make one with `dlp labels --new-key`"


@dataclass(frozen=True)
class Taken:
    """What became of the inbox: the labels that were `stored`, and how many rows were `refused` and are still there."""

    stored: Stored
    refused: int


def new_key(home: Home) -> str:
    """Make the home's key, 64 hexadecimal digits; only its owner can read the file. Raises LabelError."""
    key = secrets.token_hex(KEY_BYTES)
    home.label_key.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(home.label_key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise LabelError(
            f"found a label key in {home.label_key}; expected none: what was signed with it would no longer count; "
            "remove the file first if that is what you want"
        ) from None
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(key + "\n")
        file.flush()
        os.fsync(file.fileno())
    durable.flush_folder(home.label_key.parent)
    return key


def read_key(home: Home) -> str | None:
    """The home's key, None where it has none. Raises LabelError when others can read it, or it is none."""
    try:
        mode, key = home.label_key.stat().st_mode, home.label_key.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except ValueError:
        mode, key = 0, ""
    if mode & 0o077:
        raise LabelError(
            f"found that others can read {home.label_key} (mode {mode & 0o777:o}); expected 600: the key may be known; "
            f"remove it and {_MAKE}"
        )
    if len(key) < 2 * KEY_BYTES:
        raise LabelError(f"found no whole label key in {home.label_key}; expected 64 digits; remove it and {_MAKE}")
    return key


def require_key(home: Home, given: str | None) -> None:
    """Raises LabelError unless `given` is the home's key. The comparison takes as long whatever was given."""
    key = read_key(home)
    if key is None:
        raise LabelError(
            f"found no label key in {home.root}; expected one: only who has it may label predictions; {_MAKE}"
        )
    if not given or not hmac.compare_digest(given.strip().encode(), key.encode()):
        found = "a label key that is not the home's" if given else "no label key"
        raise LabelError(
            f"found {found}; expected that of {home.label_key}, which `dlp labels --new-key` has shown once; give it "
            "in DLP_LABEL_KEY or in a file with --key-file"
        )


def sign_label(key: str, project: str, request_id: str, label: Any) -> str:
    """The signature of a label: HMAC-SHA256, hexadecimal, of the lines project, request id and `canonical(label)`.

    Neither the first line nor the last can hold a newline, so that no two labels are signed alike.
    """
    text = "\n".join([project, request_id, canonical(label)])
    return hmac.new(key.encode(), text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def take_labels(workspace: Workspace, key: str, task: Task | None = None) -> Taken:
    """Move the labels of the inbox that are signed with the key into `labels`, exactly once; the others stay there.

    A row is refused for its signature, an id that no request can have, or a label that is none of the task's.
    Raises DatabaseError.
    """
    total, last = Taken(Stored(), 0), 0
    with contextlib.closing(Database.of(workspace.home, workspace.project)) as database:
        while True:
            found = patiently(lambda after=last: _take(database, workspace.project, key, task, after), "take labels")
            if found is None:
                return total
            taken, last = found
            total = Taken(total.stored + taken.stored, total.refused + taken.refused)


def _take(database: Database, project: str, key: str, task: Task | None, after: int) -> tuple[Taken, int] | None:
    """One transaction: up to BATCH rows after an id, None when there are none; with the last row's id."""
    import sqlalchemy as sa

    from dl_pipelines.store.tables import label_inbox as table

    with database.begin() as connection:
        kind = connection.dialect.name
        raw = [_raw(column, kind) for column in (table.c.request_id, table.c.label, table.c.signature)]
        query = sa.select(table.c.id, *raw).where(table.c.project == project, table.c.id > after)
        rows = connection.execute(query.order_by(table.c.id).limit(BATCH).with_for_update()).all()
        if not rows:
            return None
        good = {row.id: pair for row in rows if (pair := _pair(row, project, key, task)) is not None}
        stored = keep_first(connection, project, good.values())
        if good:
            connection.execute(table.delete().where(table.c.id.in_(list(good))))
        return Taken(stored, len(rows) - len(good)), rows[-1].id


def _raw(column: sa.Column[Any], kind: str) -> sa.Label[Any]:
    """A column undecoded: what others have written there may be no JSON, in SQLite not even text.

    SQLite keeps a JSON number as a number; a text is fetched as bytes.
    """
    import sqlalchemy as sa

    if kind != "sqlite":
        return sa.cast(column, sa.Text).label(column.name)
    plain = sa.type_coerce(column, sa.LargeBinary)
    return sa.case((sa.func.typeof(column) == "text", sa.cast(column, sa.LargeBinary)), else_=plain).label(column.name)


def _pair(row: sa.Row[Any], project: str, key: str, task: Task | None) -> tuple[str, Any] | None:
    """Request id and label of a row, None when it is refused."""
    try:
        name, signature = _text(row.request_id), _text(row.signature)
        label = json.loads(_text(row.label)) if isinstance(row.label, str | bytes) else row.label
        require_plain(name, label)
        if not hmac.compare_digest(sign_label(key, project, name, label).encode(), signature.encode()):
            return None
        return name, label if task is None else fitting_label(task, label)
    except (ValueError, RecursionError):  # a LabelError, or no JSON
        return None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
