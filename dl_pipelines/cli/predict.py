"""`dlp predict`: a few files on the screen, or many inputs into a Parquet file, at full speed and with resume."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dl_pipelines.cli.frame import OTHER, HomeOption, JsonOption, Project, brief_of, command, home_of, output, say

if TYPE_CHECKING:
    from dl_pipelines.serving.bulk import Scored
    from dl_pipelines.store.home import Home

Inputs = Annotated[
    list[str],
    typer.Argument(help="Files as the task reads them; with --out also folders, .npy arrays, lists with a column path"),
]


@command
def predict(
    project: Project,
    files: Inputs,
    out: Annotated[
        Path | None, typer.Option("--out", help="Score all of it into FILE.parquet; goes on where it was")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask the project's router for each file; a server that isn't there is started for this command.

    While a challenger is tried it may be the one that answers: to all of a file made with --out, or to none (but for
    requests that it fails to answer). Which model answered is in the log, by the request id.
    """
    place = home_of(home)
    if out is None:
        with output(as_json) as put:
            answers = _few(place, project, files)
            _show(answers, as_json)
            put({"predictions": answers})
        return
    with output(as_json) as put:
        scored = _many(place, project, files, out)
        put({"out": str(out), "rows": scored.rows, "before": scored.before, "failed": dict(scored.failed)})
    if scored.failed:
        raise typer.Exit(OTHER)


def _few(place: Home, project: str, files: list[str]) -> list[dict[str, Any]]:
    import time

    import numpy as np

    from dl_pipelines import catalog
    from dl_pipelines.serving.client import predict as ask
    from dl_pipelines.store.workspace import Workspace

    for path in files:
        if Path(path).is_dir() or path.endswith(".npy"):
            raise ValueError(f"found {path}; expected single files: folders and arrays need --out FILE.parquet")
    task = catalog.task_of(brief_of(place, project))
    inputs = np.stack([task.read_input(path) for path in files])
    ids = [f"predict-{time.time_ns()}-{number}" for number in range(len(files))]
    outputs = ask(Workspace(place, project), task, inputs, ids)
    return [
        {"file": path, "request_id": name, **task.answer(row)}
        for path, name, row in zip(files, ids, outputs, strict=True)
    ]


def _show(answers: list[dict[str, Any]], as_json: bool) -> None:
    from dl_pipelines.cli.screen import console

    for item in [] if as_json else answers:
        facts = ", ".join(f"{key} {shortened(value)}" for key, value in item.items() if key != "file")
        console(False).print(f"{item['file']}: {facts}", markup=False)


def _many(place: Home, project: str, files: list[str], out: Path) -> Scored:
    from dl_pipelines import catalog
    from dl_pipelines.cli.screen import Screen, console
    from dl_pipelines.serving.bulk import NAMED, score
    from dl_pipelines.store.workspace import Workspace

    task = catalog.task_of(brief_of(place, project))
    with Screen(console()) as screen:
        scored = score(Workspace(place, project, screen.progress), task, files, out)
    if scored.anew:
        say("an unfinished run over other inputs, or of another model, was given up: all was scored anew")
    for name, error in scored.failed[:NAMED]:
        say(f"{name}: {error}")
    if len(scored.failed) > NAMED:
        say(f"... and {len(scored.failed) - NAMED} more: see the column error")
    earlier = f", {scored.before} of them by an earlier run" if scored.before else ""
    say(f"{out}: {scored.rows} answers{earlier}; {len(scored.failed)} inputs without one")
    return scored


def shortened(value: Any) -> Any:
    """A long list by its first values and its last one."""
    if not isinstance(value, list) or len(value) <= 5:
        return value
    return f"[{', '.join(map(str, value[:3]))}, ..., {value[-1]}] ({len(value)} values)"
