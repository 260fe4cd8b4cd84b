"""`dlp served`, `dlp promote`, `dlp rollback`: what served when, and a person's decisions about it."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Annotated

import typer

from dl_pipelines.cli.frame import HomeOption, JsonOption, Project, brief_of, command, day_of, home_of, output

if TYPE_CHECKING:
    from rich.table import Table

    from dl_pipelines.lifecycle.by_hand import Moved
    from dl_pipelines.serving.served import Served

WIDTH = 200
"""Of the tables in a file or a pipe."""
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the ledger")]


@command
def served(
    project: Project,
    at: Annotated[str | None, typer.Option("--at", help="ISO 8601, UTC without an offset; default: now")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """What serves, or served at a time: models, shares, digests, since when, why, by whom; and every change."""
    with output(as_json) as put:
        from dl_pipelines.cli.screen import console
        from dl_pipelines.serving.served import served as find
        from dl_pipelines.serving.served import time_of
        from dl_pipelines.store.workspace import Workspace

        place = home_of(home)
        found = find(Workspace(place, brief_of(place, project).project), None if at is None else time_of(at))
        screen = console(False)
        if not screen.is_terminal:
            screen.width = WIDTH
        for item in [] if as_json else tables(found):
            screen.print(item)
        put(found.plain())


@command
def promote(
    project: Project,
    evidence: Annotated[int | None, typer.Option(help="Of a comparison or a proposal, by its id")] = None,
    day: Annotated[str | None, typer.Option("--date", help="YYYY-MM-DD: of a published model")] = None,
    experiment: Annotated[str, typer.Option(help="Of that model")] = "base",
    reason: Reason = "",
    force: Annotated[bool, typer.Option("--force", help="Against the evidence, or without; needs --reason")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give the traffic to the challenger that is proposed, or to a published model; a gate that forbids is kept."""
    with output(as_json) as put:
        from dl_pipelines import catalog
        from dl_pipelines.lifecycle.by_hand import Wish, promote_by_hand
        from dl_pipelines.lifecycle.experiment import Rules
        from dl_pipelines.store.workspace import Partition, Workspace

        place = home_of(home)
        brief, at = brief_of(place, project), day_of(day, "--date")
        wish = Wish(getpass.getuser(), evidence, Partition(at, experiment) if at else None, reason, force)
        rules = Rules.of(brief, catalog.task_of(brief))
        moved = promote_by_hand(Workspace(place, brief.project), rules, wish)
        put(moved.plain())
    if not as_json:
        typer.echo(told(project, moved))


@command
def rollback(project: Project, reason: Reason = "", home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Give the traffic back to the version that last served, byte for byte; an experiment under way ends.

    What was rolled back is not gone back to: a second rollback goes one version further.
    """
    with output(as_json) as put:
        from dl_pipelines.lifecycle.by_hand import rollback_by_hand
        from dl_pipelines.store.workspace import Workspace

        place = home_of(home)
        moved = rollback_by_hand(Workspace(place, brief_of(place, project).project), reason, getpass.getuser())
        put(moved.plain())
    if not as_json:
        typer.echo(told(project, moved))


def told(project: str, moved: Moved) -> str:
    """A move as a sentence."""
    if not moved.changed:
        return f"{project}: {moved.model} ({moved.partition}) serves already ({moved.reason})"
    return (
        f"{project}: {moved.model} ({moved.partition}) serves in place of {moved.before or 'nothing'}, after "
        f"{moved.seconds:.2f} s; {moved.files} files are those of its artifact {moved.digest[:16]}; by {moved.actor}: "
        f"{moved.reason}"
    )


def clock(at: str) -> str:
    """A time of the ledger, which is UTC, for a column: to the millisecond, to be torn between day and hour only."""
    return at[:23].replace("T", " ")


def tables(found: Served) -> list[Table | str]:
    """What served, and the history, for a terminal."""
    from rich.table import Table

    if not found.arms and not found.history:
        return [f"{found.project}: nothing has served yet"]
    now = Table(title=f"{found.project} at {found.at}", title_justify="left")
    for name in ("arm", "share", "model", "of, artifact", "since (UTC)", "by", "why"):
        now.add_column(name, overflow="fold")
    for arm in found.arms:
        share = "sees all" if arm.arm == "shadow" else f"{arm.share:.1%}"
        since, by = clock(arm.since)[:19], arm.actor or "-"
        now.add_row(arm.arm, share, arm.model, f"{arm.partition} {arm.digest[:16]}", since, by, arm.reason)
    past = Table(title="every change", title_justify="left")
    for name in ("at (UTC)", "event", "model", "share", "by", "why"):
        past.add_column(name, overflow="fold")
    for row in found.history:
        past.add_row(clock(row.at), row.event, row.model, f"{row.share:.1%}", row.actor or "-", row.reason)
    first: list[Table | str] = [now] if found.arms else [f"{found.project}: nothing served at {found.at}"]
    return [*first, *([found.open] if found.open else []), past]
