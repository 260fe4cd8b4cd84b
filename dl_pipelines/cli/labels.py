"""`dlp labels`: the true outcomes of live requests, from who has the home's label key."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dl_pipelines.cli.frame import HomeOption, JsonOption, brief_of, command, home_of, output, say

if TYPE_CHECKING:
    from dl_pipelines.serving.labels import Stored
    from dl_pipelines.store.home import Home

KEY_VARIABLE = "DLP_LABEL_KEY"
NAMED = 20


@command
def labels(
    file: Annotated[Path | None, typer.Argument(help="CSV, JSON lines or Parquet with request_id and label")] = None,
    project: Annotated[str, typer.Option("--project", "-p", help="Whose requests they are")] = "",
    key_file: Annotated[Path | None, typer.Option(help=f"Holds the label key; default: {KEY_VARIABLE}")] = None,
    make_key: Annotated[bool, typer.Option("--new-key", help="Make the home's label key, and show it once")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Store labels that came later, by request id; the first one of a request is kept."""
    place = home_of(home)
    if make_key:
        from dl_pipelines.serving.label_inbox import new_key

        typer.echo(new_key(place.prepare()))
        say(f"give it to `dlp labels` in {KEY_VARIABLE}, or in a file with --key-file; it is not shown again")
        return
    if file is None or not project:
        raise ValueError("found no file, or no --project; expected `dlp labels FILE --project PROJECT`, or --new-key")
    with output(as_json) as put:
        stored, unknown = _store(place, project, file, key_file)
        put({"new": stored.new, "known": stored.same, "conflicts": list(stored.conflicts), "unknown": unknown})
    for line in [] if as_json else told(stored, unknown):
        typer.echo(line)


def _store(place: Home, project: str, file: Path, key_file: Path | None) -> tuple[Stored, list[str]]:
    from dl_pipelines import catalog
    from dl_pipelines.cli.label_files import read_labels_file
    from dl_pipelines.serving.label_inbox import require_key
    from dl_pipelines.serving.labels import store_labels, unknown_requests
    from dl_pipelines.store.workspace import Workspace

    workspace = Workspace(place, brief_of(place, project).project)
    require_key(place, _given(key_file))
    pairs = read_labels_file(file, catalog.task_of(brief_of(place, project)))
    stored = store_labels(workspace, pairs)
    return stored, unknown_requests(workspace, [name for name, _ in pairs])


def _given(key_file: Path | None) -> str | None:
    return os.environ.get(KEY_VARIABLE) if key_file is None else key_file.read_text(encoding="utf-8")


def told(stored: Stored, unknown: list[str]) -> list[str]:
    """What became of the labels, a line each."""
    lines = [f"{stored.new} new, {stored.same} known already"]
    if stored.conflicts:
        lines.append(f"{len(stored.conflicts)} in conflict, the first label was kept: {_named(list(stored.conflicts))}")
    if unknown:
        lines.append(f"{len(unknown)} without a request as yet, stored all the same: {_named(unknown)}")
    return lines


def _named(ids: list[Any]) -> str:
    return ", ".join(ids[:NAMED]) + (f" and {len(ids) - NAMED} more" if len(ids) > NAMED else "")
