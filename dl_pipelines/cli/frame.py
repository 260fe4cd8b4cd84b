"""What every command shares: options, exit codes, errors as a sentence, the one JSON object, the home, the brief."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from dl_pipelines.brief import Brief, BriefError
from dl_pipelines.store.home import Home

ROOT = Path(__file__).resolve().parents[2]
MET, OTHER, INPUT, MISSED = 0, 1, 2, 3

HomeOption = Annotated[Path | None, typer.Option("--home", help="The home; default DLP_HOME, else .dlp")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output")]
File = Annotated[Path, typer.Argument(help="A brief, YAML")]
Project = Annotated[str, typer.Argument(help="A project that was run in this home, or has a brief in briefs/")]


def command(run: Callable[..., Any]) -> Callable[..., Any]:
    """Turn errors into a sentence and an exit code: no traceback for what a user can fix."""

    @functools.wraps(run)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        try:
            return run(*arguments, **options)
        except KeyboardInterrupt:
            say("interrupted; what this command started has ended")
            raise typer.Exit(OTHER) from None
        except (ValueError, OSError) as error:
            say(f"error: {_full(error) or error}")
            raise typer.Exit(INPUT if _of_input(error) else OTHER) from None
        except _database_errors() as error:
            if not (full := _full(error)):
                raise
            say(f"error: {full}")
            raise typer.Exit(OTHER) from None

    return wrapped


def _database_errors() -> type[Exception]:
    """What Dagster's storage and ours raise; imported when something was raised."""
    from sqlalchemy.exc import SQLAlchemyError

    return SQLAlchemyError


def _full(error: Exception) -> str | None:
    """What to tell of a full disk."""
    from dl_pipelines.store.space import no_space

    return no_space(error, os.environ.get("DLP_HOME"))


def _of_input(error: Exception) -> bool:
    """A brief, an argument or the user's data; what a stage refuses or a server lacks is not."""
    from dl_pipelines.data.sources.base import SourceError
    from dl_pipelines.serving.client import PredictError
    from dl_pipelines.serving.labels import LabelError

    return isinstance(error, BriefError | SourceError | PredictError | LabelError) or type(error) is ValueError


def say(text: str) -> None:
    """A sentence for a person, to standard error."""
    from dl_pipelines.cli.screen import console

    console().print(text, markup=False)


@contextlib.contextmanager
def output(as_json: bool) -> Iterator[Callable[[Any], None]]:
    """Where the one JSON object goes: while it is open, whatever else writes to standard output goes to the error."""
    if not as_json:
        yield lambda _: None
        return
    sys.stdout.flush()
    try:
        kept, target = os.dup(1), sys.stdout
        os.dup2(2, 1)
    except OSError:
        yield lambda value: typer.echo(json.dumps(value))
        return
    value: list[Any] = []
    try:
        yield value.append
    finally:
        target.flush()
        os.dup2(kept, 1)
        os.close(kept)
        for item in value:
            typer.echo(json.dumps(item))


def day_of(text: str | None, option: str) -> date | None:
    """A day as it was given, or None. Raises ValueError."""
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"found {option} {text!r}; expected YYYY-MM-DD") from None


def home_of(given: Path | None) -> Home:
    """The home that a command works in; the stages find it too."""
    home = Home.find(given)
    os.environ["DLP_HOME"] = str(home.root)
    return home


def brief_of(home: Home, project: str) -> Brief:
    """The brief of a project: its snapshot in the home, else the one in briefs/. Raises ValueError."""
    from dl_pipelines import catalog

    snapshot = home.briefs / f"{project}.yaml"
    if snapshot.exists():
        return catalog.load_brief(snapshot)
    known = {path.stem for path in home.briefs.glob("*.yaml")}
    for path in sorted((ROOT / "briefs").glob("*.yaml")):
        brief = catalog.load_brief(path)
        known.add(brief.project)
        if brief.project == project:
            return brief
    raise ValueError(
        f"found no project {project!r} in {home.root}; expected one of {', '.join(sorted(known)) or 'none yet'}; "
        "run `dlp run` for its brief first"
    )
