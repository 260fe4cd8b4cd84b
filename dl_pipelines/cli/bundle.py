"""What `dlp bundle` does: finds the model, makes the bundle, tells how it compared."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console

from dl_pipelines import catalog
from dl_pipelines.brief import Brief
from dl_pipelines.bundles.base import Options
from dl_pipelines.bundles.make import Bundle, make_bundle
from dl_pipelines.bundles.registry import builder
from dl_pipelines.bundles.source import open_source
from dl_pipelines.cli.partition import find_partition
from dl_pipelines.cli.screen import Screen, plain_table
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Workspace


@dataclass(frozen=True)
class Asked:
    """What the user asked for; `day` None is what serves, else the newest that has a compressed model."""

    brief: Brief
    target: str
    out: Path | None
    day: date | None
    experiment: str
    options: Options
    force: bool


def bundle(home: Home, asked: Asked, screen: Console) -> Bundle:
    """Make it, or find it there already. Raises ValueError and what make_bundle raises."""
    builder(asked.target)
    _require_used(asked)
    brief = catalog.brief_of(home, asked.brief, asked.experiment)
    with Screen(screen) as lines:
        workspace = Workspace(home, brief.project, lines.progress)
        partition = find_partition(workspace, asked.day, asked.experiment)
        task = catalog.task_of(brief)
        source = open_source(workspace, partition, brief.serving, brief.data, task, asked.options)
        out = asked.out or home.bundles / brief.project / partition.slug / asked.target
        made = make_bundle(source, asked.target, out, home.locks, asked.force)
    rows = [(check["name"], check["summary"]) for check in made.manifest["parity"]]
    title = f"{asked.target} bundle of {brief.project} {partition.key}{'' if made.made else ': it was there already'}"
    screen.print(plain_table(title, ("compared", "result"), rows))
    for note in notes(made):
        screen.print(note, markup=False)
    return made


def _require_used(asked: Asked) -> None:
    """That no option was given that the target has no use for. Raises ValueError."""
    given = [
        f"--{field.name.replace('_', '-')}"
        for field in fields(Options)
        if getattr(asked.options, field.name) != field.default
    ]
    if given and asked.target != "cloud":
        raise ValueError(
            f"found {', '.join(given)} with --target {asked.target}; expected it with --target cloud, which is what "
            "it is about; leave it out"
        )


def notes(made: Bundle) -> list[str]:
    """What a person should know of a bundle beyond its parity."""
    facts = made.manifest["facts"]
    told = [f"precision: {facts['precision']} ({facts['why']})"] if "why" in facts else []
    told += [f"ExecuTorch: {facts['executorch']}"] if "executorch" in facts else []
    code = facts.get("c")
    told += [f"C: {code if isinstance(code, str) else code.get('why', 'of ' + code['graph'])}"] if code else []
    told += [f"container and manifests: {facts['container']}"] if "container" in facts else []
    return told


def answer(made: Bundle) -> dict[str, Any]:
    """The `--json` object: where it is, whether it was made now, its manifest."""
    return {**made.manifest, "path": str(made.path), "made": made.made}
